"""Formats, modes and oddities: each picture is read as the same picture in a plain PNG file.

What is expected is worked out here, with NumPy, from what the formats' standards say.
"""

from __future__ import annotations

import contextlib
import io
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_files import (
    bmp_with_profile,
    chunk,
    cmyk_profile,
    frame_control,
    gif_on_canvas,
    grey_profile,
    jp2_with_profile,
    jpeg_segment,
    jpeg_with,
    png,
    png_pixels,
    png_with,
    rgb_profile,
    saved,
    tiff,
    webp_on_canvas,
    without_segment,
)
from PIL import Image

from descscore import appearance
from descscore.errors import ImageError
from descscore.images import load_image
from descscore.metadata import separate

WIDTH, HEIGHT = 40, 24
RAMP = np.linspace(0, 1, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)
GREY = (RAMP * 255).round().astype(np.uint8)
RGB = np.dstack([GREY, GREY[::-1], np.roll(GREY, 7, axis=1)])
PHOTO = Image.fromarray(RGB)
GREY_PHOTO = Image.fromarray(GREY)
WHITE = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)


def grey_rgb(grey: Any) -> np.ndarray:
    return np.dstack([np.asarray(grey)] * 3)


def read(data: bytes) -> np.ndarray:
    """A file's pixels. Bytes and an open picture give the same, if Pillow can open the file at all."""
    found = load_image(data)
    assert found.mode == "RGB"
    assert found.info == {}
    with contextlib.suppress(OSError, SyntaxError, ValueError, struct.error):
        opened = Image.open(io.BytesIO(data))
        assert np.array_equal(np.asarray(load_image(opened)), np.asarray(found))
    return np.asarray(found).astype(int)


def same(data: bytes, expected: np.ndarray, tolerance: int = 0) -> None:
    found = read(data)
    assert found.shape == expected.shape
    assert np.abs(found - expected.astype(int)).max() <= tolerance


def on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """alpha: 0..1."""
    return rgb * alpha[..., None] + 255 * (1 - alpha[..., None])


# Colours


TO_D50 = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
"""Adobe RGB to XYZ, after its specification."""
SRGB_D50 = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
"""sRGB to XYZ, after the ICC's profile."""


def encoded(linear: np.ndarray) -> np.ndarray:
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


ADOBE = rgb_profile(563 / 256, TO_D50)
ADOBE_SEEN = encoded((RGB / 255) ** (563 / 256) @ (np.linalg.inv(SRGB_D50) @ TO_D50).T)
"""The photo's colours if they are those of Adobe RGB."""


def test_adobe_rgb_is_visibly_not_srgb() -> None:
    assert np.abs(ADOBE_SEEN - RGB).max() > 20


@pytest.mark.parametrize(
    "data",
    [
        saved(PHOTO, "PNG", icc_profile=ADOBE),
        saved(PHOTO, "TIFF", icc_profile=ADOBE),
        saved(PHOTO, "WEBP", icc_profile=ADOBE, lossless=True),
        bmp_with_profile(PHOTO, ADOBE),
        jp2_with_profile(PHOTO, ADOBE),
    ],
    ids=["png", "tiff", "webp", "bmp", "jpeg 2000"],
)
def test_an_embedded_profile_is_converted_to_srgb(data: bytes) -> None:
    same(data, ADOBE_SEEN, 2)


@pytest.mark.parametrize("form", ["JPEG", "MPO", "AVIF"])
def test_an_embedded_profile_is_converted_to_srgb_in_formats_with_loss(form: str) -> None:
    plain = read(saved(PHOTO, form, quality=100))
    with_profile = read(saved(PHOTO, form, quality=100, icc_profile=ADOBE))
    expected = encoded((plain / 255) ** (563 / 256) @ (np.linalg.inv(SRGB_D50) @ TO_D50).T)
    assert np.abs(with_profile - expected).max() <= 2


