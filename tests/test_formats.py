"""Which files are read, what the others are called, and that no other program is ever started."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from picture_files import saved, tiff
from PIL import EpsImagePlugin, Image

from descscore.errors import ImageError
from descscore.formats import IMAGE_FORMATS, IMAGE_SUFFIXES, UNREAD_SUFFIXES
from descscore.images import load_image

RED = Image.new("RGB", (32, 24), "red")


def refusal(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(data)
    assert caught.value.kind == "not_an_image"
    return str(caught.value)


def test_no_program_is_started_for_postscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = tmp_path / "started"
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {started}\nexit 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(saved(RED, "EPS"))
    with pytest.raises(ImageError, match=r"photo\.jpg: PostScript: not read; convert it$") as caught:
        load_image(photo)
    assert caught.value.kind == "not_an_image"
    with pytest.raises(ImageError):
        load_image(Image.open(photo))
    assert not started.exists()
    with pytest.raises(subprocess.CalledProcessError):  # so it ran: Pillow would have started it
        Image.open(photo).load()
    assert started.exists()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 99,
            "HEIC: not read; convert it or install pillow-heif",
        ),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + b"\0" * 99, "HEIC: not read"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0" * 99, "JPEG XL"),
        (b"\xff\x0a" + b"\0" * 99, "JPEG XL"),
        (b"II\xbc\x01" + b"\0" * 99, "JPEG XR"),
        (b"VCLMTF\x01\0" + b"\0" * 99, "StarView metafile"),
        (b"%PDF-1.7\n" + b"x" * 99, "PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?>\n<!-- made -->\n<svg/>", "SVG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><svg />", "SVG"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (b"8BPS\0\x01" + b"\0" * 99, "Photoshop"),
        (b"gimp xcf v011\0" + b"\0" * 99, "GIMP"),
        (b"II*\0\x10\0\0\0CR\x02\0" + b"\0" * 99, "a camera's raw file"),
        (b"FUJIFILMCCD-RAW 0201" + b"\0" * 99, "a camera's raw file"),
        (b"\0\0\0\x18ftypisom\0\0\x02\0isommp41" + b"\0" * 99, "a video"),
        (b"\x1aE\xdf\xa3" + b"\0" * 99, "a video"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"PK\x03\x04" + b"\0" * 99, "ZIP"),
        (b'{"error": "no such image"}', "JSON"),
        (saved(RED, "EPS"), "PostScript"),
        (saved(RED, "PDF"), "PDF"),
        (saved(RED, "DDS"), "DirectDraw"),
        (b"some text", "not an image that can be read"),
    ],
    ids=lambda value: repr(value[:12]) if isinstance(value, bytes) else "",
)
def test_a_file_of_another_format_is_called_what_it_is(data: bytes, kind: str) -> None:
    assert kind in refusal(data)


def test_the_preview_in_a_raw_file_is_not_the_picture() -> None:
    """Such files are TIFF files, whose first picture is small."""
    pixels = RED.tobytes()
    preview = {258: [8, 8, 8], 262: [2], 277: [3]}
    assert load_image(tiff(pixels, RED.size, preview)).size == RED.size
    assert "a camera's raw file" in refusal(tiff(pixels, RED.size, {**preview, 50706: 1}))
    assert "a camera's raw file" in refusal(tiff(pixels, RED.size, {**preview, 254: 1, 330: 8}))


@pytest.mark.parametrize("form", ["MSP", "SPIDER", "XBM", "FITS", "IM"])
def test_formats_outside_the_list_are_not_read(form: str) -> None:
    assert form not in IMAGE_FORMATS
    if form == "FITS":
        data = b"SIMPLE  =                    T" + b" " * 2850
    else:
        data = saved(RED.convert({"MSP": "1", "XBM": "1", "SPIDER": "F"}.get(form, "RGB")), form)
    Image.open(io.BytesIO(data)) if form != "FITS" else None  # Pillow itself would read it
    refusal(data)


def test_every_ending_is_in_one_list_and_is_read() -> None:
    assert not IMAGE_SUFFIXES & UNREAD_SUFFIXES
    Image.init()
    for suffix in IMAGE_SUFFIXES - {".mpo"}:
        assert Image.EXTENSION[suffix] in IMAGE_FORMATS
    assert ".heic" in UNREAD_SUFFIXES | IMAGE_SUFFIXES


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path: Path) -> None:
    """A stand-in for that package, which reads PNG data behind a mark of HEIC."""
    (tmp_path / "pillow_heif.py").write_text(
        "import io\n"
        "from PIL import Image\n"
        "def register_heif_opener():\n"
        "    def opened(file, name):\n"
        "        image = Image.open(io.BytesIO(file.read()[24:]))\n"
        "        image.load()\n"
        "        return image\n"
        "    Image.register_open('HEIF', opened, lambda start: start[4:12] == b'ftypheic')\n"
    )
    photo = tmp_path / "a.heic"
    photo.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + saved(RED, "PNG"))
    code = (
        "import sys\n"
        "from descscore.formats import IMAGE_SUFFIXES\n"
        "from descscore.images import load_image\n"
        "image = load_image(sys.argv[1])\n"
        "print(image.getpixel((3, 3)), '.heic' in IMAGE_SUFFIXES)\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code, str(photo)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.stdout.strip() == "(255, 0, 0) True"
    assert np.asarray(RED)[3, 3].tolist() == [255, 0, 0]
