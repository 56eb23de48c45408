"""A picture that Pillow has opened, as a person sees it: upright, on white, in 8-bit sRGB."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageCms

from descscore.colour import needs_conversion, to_srgb

Convert: TypeAlias = Callable[[Image.Image], Image.Image]

_TILE_PIXELS = 1 << 20
"""Pixels of a large image that are converted at once."""

_TRANSPARENT_MODES = ("RGBA", "LA", "PA", "RGBa", "La")

_UNSET_ALPHA = ("BMP", "DIB", "ICO", "SGI", "TGA", "TIFF")
"""Formats whose fourth channel many programs leave at 0, and others then ignore."""

_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(image: Image.Image, own: bool = False) -> Image.Image:
    """The first frame of ``image`` as a person would see it, as 8-bit RGB without ``info``.

    Args:
        image: The picture. Its ``info`` may have the keys of :data:`descscore.metadata.Info`.
        own: Whether nobody else uses ``image``. Then it may be the result itself; otherwise it stays
            unchanged.
    """
    frame = image.tell()
    if not frame:
        return _first_frame_to_rgb(image, own)
    image.seek(0)
    try:
        return _first_frame_to_rgb(image, own)
    finally:
        image.seek(frame)


def _first_frame_to_rgb(image: Image.Image, own: bool) -> Image.Image:
    box = _drawn_box(image)
    image.load()
    orientation = orientation_of(image)
    convert = _conversion(image)
    if convert is not None:
        rgb = _in_tiles(image, convert)
    elif own and image.mode == "RGB" and image.format in ("JPEG", "PNG"):
        rgb = image  # the file is closed by now, and a copy would cost a tenth of its decoding
    else:
        rgb = image.convert("RGB")
    canvas = image.info.get("canvas")
    rgb.info = {}
    if box is not None:
        rgb = _placed(rgb.crop(box), image.size, box[:2])
    if isinstance(canvas, tuple) and canvas[:2] != image.size:
        rgb = _placed(rgb, canvas[:2], canvas[2:])
    return rgb.transpose(_TURNS[orientation]) if orientation in _TURNS else rgb


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1..8. As in browsers, damaged EXIF data are ignored."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - the pixels can be used even if the tags are damaged
        return 1
    return int(value) if value in _TURNS else 1


def _drawn_box(image: Image.Image) -> tuple[int, int, int, int] | None:
    """What the first frame of a GIF file covers, if that is less than the picture and not loaded yet."""
    tile = getattr(image, "tile", None)
    if image.format != "GIF" or not tile:
        return None
    box: tuple[int, int, int, int] = tuple(tile[0][1])
    return None if box == (0, 0, *image.size) else box


def _placed(part: Image.Image, size: tuple[int, int], place: tuple[int, int]) -> Image.Image:
    """White of that size, with a part at its place."""
    whole = Image.new("RGB", size, (255, 255, 255))
    whole.paste(part, place)
    return whole


def _conversion(image: Image.Image) -> Convert | None:
    """What turns parts of a picture into RGB; None where Pillow's own conversion does.

    Facts about the whole picture are found here, once.
    """
    info, mode = image.info, image.mode
    clear = info.get("transparency")
    if mode.startswith("I") or mode == "F":
        low, high = _grey_range(image)
        return lambda tile: _on_white(_grey(tile, low, high), info, _opaque_where(tile, clear))
    if mode == "LAB":
        return _lab_to_rgb
    if _alpha_was_never_set(image):
        return lambda tile: to_srgb(tile.convert("RGB"), info)
    if mode in _TRANSPARENT_MODES or (clear is not None and not isinstance(clear, str)):
        return lambda tile: _transparent_on_white(tile, info)
    plain = {"1": "L", "L": "L", "CMYK": "CMYK"}.get(mode, "RGB")
    if not needs_conversion(info, plain):
        return None
    return lambda tile: to_srgb(tile.convert(plain), info)


def _alpha_was_never_set(image: Image.Image) -> bool:
    if image.format not in _UNSET_ALPHA or image.mode not in ("RGBA", "LA"):
        return False
    bands: Any = image.getextrema()
    *colours, alpha = bands
    return alpha == (0, 0) and any(high for _, high in colours)


def _transparent_on_white(tile: Image.Image, info: Mapping[Any, Any]) -> Image.Image:
    if tile.mode == "La":  # Pillow has no other way out of this mode
        tile = tile.convert("LA")
    if tile.mode == "1":
        plain = tile.copy()
        plain.info = {}
        plain, clear = plain.convert("L"), info["transparency"]
        plain.info["transparency"], tile = clear, plain
    rgba = tile.convert("RGBA")
    colours = rgba.getchannel("R") if tile.mode in ("L", "LA") else rgba.convert("RGB")
    return _on_white(colours, info, rgba.getchannel("A"))


def _on_white(colours: Image.Image, info: Mapping[Any, Any], alpha: Image.Image | None) -> Image.Image:
    """A part in L or RGB, converted to sRGB and then laid on white, as browsers do."""
    rgb = to_srgb(colours, info)
    if alpha is None:
        return rgb
    rgb.putalpha(alpha)
    white = Image.new("RGBA", rgb.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgb).convert("RGB")


def _tiles(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of at most :data:`_TILE_PIXELS` that cover an image."""
    width = min(image.width, _TILE_PIXELS)
    height = _TILE_PIXELS // width
    for top in range(0, image.height, height):
        for left in range(0, image.width, width):
            yield left, top, min(left + width, image.width), min(top + height, image.height)