def test_a_profile_holds_for_every_mode() -> None:
    palette = PHOTO.quantize(64)
    colours = np.asarray(palette.convert("RGB"))
    expected = encoded((colours / 255) ** (563 / 256) @ (np.linalg.inv(SRGB_D50) @ TO_D50).T)
    same(saved(palette, "PNG", icc_profile=ADOBE), expected, 2)
    alpha = Image.fromarray(np.dstack([RGB, GREY]))
    same(saved(alpha, "PNG", icc_profile=ADOBE), on_white(ADOBE_SEEN, GREY / 255), 2)
    linear = encoded(grey_rgb(GREY) / 255)
    same(saved(GREY_PHOTO, "PNG", icc_profile=grey_profile(1)), linear, 2)
    same(saved(GREY_PHOTO, "TIFF", icc_profile=grey_profile(1)), linear, 2)
    deep = Image.fromarray((RAMP * 65535).round().astype(np.uint16))
    same(saved(deep, "PNG", icc_profile=grey_profile(1)), linear, 6)  # dark levels lie far apart
    # A grey PNG may not have a profile of RGB, so browsers ignore it; they use it in a grey JPEG.
    same(saved(GREY_PHOTO, "TIFF", icc_profile=rgb_profile(1, SRGB_D50)), linear, 2)


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_inks_are_converted_by_their_profile(form: str) -> None:
    inks = Image.fromarray(np.dstack([GREY] * 4), "CMYK")
    lightness = 100 * (1 - np.asarray(inks)[..., 0] / 255)
    f = (lightness + 16) / 116
    luminance = np.where(lightness > 8, f**3, lightness / 903.3)
    more = {"quality": 100} if form == "JPEG" else {}
    same(saved(inks, form, icc_profile=cmyk_profile(), **more), encoded(grey_rgb(luminance)), 4)


def test_a_picture_in_memory_keeps_its_profile_and_is_not_changed() -> None:
    image = Image.open(io.BytesIO(saved(PHOTO, "PNG", icc_profile=ADOBE)))
    image.load()
    first = load_image(image)
    assert np.abs(np.asarray(first) - ADOBE_SEEN).max() <= 2
    assert image.info["icc_profile"] == ADOBE
    assert np.array_equal(np.asarray(image), RGB)
    assert np.array_equal(np.asarray(load_image(first)), np.asarray(first))  # not converted once more


def srgb_by_other_names() -> list[bytes]:
    from PIL import ImageCms

    built_in = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return [b"", built_in, b"no profile at all", ADOBE[:200], ADOBE[:-100], grey_profile(1), cmyk_profile()]


@pytest.mark.parametrize("profile", srgb_by_other_names(), ids=range(7))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_srgb_and_profiles_that_cannot_be_used_change_no_pixel(form: str, profile: bytes) -> None:
    more = {"quality": 100} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    plain = read(saved(PHOTO, form, **more))
    same(saved(PHOTO, form, icc_profile=profile, **more), plain)


def gamma(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def chromaticities(*points: float) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(point * 100_000) for point in points)))


SRGB_POINTS = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
ADOBE_POINTS = (0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
TO_D65 = {
    SRGB_POINTS: np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]),
    ADOBE_POINTS: np.array(
        [[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]]
    ),
}


def test_gamma_and_primaries_of_png() -> None:
    same(png_with(PHOTO, gamma(1)), 255 * (RGB / 255) ** (1 / 2.2), 1)
    same(png_with(PHOTO, gamma(1 / 1.8)), 255 * (RGB / 255) ** (1.8 / 2.2), 1)
    to_srgb = np.linalg.inv(TO_D65[SRGB_POINTS]) @ TO_D65[ADOBE_POINTS]
    wide = encoded((RGB / 255) ** 2.2 @ to_srgb.T)
    same(png_with(PHOTO, gamma(1 / 2.2) + chromaticities(*ADOBE_POINTS)), wide, 2)
    same(png(GREY[..., None], 8, "grey", gamma(1)), grey_rgb(255 * (GREY / 255) ** (1 / 2.2)), 1)
    clear = chunk(b"tRNS", struct.pack(">3H", *map(int, RGB[0, 0])))
    seen = 255 * (RGB / 255) ** (1 / 2.2)
    seen[(RGB[0, 0] == RGB).all(-1)] = 255
    same(png_with(PHOTO, gamma(1) + clear), seen, 1)


