"""Every kind of image ends as what a person would see, and every bad one as an error that names it."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageFile

from descscore import images
from descscore.errors import ImageError, ModelError
from descscore.images import load_image, picture_pixels, pixel_spec
from descscore.tables.rows import find_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


def halves(left: tuple[int, ...], right: tuple[int, ...], mode: str = "RGB") -> Image.Image:
    """40 x 20 pixels, the left and right half of one colour each."""
    image = Image.new(mode, (40, 20), left)
    image.paste(right, (20, 0, 40, 20))
    return image


def pixel(image: Image.Image, x: int, y: int = 10) -> np.ndarray:
    return np.asarray(image)[y, x].astype(int)


def close(image: Image.Image, left: tuple[int, ...], right: tuple[int, ...], tolerance: int = 3) -> bool:
    image_is_rgb = image.mode == "RGB" and image.size == (40, 20)
    near = all(
        np.abs(pixel(image, x) - np.array(colour)).max() <= tolerance
        for x, colour in ((8, left), (32, right))
    )
    return image_is_rgb and near


def deep(mode: str) -> Image.Image:
    """1200 x 1100 pixels of that mode, of all its values."""
    ramp = np.linspace(0, 1, 1200 * 1100).reshape(1100, 1200)
    if mode == "I;16":
        return Image.fromarray((ramp * 65535).astype(np.uint16))
    if mode == "I":
        return Image.fromarray((ramp * 9e5 - 100).astype(np.int32))
    if mode == "F":
        return Image.fromarray((ramp * 7 - 3).astype(np.float32))
    grey = Image.fromarray((ramp * 255).astype(np.uint8))
    if mode == "P":
        image = grey.convert("P")
        image.info["transparency"] = 7
        return image
    return Image.merge("RGBA", [grey, grey.rotate(180), grey, grey.transpose(Image.Transpose.ROTATE_180)])


@pytest.mark.parametrize("mode", ["I;16", "I", "F", "P", "RGBA"])
def test_a_large_image_is_converted_as_a_small_one(mode: str) -> None:
    """In parts, so that it takes less memory: no seams, and one scale of grey for all parts."""
    image = deep(mode)
    whole = np.asarray(load_image(image))
    rows = [slice(0, 50), slice(540, 560), slice(1050, 1100)]
    if mode in ("P", "RGBA"):
        for part in rows:
            small = image.crop((0, part.start, 1200, part.stop))
            assert np.array_equal(np.asarray(load_image(small)), whole[part])
        return
    grey = whole[:, :, 0].astype(int)
    assert (grey[0, 0], grey[-1, -1]) == (0, 255)
    assert np.abs(grey - np.linspace(0, 255, 1200 * 1100).reshape(1100, 1200)).max() <= 1


def test_a_deep_grey_image_takes_few_bytes_a_pixel(tmp_path: Path) -> None:
    """40 million pixels of 16 bit once took 1.3 GB; the promise is 12 bytes a pixel."""
    Image.fromarray(np.zeros((5000, 8000), np.uint16)).save(tmp_path / "a.png", compress_level=1)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from descscore.images import load_image\n"
        "def peak(): return int(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])\n"
        "load_image(sys.argv[1])\n"
        "before = peak()\n"
        "load_image(sys.argv[2])\n"
        "print(peak() - before)\n"
    )
    Image.fromarray(np.zeros((5, 8), np.uint16)).save(tmp_path / "small.png")
    command = [sys.executable, "-c", code, str(tmp_path / "small.png"), str(tmp_path / "a.png")]
    kilobytes = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 3 * 40_000_000 < kilobytes * 1024 < 12 * 40_000_000


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "JPEG2000"])
def test_a_format_whose_decoder_takes_much_memory_has_a_lower_limit(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = Image.new("RGB", (300, 200), "red")
    picture.save(tmp_path / "plain.png")
    options = {"progressive": True} if form == "JPEG" else {}
    picture.save(tmp_path / "costly", form, **options)
    monkeypatch.setattr(images, "MAX_MEMORY", 300 * 200 * 12)
    assert load_image(tmp_path / "plain.png").size == (300, 200)
    with pytest.raises(
        ImageError, match=rf"costly: 300x200 pixels of {form} take over 720,000 bytes"
    ) as caught:
        load_image(tmp_path / "costly")
    assert caught.value.kind == "image_too_large"


def test_a_decoder_without_memory_costs_its_own_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves(RED, BLUE).save(tmp_path / "a.png")

    def out_of_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", out_of_memory)
    with pytest.raises(ImageError, match=r"a\.png: takes more memory than there is") as caught:
        load_image(tmp_path / "a.png")
    assert caught.value.kind == "image_too_large"


def test_plain_rgb_is_untouched(tmp_path: Path) -> None:
    image = halves(RED, BLUE)
    image.save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.png")), np.asarray(image))
    assert np.array_equal(np.asarray(load_image(str(tmp_path / "a.png"))), np.asarray(image))
    assert np.array_equal(np.asarray(load_image((tmp_path / "a.png").read_bytes())), np.asarray(image))
    assert np.array_equal(np.asarray(load_image(image)), np.asarray(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = Image.new("RGB", (30, 20), WHITE)
    upright.paste(RED, (0, 0, 10, 5))  # marks the top left corner
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.png")), np.asarray(upright))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    image = halves((0, 0, 0, 255), (0, 0, 0, 0), "RGBA").convert("LA")
    image = image.convert(mode) if mode != "PA" else _palette_alpha()
    assert close(load_image(image), (0, 0, 0), WHITE)


def _palette_alpha() -> Image.Image:
    image = Image.new("PA", (40, 20), (0, 255))
    image.putpalette([0, 0, 0] * 256)
    image.paste((0, 0), (20, 0, 40, 20))
    return image


def test_half_transparent_is_mixed_with_white() -> None:
    assert close(load_image(halves((255, 0, 0, 128), (0, 0, 255, 255), "RGBA")), (255, 127, 127), BLUE)


def test_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    image = halves(RED, BLUE).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    index = image.getpixel((32, 10))
    image.save(tmp_path / "a.gif", transparency=index)
    assert close(load_image(tmp_path / "a.gif"), RED, WHITE)


def test_rgb_png_with_a_transparent_colour(tmp_path: Path) -> None:
    halves(RED, BLUE).save(tmp_path / "a.png", transparency=BLUE)
    assert close(load_image(tmp_path / "a.png"), RED, WHITE)


@pytest.mark.parametrize("mode", ["P", "YCbCr", "HSV", "CMYK", "1", "L", "RGBX"])
def test_other_modes(mode: str) -> None:
    grey = mode in ("1", "L")
    left, right = ((0, 0, 0), WHITE) if grey else (RED, BLUE)
    assert close(load_image(halves(left, right).convert(mode)), left, right)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    halves(RED, BLUE).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert close(load_image(tmp_path / "a.jpg"), RED, BLUE, tolerance=12)


def test_lab_tiff(tmp_path: Path) -> None:
    image = Image.merge("LAB", [Image.new("L", (40, 20), v) for v in (255, 128, 128)])
    image.save(tmp_path / "a.tif")
    assert close(load_image(tmp_path / "a.tif"), WHITE, WHITE)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_keeps_its_range(tmp_path: Path, suffix: str) -> None:
    values = np.zeros((20, 40), np.uint16)
    values[:, 20:] = 51400  # 200 of 255
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    assert close(load_image(tmp_path / f"a.{suffix}"), (0, 0, 0), (200, 200, 200), tolerance=0)


def test_dark_16_bit_grey_stays_dark() -> None:
    values = np.full((20, 40), 200, np.uint16)
    assert close(load_image(Image.fromarray(values)), (1, 1, 1), (1, 1, 1), tolerance=0)


def test_float_grey(tmp_path: Path) -> None:
    values = np.zeros((20, 40), np.float32)
    values[:, 20:] = 1.0
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert close(load_image(tmp_path / "a.tif"), (0, 0, 0), WHITE)
    assert close(load_image(Image.fromarray(values * 5000 - 700)), (0, 0, 0), WHITE)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    halves(RED, BLUE).save(path, save_all=True, append_images=[halves(WHITE, WHITE)], **options)
    assert close(load_image(path), RED, BLUE)
    opened = Image.open(path)
    opened.seek(1)
    assert close(load_image(opened), RED, BLUE)
    assert opened.tell() == 1  # the caller's image is left at its frame


def test_damaged_exif_does_not_hide_the_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for tags in (
        b"Exif\0\0garbage",
        b"Exif\0\0" + rng.bytes(200),
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 40,
    ):
        halves(RED, BLUE).save(tmp_path / "a.jpg", quality=100, exif=tags)
        assert close(load_image(tmp_path / "a.jpg"), RED, BLUE, tolerance=12)


def test_arrays() -> None:
    rgb = np.asarray(halves(RED, BLUE))
    assert close(load_image(rgb), RED, BLUE, 0)
    assert close(load_image(rgb[:, ::-1]), BLUE, RED, 0)  # a view with negative strides
    assert close(load_image(rgb / 255.0), RED, BLUE, 0)
    for order in "<>":
        assert close(load_image((rgb.astype(np.uint16) * 257).astype(f"{order}u2")), RED, BLUE, 0)
    grey = rgb[:, :, 0]
    assert close(load_image(grey), WHITE, (0, 0, 0), 0)
    assert close(load_image(grey[:, :, None]), WHITE, (0, 0, 0), 0)
    assert close(load_image(grey > 0), WHITE, (0, 0, 0), 0)
    alpha = np.dstack([rgb, grey])
    assert close(load_image(alpha), RED, WHITE, 0)


def fails(source: object, kind: str, *mentions: str) -> None:
    with pytest.raises(ImageError) as caught:
        load_image(source)  # type: ignore[arg-type]
    assert caught.value.kind == kind
    for mention in mentions:
        assert mention in str(caught.value)


def test_missing_empty_folder_and_not_an_image(tmp_path: Path) -> None:
    fails(tmp_path / "no.jpg", "missing_image", "no.jpg", "no such file")
    (tmp_path / "empty.jpg").touch()
    fails(tmp_path / "empty.jpg", "empty_image", "empty.jpg")
    fails(b"", "empty_image")
    fails(tmp_path, "not_an_image", str(tmp_path), "folder")
    (tmp_path / "a.jpg").write_text("hello, this is text")
    fails(tmp_path / "a.jpg", "not_an_image", "a.jpg")
    fails("", "missing_image")
    fails("a\0b", "missing_image")
    fails("é" * 200, "unreadable_image", "File name too long")
    fails("a b" * 2000, "bad_image_type", "is too long for a path")
    fails("/9j/4AAQ" + "A" * 40_000, "bad_image_type", "40,008 characters that looks like base64 data")
    fails(tmp_path / "a.jpg" / "b.jpg", "missing_image")


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tif", "bmp"])
def test_truncated(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, format={"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert caught.value.kind in ("damaged_image", "not_an_image")
    assert f"cut.{suffix}" in str(caught.value)


def test_every_truncation_is_an_image_or_an_image_error(photo: Path) -> None:
    data = photo.read_bytes()
    for length in range(1, len(data), 37):
        try:
            assert load_image(data[:length]).mode == "RGB"
        except ImageError as error:
            assert error.kind in ("damaged_image", "not_an_image")


def test_random_damage_never_raises_anything_else(photo: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    png = tmp_path / "a.png"
    load_image(photo).save(png)
    for source in (photo, png):
        for _ in range(100):
            data = bytearray(source.read_bytes())
            for place in rng.integers(0, len(data), 8):
                data[place] = rng.integers(256)
            try:
                load_image(bytes(data))
            except ImageError as error:
                assert error.kind in ("damaged_image", "not_an_image", "image_too_large")


def test_decompression_bomb(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (20000, 20000)).save(path)
    assert path.stat().st_size < 100_000
    fails(path, "image_too_large", "bomb.png", "400000000 pixels")
    with pytest.raises(ImageError, match="20x30 pixels, over the limit of 599"):
        load_image(Image.new("L", (20, 30)), max_pixels=599)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        *((url, "download") for url in ("http://a.org/b.jpg", "HTTPS://a.org/b.jpg", "s3://b/c.png")),
        ("data:image/png;base64,AAAA", "save it as a file"),
        ("file:///tmp/my%20x.jpg", "write the path /tmp/my x.jpg"),
        ("FILE:/tmp/x.jpg", "write the path /tmp/x.jpg"),
        ("file://server/share/x.jpg", "give the file's path"),
    ],
)
def test_urls_are_never_fetched(url: str, advice: str) -> None:
    fails(url, "url_not_supported", url, advice)
    with pytest.raises(ImageError, match=re.escape(advice)):
        find_image("/", url)


@pytest.mark.parametrize(
    ("array", "mention"),
    [
        (np.zeros((3, 20, 40), np.uint8), "3x20x40"),
        (np.zeros(7, np.uint8), "7"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.full((4, 4), 1.5), "1.5"),
        (np.full((4, 4), np.nan), "nan"),
        (np.zeros((4, 4), np.int64), "int64"),
    ],
)
def test_bad_arrays(array: np.ndarray, mention: str) -> None:
    fails(array, "bad_array", mention)


def test_wrong_types() -> None:
    fails(None, "bad_image_type", "NoneType")
    fails(7, "bad_image_type", "int")


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@settings(deadline=None, max_examples=150)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    size=st.sampled_from([32, 33, (32, 48), (47, 31), (32, 32)]),
    mode=st.sampled_from(["shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
)
def test_pixels_equal_open_clips_transform_to_the_bit(
    width: int, height: int, size: Any, mode: str, interpolation: str
) -> None:
    if mode == "longest" and max(width, height) > 30 * min(width, height):
        return  # a side would round to nothing, which open_clip cannot do; ours has one pixel
    config = {"size": size, "resize_mode": mode, "interpolation": interpolation, "fill_color": 7}
    image = noise(width, height)
    original = image_transform_v2(PreprocessCfg(**config), is_train=False)
    cut = [step for step in original.transforms if type(step).__name__ not in ("MaybeToTensor", "Normalize")]
    expected = image
    for step in cut:
        expected = step(expected)
    found = picture_pixels(image, pixel_spec(config))
    assert np.array_equal(found, np.asarray(expected))


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [224, (224, 200)])
@pytest.mark.parametrize("turned", [False, True])
def test_a_line_of_pixels_takes_no_gigabytes(mode: str, size: Any, turned: bool) -> None:
    """Fitted by its shorter edge, a small file with a line of 30,000 pixels would take 6 GB."""
    spec = pixel_spec({"size": size, "resize_mode": mode, "interpolation": "bicubic"})
    for length in (300, 30_000):
        line = Image.new("RGB", (length, 1) if turned else (1, length), "red")
        if mode == "shortest" and length > 300:
            mention = f"{line.width}x{line.height} pixels take over 2,147,483,648 bytes to resize"
            with pytest.raises(ImageError, match=mention) as caught:
                picture_pixels(line, spec)
            assert caught.value.kind == "image_too_large"
        else:
            assert picture_pixels(line, spec).shape == (spec.height, spec.width, 3)


def test_what_lies_between_the_two_passes_of_resizing_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = pixel_spec({"size": 224, "resize_mode": "squash", "interpolation": "bicubic"})
    monkeypatch.setattr(images, "MAX_MEMORY", 4 << 20)
    with pytest.raises(ImageError, match="1x10000 pixels"):
        picture_pixels(Image.new("RGB", (1, 10_000)), spec)
    assert picture_pixels(Image.new("RGB", (100, 100)), spec).shape == (224, 224, 3)


def test_an_unknown_resize_mode_is_refused() -> None:
    with pytest.raises(ModelError, match="'stretch'"):
        pixel_spec({"size": 32, "resize_mode": "stretch", "interpolation": "bicubic"})


def test_a_decoding_worker_imports_no_torch() -> None:
    code = "import sys, descscore.stream.worker; print(sorted({'torch', 'open_clip'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