def _in_tiles(image: Image.Image, convert: Convert) -> Image.Image:
    """Convert an image pixel by pixel to RGB, so that intermediate results take little memory."""
    if image.width * image.height <= _TILE_PIXELS:
        return convert(image)
    result = Image.new("RGB", image.size)
    for box in _tiles(image):
        result.paste(convert(image.crop(box)), box)
    return result


def _grey_range(image: Image.Image) -> tuple[float, float]:
    """The values of a deep grey image that mean black and white; for WhiteIsZero, black is the larger one.

    16-bit greys have their full range. The values of 32-bit and float greys say what they hold: 0..1, those
    of an 8-bit or of a 16-bit picture, or anything else.
    """
    tags: Any = getattr(image, "tag_v2", {})
    low, high = 0.0, 65535.0
    if tags.get(_TIFF_BITS) == (12,):
        high = 4095.0
    elif image.mode in ("I", "F") and not (image.mode == "I" and image.format in ("PNG", "PPM")):
        low, high = _held_range(image)
    return (high, low) if tags.get(_TIFF_PHOTOMETRIC) == 0 else (low, high)


def _held_range(image: Image.Image) -> tuple[float, float]:
    lows, highs = [], []
    for box in _tiles(image):
        values = np.asarray(image.crop(box))
        finite = values[np.isfinite(values)]
        if finite.size:
            lows.append(float(finite.min()))
            highs.append(float(finite.max()))
    low, high = min(lows, default=0.0), max(highs, default=1.0)
    usual = (255.0, 65535.0) if image.mode == "I" else (1.0, 255.0, 65535.0)
    if low < 0 or (image.mode == "F" and 1 < high < _BRIGHT):
        return low, high
    return next(((0.0, top) for top in usual if high <= top), (low, high))


_BRIGHT = 16.0
"""Float greys between 1 and this have their own range: as levels of 255 they would be black."""


def _grey(image: Image.Image, black: float, white: float) -> Image.Image:
    """Deep greys -> mode L."""
    values = np.asarray(image).astype(np.float64)
    span = white - black
    scaled = (np.nan_to_num(values, nan=black) - black) / (span if abs(span) > 1e-12 else 1e-12)
    return Image.fromarray((scaled.clip(0, 1) * 255).round().astype(np.uint8))


def _opaque_where(image: Image.Image, clear: object) -> Image.Image | None:
    """The alpha of a deep grey image in which one value is transparent; None without such a value."""
    if not isinstance(clear, int):
        return None
    return Image.fromarray(np.where(np.asarray(image) == clear, 0, 255).astype(np.uint8))


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # only the in-place form returns nothing
    return converted