@pytest.mark.parametrize(
    "chunks",
    [
        gamma(0.45455),
        gamma(0.45455) + chromaticities(*SRGB_POINTS),
        gamma(1) + chunk(b"sRGB", b"\0"),
        chromaticities(*ADOBE_POINTS),  # without a gamma, browsers ignore it
        gamma(0),
        gamma(1)[:-1] + b"x",  # its checksum is wrong
        chunk(b"gAMA", b"\0"),
        chunk(b"cICP", bytes([1, 13, 0, 1])),
        chunk(b"cICP", bytes([1, 13, 0, 1])) + gamma(1),
    ],
    ids=range(9),
)
def test_chunks_on_colour_that_say_srgb_or_nothing_change_no_pixel(chunks: bytes) -> None:
    same(png_with(PHOTO, chunks), RGB)


def test_a_profile_counts_more_than_gamma() -> None:
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(ADOBE))
    same(png_with(PHOTO, profile + gamma(1)), ADOBE_SEEN, 2)
    same(png_with(PHOTO, chunk(b"iCCP", b"x\0\0" + zlib.compress(ADOBE)[:-40]) + gamma(1 / 2.2)), RGB)


def test_colours_by_number_are_converted() -> None:
    """cICP: 12 are the primaries of Display P3, 13 the curve of sRGB, 8 linear light."""
    p3 = np.array([[1.22494, -0.22494, 0], [-0.04206, 1.04206, 0], [-0.01964, -0.07864, 1.09828]])
    linear = np.where(RGB / 255 <= 0.04045, RGB / 255 / 12.92, ((RGB / 255 + 0.055) / 1.055) ** 2.4)
    same(png_with(PHOTO, chunk(b"cICP", bytes([12, 13, 0, 1]))), encoded(linear @ p3.T), 1)
    same(png_with(PHOTO, chunk(b"cICP", bytes([1, 8, 0, 1]))), encoded(RGB / 255), 1)


@pytest.mark.parametrize("transfer", [16, 18])
def test_a_picture_of_high_dynamic_range_has_its_white_and_its_order(transfer: int) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 256)
    grey = Image.fromarray(grey_rgb(levels))
    found = read(png_with(grey, chunk(b"cICP", bytes([9, transfer, 0, 1]))))[0, :, 0]
    assert (np.diff(found) >= 0).all()
    white = 148 if transfer == 16 else 191  # 203 candela a square metre; 75 % of the signal
    assert (found[0], found[white + 3]) == (0, 255)
    assert 230 < found[white - 5] < 255


# Deep greys


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    ("kind", "top", "form"),
    [("u2", 65535, 1), ("u4", 255, 1), ("u4", 2**32 - 1, 1), ("i4", 65535, 2), ("f4", 1, 3), ("f4", 255, 3)],
)
def test_deep_grey_tiff_files(kind: str, top: int, form: int, big: bool) -> None:
    values = GREY.astype(np.float64) / 255 * top
    if kind != "f4":
        values = values.round()
    pixels = values.astype((">" if big else "<") + kind).tobytes()
    bits = 8 * np.dtype(kind).itemsize
    if big and kind == "u4":
        return  # Pillow has no unsigned 32 bits in this order
    file = tiff(pixels, (WIDTH, HEIGHT), {258: [bits], 262: [1], 277: [1], 339: [form]}, big)
    same(file, grey_rgb(GREY), 0)


@pytest.mark.parametrize(("kind", "top", "form"), [("u2", 65535, 1), ("i4", 255, 2), ("f4", 1, 3)])
@pytest.mark.parametrize("order", "<>")
def test_compressed_tiff_files_in_either_order_of_bytes(order: str, kind: str, top: int, form: int) -> None:
    values = GREY.astype(np.float64) / 255 * top
    pixels = zlib.compress((values if kind == "f4" else values.round()).astype(order + kind).tobytes())
    bits = 8 * np.dtype(kind).itemsize
    tags = {258: [bits], 259: 8, 262: [1], 277: [1], 339: [form]}
    same(tiff(pixels, (WIDTH, HEIGHT), tags, order == ">"), grey_rgb(GREY), 0)


