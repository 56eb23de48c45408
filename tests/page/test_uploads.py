"""Images that visitors upload: what is read, what is refused, and what no image can hold up."""

from __future__ import annotations

import io
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import descscore.page.uploads as uploads
from descscore.errors import ImageError
from descscore.images import PixelSpec, load_image, picture_pixels
from descscore.page.uploads import AT_ONCE, MAX_BYTES, MAX_SCANS, UploadDecoder, prepare
from pictures import make_photo

SPECS = [
    PixelSpec(32, 32, "squash"),
    PixelSpec(32, 32, "shortest"),
    PixelSpec(20, 30, "shortest"),
    PixelSpec(24, 32, "longest"),
]


@pytest.fixture(scope="module")
def decoder() -> Iterator[UploadDecoder]:
    decoder = UploadDecoder(SPECS[0])
    yield decoder
    decoder.close()


def png(size: tuple[int, int], mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def saved(kind: str, **more: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(buffer, kind, **more)
    return buffer.getvalue()


def progressive(scans: int) -> bytes:
    """A JPEG file whose last scan comes again and again."""
    data = saved("JPEG", progressive=True)
    begin = data.rindex(b"\xff\xda")
    return data[:begin] + data[begin:-2] * (scans - data.count(b"\xff\xda") + 1) + data[-2:]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_model_gets_the_same_pixels_as_from_the_file(spec: PixelSpec, tmp_path: Path) -> None:
    make_photo(tmp_path / "a.png", seed=1)
    decoder = UploadDecoder(spec)
    try:
        image = decoder.read((tmp_path / "a.png").read_bytes())
    finally:
        decoder.close()
    expected = picture_pixels(load_image(tmp_path / "a.png"), spec)
    np.testing.assert_array_equal(picture_pixels(image, spec), expected)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "MPO"])
def test_an_upload_is_read(kind: str, decoder: UploadDecoder) -> None:
    image = decoder.read(saved(kind))
    assert (image.size, image.mode) == ((32, 32), "RGB")


@pytest.mark.parametrize("kind", ["EPS", "TIFF", "PCX", "PPM", "TGA", "ICO", "PDF"])
def test_formats_that_no_browser_shows_are_not_even_tried(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands EPS files to another program, Ghostscript."""
    data = saved(kind)
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(ImageError) as error:
        prepare(data, SPECS[0])
    assert error.value.kind == "not_an_image"


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "is empty"),
        (b"/etc/passwd", "not an image"),
        (b"%PDF-1.7 no image", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "not an image"),
        (png((300, 200))[:200], "damaged or incomplete"),
        (png((12_000, 6_000), "1"), "more than 60 million pixels"),
        (png((100_000, 5_000), "1"), "more than 60 million pixels"),
        (progressive(MAX_SCANS + 1), "too many scans"),
        (b"x" * (MAX_BYTES + 1), "larger than 20 MB"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_bad_upload_says_what_to_do(sent: bytes, reason: str, decoder: UploadDecoder) -> None:
    with pytest.raises(ImageError, match=reason):
        decoder.read(sent)


def test_ordinary_progressive_files_are_read(decoder: UploadDecoder) -> None:
    assert decoder.read(saved("JPEG", progressive=True)).size == (32, 32)
    assert decoder.read(progressive(30)).size == (32, 32)


def slow_jpeg() -> bytes:
    """A small file that claims 59 million pixels, with a pass over them for each of its scans."""
    data = bytearray(progressive(MAX_SCANS))
    frame = data.index(b"\xff\xc2")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 7700, 7700)
    return bytes(data)


def test_an_image_that_takes_long_holds_up_nobody_and_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "TIME_LIMIT", 1.0)
    decoder = UploadDecoder(SPECS[0])
    try:
        decoder.read(saved("PNG"))
        data, kinds = slow_jpeg(), []
        assert len(data) < 100_000

        def read() -> None:
            with pytest.raises(ImageError) as error:
                decoder.read(data)
            kinds.append(error.value.kind)

        slow = [threading.Thread(target=read) for _ in range(AT_ONCE - 1)]
        for thread in slow:
            thread.start()
        time.sleep(0.2)
        assert decoder.read(saved("PNG")).size == (32, 32)
        assert kinds == []  # they are still at it
        for thread in slow:
            thread.join()
        assert kinds == ["image_timeout"] * len(slow)
        for _ in range(AT_ONCE):
            assert decoder.read(saved("PNG")).size == (32, 32)
    finally:
        decoder.close()