def planes(
    samples: np.ndarray, photometric: int, compressed: bool, tags: dict[int, list[int]] | None = None
) -> bytes:
    """A TIFF file in which each channel has a plane of its own."""
    parts = [np.ascontiguousarray(samples[..., i]).tobytes() for i in range(samples.shape[2])]
    parts = [zlib.compress(part) if compressed else part for part in parts]
    places = [8 + sum(map(len, parts[:i])) for i in range(len(parts))]
    sizes, bits = [len(part) for part in parts], [8 * samples.itemsize] * len(parts)
    said = {258: bits, 259: 8 if compressed else 1, 262: [photometric], 277: [len(parts)], 284: [2]}
    return tiff(b"".join(parts), (WIDTH, HEIGHT), {**said, 273: places, 279: sizes, **(tags or {})})


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("deep", [False, True])
def test_a_tiff_of_planes_is_read_or_refused(compressed: bool, deep: bool) -> None:
    file = planes(RGB.astype(np.uint16) * 257 if deep else RGB, 2, compressed)
    if deep and not compressed:
        with pytest.raises(
            ImageError, match="TIFF with a plane for each channel of RGB: not read; convert it"
        ):
            load_image(file)
    else:
        same(file, RGB, 0)
    with pytest.raises(ImageError, match="TIFF with a plane for each channel of LA: not read; convert it"):
        load_image(planes(np.dstack([GREY, GREY]), 1, compressed, tags={338: [2]}))


@pytest.mark.parametrize("wide", [1, 257])
def test_a_tiff_s_colour_map_of_8_bits_is_not_black(wide: int) -> None:
    tags = {258: [8], 262: [3], 277: [1], 320: [value * wide for value in range(255, -1, -1)] * 3}
    same(tiff(GREY.tobytes(), (WIDTH, HEIGHT), tags), grey_rgb(255 - GREY.astype(int)), 0)


@pytest.mark.parametrize(("kind", "top", "form"), [("u1", 255, 1), ("u2", 65535, 1), ("f4", 1, 3)])
def test_white_is_zero(kind: str, top: int, form: int) -> None:
    values = (255 - GREY.astype(np.float64)) / 255 * top
    pixels = values.astype("<" + kind).tobytes()
    bits = 8 * np.dtype(kind).itemsize
    file = tiff(pixels, (WIDTH, HEIGHT), {258: [bits], 262: [0], 277: [1], 339: [form]})
    same(file, grey_rgb(GREY), 0)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_white_is_zero_in_few_bits(depth: int) -> None:
    top = 2**depth - 1
    values = (RAMP * top).round().astype(np.uint8)
    bits = np.unpackbits((top - values)[..., None], axis=-1)[..., 8 - depth :]
    pixels = np.packbits(bits.reshape(HEIGHT, -1), axis=1).tobytes()
    file = tiff(pixels, (WIDTH, HEIGHT), {258: [depth], 262: [0], 277: [1]})
    same(file, grey_rgb(values.astype(int) * 255 // top))


def test_12_bits_are_not_dark() -> None:
    values = (RAMP * 4095).round().astype(np.uint16)
    bits = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(HEIGHT, WIDTH, 2), axis=-1)[..., 4:]
    file = tiff(
        np.packbits(bits.reshape(HEIGHT, -1), axis=1).tobytes(),
        (WIDTH, HEIGHT),
        {258: [12], 262: [1], 277: [1]},
    )
    same(file, grey_rgb(RAMP * 255), 1)


def test_deep_greys_in_memory_have_the_range_that_they_hold() -> None:
    def seen(values: np.ndarray) -> np.ndarray:
        return np.asarray(load_image(Image.fromarray(values)))[..., 0].astype(int)

    part = GREY // 2 + 20  # neither black nor white occurs
    assert np.array_equal(seen(part.astype(np.int32)), part)
    assert np.array_equal(seen(part.astype(np.int32) * 257), part)
    assert np.array_equal(seen(part.astype(np.float32)), part)
    assert np.array_equal(seen(part.astype(np.float32) / 255), part)
    wide = seen(GREY.astype(np.int32) * 1000 - 5)
    assert (wide.min(), wide.max()) == (0, 255)
    bright = seen(RAMP.astype(np.float32) * 1.5)  # as levels of 255, this would be black
    assert (bright.min(), bright.max()) == (0, 255)


def test_a_dark_16_bit_picture_stays_dark_in_every_format() -> None:
    dark = Image.fromarray((RAMP * 255).round().astype(np.uint16))
    for form in ("PNG", "TIFF", "PPM", "JPEG2000"):
        assert read(saved(dark, form)).max() <= 1


# Transparency


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_one_grey_of_a_png_is_transparent(depth: int) -> None:
    top = 2**depth - 1
    samples = (RAMP * top).round().astype(np.uint16)
    for clear in (0, top, int(samples[10, 10])):
        file = png(samples[..., None], depth, "grey", chunk(b"tRNS", struct.pack(">H", clear)))
        seen = samples / top * 255
        seen[samples == clear] = 255
        same(file, grey_rgb(seen), 1)


@pytest.mark.parametrize("depth", [8, 16])
def test_one_colour_of_a_png_is_transparent(depth: int) -> None:
    samples = RGB.astype(np.uint16) * (257 if depth == 16 else 1)
    clear = chunk(b"tRNS", struct.pack(">3H", *map(int, samples[5, 5])))
    seen = RGB.copy()
    seen[(RGB[5, 5] == RGB).all(-1)] = 255
    same(png(samples, depth, "rgb", clear), seen)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_with_alpha(depth: int) -> None:
    count = 2**depth
    entries = np.random.default_rng(depth).integers(0, 256, (count, 3), dtype=np.uint8)
    alphas = np.linspace(0, 255, count).astype(np.uint8)
    indices = (RAMP * (count - 1)).round().astype(np.uint8)
    chunks = chunk(b"PLTE", entries.tobytes()) + chunk(b"tRNS", alphas.tobytes())
    seen = on_white(entries[indices], alphas[indices] / 255)
    same(png(indices[..., None], depth, "palette", chunks), seen, 1)


@pytest.mark.parametrize("depth", [8, 16])
def test_alpha_channels_of_png(depth: int) -> None:
    wide = 257 if depth == 16 else 1
    alpha = np.roll(GREY, 100).reshape(HEIGHT, WIDTH)
    both = np.dstack([GREY, alpha]).astype(np.uint16) * wide
    same(png(both, depth, "grey alpha"), on_white(grey_rgb(GREY), alpha / 255), 1)
    four = np.dstack([RGB, alpha]).astype(np.uint16) * wide
    same(png(four, depth, "rgb alpha"), on_white(RGB, alpha / 255), 1)


@pytest.mark.parametrize(
    "form", ["PNG", "WEBP", "TIFF", "TGA", "BMP", "ICO", "JPEG2000", "AVIF", "QOI", "SGI"]
)
def test_transparency_is_laid_on_white_in_every_format(form: str) -> None:
    alpha = np.where(RAMP < 0.5, 0, 255).astype(np.uint8)
    image = Image.fromarray(np.dstack([RGB, alpha]))
    more: dict[str, Any] = (
        {"lossless": True} if form == "WEBP" else {"quality": 100} if form == "AVIF" else {}
    )
    if form == "ICO":
        more = {"sizes": [image.size]}
    found = read(saved(image, form, **more))
    if form == "BMP":  # Pillow writes 32 bits with a header that knows no alpha
        assert np.array_equal(found, RGB)
        return
    assert np.abs(found - on_white(RGB, alpha / 255))[:, :, 1].mean() < 2
    assert (found[0, :10] > 250).all()


def bmp_with_alpha(alpha: int) -> bytes:
    """Version 4, 32 bits with a mask for alpha."""
    rows = np.dstack([RGB[::-1, :, ::-1], np.full((HEIGHT, WIDTH), alpha, np.uint8)]).tobytes()
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII4I", 108, WIDTH, HEIGHT, 1, 32, 3, len(rows), 0, 0, 0, 0, *masks)
    header += b"BGRs" + b"\0" * 48
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(rows), 0, 0, 14 + len(header)) + header + rows


def test_alpha_that_was_never_set_is_no_transparency() -> None:
    empty = Image.fromarray(np.dstack([RGB, np.zeros_like(GREY)]))
    same(bmp_with_alpha(0), RGB)
    same(bmp_with_alpha(128), on_white(RGB, np.full((HEIGHT, WIDTH), 128 / 255)), 1)
    for form in ("TGA", "TIFF"):
        same(saved(empty, form), RGB)
    for form in ("PNG", "WEBP"):  # there it means what it says, and browsers show nothing
        same(saved(empty, form, **({"lossless": True} if form == "WEBP" else {})), WHITE)
    same(tiff(np.dstack([RGB, GREY * 0]).tobytes(), (WIDTH, HEIGHT), {258: [8] * 4, 262: [2], 277: [4]}), RGB)
    unused = {258: [8] * 4, 262: [2], 277: [4], 338: [0]}
    same(tiff(np.dstack([RGB, GREY]).tobytes(), (WIDTH, HEIGHT), unused), RGB)


# Frames


def on_canvas(place: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    canvas = np.full((size[1], size[0], 3), 255, np.uint8)
    left, top = place
    canvas[top : top + HEIGHT, left : left + WIDTH] = RGB
    return canvas


def animated_png(place: tuple[int, int], size: tuple[int, int]) -> bytes:
    """An animation whose default picture, all black, is no frame."""
    black = np.zeros((size[1], size[0], 3), np.uint8)
    start = chunk(b"acTL", struct.pack(">2I", 2, 0))
    frames = frame_control(0, WIDTH, HEIGHT, *place)
    frames += chunk(b"fdAT", struct.pack(">I", 1) + png_pixels(RGB, 8))
    frames += frame_control(2, 1, 1, 0, 0) + chunk(
        b"fdAT", struct.pack(">I", 3) + png_pixels(RGB[:1, :1] * 0, 8)
    )
    return png(black, 8, "rgb", start, frames)


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (60, 50)])
def test_an_animation_whose_default_picture_is_no_frame(size: tuple[int, int]) -> None:
    place = (0, 0) if size == (WIDTH, HEIGHT) else (6, 10)
    same(animated_png(place, size), on_canvas(place, size))


def test_a_default_picture_that_is_the_first_frame() -> None:
    start = chunk(b"acTL", struct.pack(">2I", 2, 0)) + frame_control(0, WIDTH, HEIGHT, 0, 0)
    second = frame_control(1, WIDTH, HEIGHT, 0, 0) + chunk(
        b"fdAT", struct.pack(">I", 2) + png_pixels(RGB * 0, 8)
    )
    same(png_with(PHOTO, start, second), RGB)
    same(png_with(PHOTO, b"", second), RGB)  # without acTL it is no animation


def test_what_a_first_frame_leaves_out_is_white() -> None:
    place, size = (6, 10), (60, 50)
    same(webp_on_canvas(PHOTO, size, place), on_canvas(place, size))
    few = PHOTO.quantize(16)
    expected = np.full((50, 60, 3), 255, np.uint8)
    expected[10 : 10 + HEIGHT, 6 : 6 + WIDTH] = np.asarray(few.convert("RGB"))
    same(gif_on_canvas(few, size, place), expected)
    clear = few.copy()
    clear.info["transparency"] = 3
    expected[10 : 10 + HEIGHT, 6 : 6 + WIDTH][np.asarray(few) == 3] = 255
    same(gif_on_canvas(clear, size, place), expected)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "AVIF", "MPO"])
def test_an_animation_is_its_first_frame(form: str) -> None:
    more: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    plain = read(saved(PHOTO, form, **more))
    other = Image.new("RGB", PHOTO.size, "yellow")
    found = read(saved(PHOTO, form, save_all=True, append_images=[other], **more))
    assert np.abs(found - plain).mean() < 8


@pytest.mark.parametrize("tile", [1 << 20, 16])
def test_a_deep_colour_that_shares_only_its_upper_bytes_is_not_transparent(
    tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As browsers do, all 16 bits are compared."""
    monkeypatch.setattr(appearance, "_TILE_PIXELS", tile)
    samples = np.arange(8 * 8 * 3, dtype=np.uint16).reshape(8, 8, 3) + 0x5600
    for place in ((0, 0), (3, 4)):
        clear = chunk(b"tRNS", struct.pack(">3H", *map(int, samples[place])))
        seen = (samples >> 8).astype(np.uint8)
        seen[place] = 255
        same(png(samples, 16, "rgb", clear), seen)
        opened = Image.open(io.BytesIO(png(samples, 16, "rgb", clear)))
        assert np.array_equal(np.asarray(load_image(opened)), seen)


# Orientation


TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_pictures_are_upright(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    more: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    plain = read(saved(PHOTO, form, **more))
    turned = read(saved(PHOTO, form, exif=exif.tobytes(), **more))
    assert np.array_equal(turned, TURNED[orientation](plain))


@pytest.mark.parametrize(
    ("kind", "count", "value"),
    [(4, 1, b"\6\0\0\0"), (9, 1, b"\6\0\0\0"), (1, 1, b"\6\0\0\0"), (3, 2, b"\6\0\6\0")],
)
def test_an_orientation_that_is_not_one_short_turns_nothing(kind: int, count: int, value: bytes) -> None:
    """Chromium and Firefox look at the type and the count of the tag."""

    def exif(kind: int, count: int, value: bytes) -> bytes:
        return b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHI", 0x0112, kind, count) + value + bytes(4)

    plain = saved(PHOTO, "JPEG")
    same(jpeg_with(plain, jpeg_segment(0xE1, exif(kind, count, value))), read(plain))
    same(png_with(PHOTO, chunk(b"eXIf", exif(kind, count, value)[6:])), RGB)
    turned = jpeg_with(plain, jpeg_segment(0xE1, exif(3, 1, b"\6\0\0\0")))
    same(turned, TURNED[6](read(plain)))


def test_only_exif_turns_a_picture() -> None:
    """Browsers do not look for an orientation in XMP."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    plain = saved(PHOTO, "JPEG")
    same(jpeg_with(plain, jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)), read(plain))
    same(png_with(PHOTO, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)), RGB)
    same(saved(PHOTO, "WEBP", lossless=True, xmp=xmp), RGB)


# Inks


def test_inks_without_adobes_mark_are_inverted_all_the_same() -> None:
    inks = Image.fromarray(np.dstack([RGB, GREY // 2]), "CMYK")
    marked = saved(inks, "JPEG", quality=100)
    bare = without_segment(marked, 0xEE)
    assert bare != marked
    same(bare, read(marked))


# Metadata


BROKEN = {
    "large compressed text": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * (1 << 24))),
    "much text": b"".join(chunk(b"tEXt", b"k%d\0" % i + b"y" * 50_000) for i in range(60)),
    "large international text": chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(b"x" * (1 << 24))),
    "text that is not compressed": chunk(b"zTXt", b"Comment\0\0garbage"),
    "text of no form": chunk(b"iTXt", b"\0\0\0"),
    "a wrong checksum": chunk(b"tEXt", b"a\0b", broken=True),
    "a profile that is no profile": chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile")),
    "a profile that is not compressed": chunk(b"iCCP", b"x\0\0garbage"),
    "a profile without a name": chunk(b"iCCP", b""),
    "a large profile": chunk(b"iCCP", b"x\0\0" + zlib.compress(b"\0" * (1 << 25))),
    "broken EXIF": chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"),
    "EXIF that is empty": chunk(b"eXIf", b""),
    "short gamma": chunk(b"gAMA", b"\0"),
    "short primaries": gamma(1 / 2.2) + chunk(b"cHRM", b"\0" * 7),
    "transparency of a wrong length": chunk(b"tRNS", b"\0"),
    "transparency with a wrong checksum": chunk(
        b"tRNS", struct.pack(">3H", *map(int, RGB[0, 0])), broken=True
    ),
    "short size": chunk(b"pHYs", b"\0"),
    "an animation of nothing": chunk(b"acTL", b"\0"),
    "an unknown chunk": chunk(b"prVt", b"secret"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_odd_chunks_beside_sound_pixels_cost_nothing(name: str) -> None:
    same(png_with(PHOTO, BROKEN[name]), RGB)
    same(png_with(PHOTO, b"", BROKEN[name]), RGB)


@pytest.mark.parametrize("end", [b"", chunk(b"tEXt", b"a\0" + b"b" * 99)[:20], b"garbage" * 50])
def test_what_follows_sound_pixels_costs_nothing(end: bytes) -> None:
    whole = png_with(PHOTO)
    same(whole.removesuffix(chunk(b"IEND", b"")) + end, RGB)


SEGMENTS = {
    "broken EXIF": jpeg_segment(0xE1, b"Exif\0\0garbage"),
    "EXIF that points nowhere": jpeg_segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff"),
    "half a profile": jpeg_segment(0xE2, b"ICC_PROFILE\0\1\2" + ADOBE),
    "a profile of no part": jpeg_segment(0xE2, b"ICC_PROFILE\0"),
    "broken list of pictures": jpeg_segment(0xE2, b"MPF\0garbage"),
    "broken Photoshop": jpeg_segment(0xED, b"Photoshop 3.0\x008BIM\x04\x25\0\0\xff\xff\xff\xff"),
    "a short mark of Adobe": jpeg_segment(0xEE, b"Adobe"),
    "a short mark of JFIF": jpeg_segment(0xE0, b"JFIF"),
    "no mark at all": jpeg_segment(0xE0, b""),
    "many comments": jpeg_segment(0xFE, b"x" * 60_000) * 100,
    "filling": b"\xff" * 50,
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_odd_segments_beside_sound_pixels_cost_nothing(name: str) -> None:
    plain = saved(PHOTO, "JPEG")
    same(jpeg_with(plain, SEGMENTS[name]), read(plain))


@pytest.mark.parametrize(
    "many",
    [
        jpeg_with(saved(PHOTO, "JPEG"), jpeg_segment(0xFE, b"") * 2_000_000),
        jpeg_with(saved(PHOTO, "JPEG"), b"\xff" * 8_000_000),
        png_with(PHOTO, chunk(b"tEXt", b"") * 700_000),
    ],
    ids=["comments", "filling", "chunks"],
)
def test_a_file_of_nothing_but_small_parts_stays_as_it_is(many: bytes) -> None:
    """To take all of them apart would take seconds."""
    begun = time.process_time()
    assert separate(many) == (many, {})
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize("form", ["WEBP", "TIFF", "AVIF", "GIF"])
def test_odd_metadata_of_other_formats_cost_nothing(form: str) -> None:
    plain = saved(PHOTO, form)
    exif = {} if form == "TIFF" else {"exif": b"Exif\0\0garbage" + b"\xff" * 300}
    if form == "AVIF":
        exif = {}  # Pillow does not write what it cannot read
    if form == "GIF":
        same(saved(PHOTO, form, comment=b"x" * 100_000), read(plain))
    else:
        same(saved(PHOTO, form, icc_profile=b"garbage" * 99, **exif), read(plain))


# All other modes


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        *(("TIFF", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "I;16", "I", "F")),
        *(("BMP", mode) for mode in ("1", "L", "P", "RGB")),
        *(("GIF", mode) for mode in ("1", "L", "P")),
        *(("PPM", mode) for mode in ("1", "L", "RGB", "I", "I;16")),
        *(("TGA", mode) for mode in ("L", "P", "RGB", "RGBA", "LA")),
        *(("PCX", mode) for mode in ("1", "L", "P", "RGB")),
        *(("SGI", mode) for mode in ("L", "RGB", "RGBA")),
        *(("QOI", mode) for mode in ("RGB", "RGBA")),
        *(("ICNS", mode) for mode in ("RGBA",)),
        *(("ICO", mode) for mode in ("RGB", "RGBA")),
        *(("DIB", mode) for mode in ("1", "L", "P", "RGB")),
        *(("JPEG2000", mode) for mode in ("L", "LA", "RGB", "RGBA", "I;16")),
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
    ],
)
def test_every_format_and_mode_is_read_as_a_plain_png(form: str, mode: str) -> None:
    size = (1024, 1024) if form == "ICNS" else PHOTO.size
    photo = PHOTO.resize(size)
    deep = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    if mode in deep:
        image = Image.fromarray(GREY.astype(deep[mode]) * (257 if mode in ("I;16", "I") else 1))
        plain = np.asarray(GREY_PHOTO.convert("RGB"))
    else:
        image = photo.quantize(200) if mode == "P" else photo.convert(mode)
        plain = np.asarray(image.convert("RGB"))
    more: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    if form == "ICO":
        more = {"sizes": [size]}
    same(saved(image, form, **more), np.asarray(load_image(saved(Image.fromarray(plain), "PNG"))), 1)


def test_a_large_picture_is_converted_as_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(Image.fromarray(np.dstack([RGB, GREY])), "PNG", icc_profile=ADOBE)
    whole = read(file)
    monkeypatch.setattr(appearance, "_TILE_PIXELS", 100)
    same(file, whole)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_file_of_many_parts_takes_no_memory_for_each(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(file, kind)
    whole = file.getvalue()
    if kind == "PNG":
        place = whole.index(b"IDAT") - 4
        parts = chunk(b"IDAT", b"") * 400_000
    else:
        place, parts = 2, b"\xff\xdd\x00\x04\x00\x00" * 800_000
    file = io.BytesIO(whole[:place] + parts + whole[place:])
    tracemalloc.start()
    try:
        separate(file.getvalue())
        assert tracemalloc.get_traced_memory()[1] < 8 * len(parts)
    finally:
        tracemalloc.stop()
    assert load_image(file.getvalue()).getpixel((4, 4))[0] > 190  # type: ignore[index]
