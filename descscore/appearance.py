"""A picture that Pillow has opened, as a person sees it: upright, on white, in 8-bit sRGB.

Colours become sRGB as in browsers: by a file's ICC profile, by PNG's cICP, or by its gamma and primaries.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageCms
from PIL.ExifTags import Base as Tag

Array: TypeAlias = "np.ndarray[Any, Any]"
Convert: TypeAlias = Callable[[Image.Image], Image.Image]

_TILE_PIXELS = 1 << 20
"""Pixels of a large image that are converted at once."""

_TRANSPARENT_MODES = ("RGBA", "LA", "PA", "RGBa", "La")

_UNSET_ALPHA = ("BMP", "DIB", "ICO", "SGI", "TGA", "TIFF")
"""Formats whose fourth channel many programs leave at 0, and others then ignore."""

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
    orientation = _orientation_of(image)
    if "deep_transparency" in image.info:
        image = _with_deep_alpha(image)
    if _is_wrapped(image):
        image = Image.fromarray(np.asarray(image).view(np.uint32).astype(np.float32))
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


def _orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1..8. As in browsers, damaged data and numbers of a wrong type are ignored."""
    try:
        value = image.getexif().get(Tag.Orientation)
        exif = image.info.get("exif")
        if isinstance(exif, bytes) and image.format != "TIFF" and not _states_one_short(exif):
            return 1
    except Exception:  # noqa: BLE001 - the pixels can be used even if the tags are damaged
        return 1
    return int(value) if value in _TURNS else 1


def _states_one_short(exif: bytes) -> bool:
    """Whether EXIF data state the orientation as one SHORT. Raises as :mod:`struct` where they break off."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = ">" if tiff[:2] == b"MM" else "<"
    (place,) = struct.unpack_from(f"{order}I", tiff, 4)
    (entries,) = struct.unpack_from(f"{order}H", tiff, place)
    kinds = (struct.unpack_from(f"{order}HHI", tiff, place + 2 + 12 * entry) for entry in range(entries))
    return (Tag.Orientation, _SHORT, 1) in kinds


_SHORT = 3
"""TIFF's number of the type SHORT."""


def _with_deep_alpha(image: Image.Image) -> Image.Image:
    """A PNG picture of 16-bit RGB with its transparent colour as alpha.

    Pillow keeps only the upper byte of each channel, in which many other colours are the same. So the lower
    bytes are read from the file once more.
    """
    clear = np.array(image.info["deep_transparency"])
    alpha = Image.new("L", image.size, 255)
    with Image.open(io.BytesIO(image.info["file"]), formats=("PNG",)) as low:
        low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]  # the other byte of each two
        low.load()
    for box in _tiles(image):
        upper, lower = np.asarray(image.crop(box)), np.asarray(low.crop(box))
        is_clear = ((upper == clear >> 8) & (lower == clear & 255)).all(-1)
        alpha.paste(Image.fromarray(np.where(is_clear, 0, 255).astype(np.uint8)), box)
    rgba = image.copy()
    rgba.putalpha(alpha)
    return rgba


def _is_wrapped(image: Image.Image) -> bool:
    """Whether a TIFF picture has unsigned greys of 32 bits that Pillow took for negative numbers."""
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode != "I" or tags.get(Tag.BitsPerSample) != (32,) or tags.get(Tag.SampleFormat, (1,)) != (1,):
        return False
    low: Any = image.getextrema()[0]
    return bool(low < 0)


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
        return lambda tile: _to_srgb(tile.convert("RGB"), info)
    if mode in _TRANSPARENT_MODES or (clear is not None and not isinstance(clear, str)):
        return lambda tile: _transparent_on_white(tile, info)
    plain = {"1": "L", "L": "L", "CMYK": "CMYK"}.get(mode, "RGB")
    if _transform(info, plain) is None and _curve(info) is None:  # sRGB already
        return None
    return lambda tile: _to_srgb(tile.convert(plain), info)


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
    rgb = _to_srgb(colours, info)
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
    if tags.get(Tag.BitsPerSample) == (12,):
        high = 4095.0
    elif image.mode in ("I", "F") and not (image.mode == "I" and image.format in ("PNG", "PPM")):
        low, high = _held_range(image)
    return (high, low) if tags.get(Tag.PhotometricInterpretation) == 0 else (low, high)


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


_SAME = 2
"""Levels of 255. A profile that moves no colour by more is sRGB by another name, and converts nothing."""

_SCREEN = 1 / 2.2
"""The gamma of files for ordinary screens."""
_GAMMA_SLACK, _POINT_SLACK = 0.05, 0.005

_SRGB_POINTS = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
"""x and y of white, red, green and blue."""
_PRIMARIES = {
    1: _SRGB_POINTS,
    4: (0.31, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (0.3127, 0.329, 0.64, 0.33, 0.29, 0.6, 0.15, 0.06),
    6: (0.3127, 0.329, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: (0.3127, 0.329, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    9: (0.3127, 0.329, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}
"""The primaries of ITU-T H.273 by number. The others, such as 2 for unknown, count as sRGB's."""

_SDR_WHITE = 203.0
"""Candela a square metre that are white in a picture of high dynamic range (ITU-R BT.2408)."""

_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def _to_srgb(image: Image.Image, info: Mapping[Any, Any]) -> Image.Image:
    """A picture of mode L, RGB or CMYK -> RGB, its colours converted to sRGB."""
    transform = _transform(info, image.mode)
    if transform is not None:
        with_profile = image.convert("RGB") if transform.input_mode == "RGB" else image
        return ImageCms.applyTransform(with_profile, transform) or with_profile
    rgb, curve = image.convert("RGB"), _curve(info)
    if curve is None:
        return rgb
    light, matrix = curve
    linear = light[np.asarray(rgb)]
    if matrix is not None:
        linear = linear @ matrix.T
    return Image.fromarray(_encoded(linear) if matrix is not None else _screen(linear))


def _transform(info: Mapping[Any, Any], mode: str) -> ImageCms.ImageCmsTransform | None:
    profile = info.get("icc_profile")
    return _built(profile, mode) if isinstance(profile, bytes) and profile else None


@lru_cache(maxsize=16)
def _built(data: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What turns a picture into sRGB; None for a profile that is broken, of another kind, or sRGB."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        space = profile.profile.xcolor_space.strip()
        if (space, mode) not in (("RGB", "RGB"), ("RGB", "L"), ("GRAY", "L"), ("CMYK", "CMYK")):
            return None
        source = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[space]
        srgb = ImageCms.createProfile("sRGB")
        # The table that is made by default for greys is too coarse for dark ones.
        flags = ImageCms.Flags.NOOPTIMIZE if source == "L" else ImageCms.Flags.NONE
        transform = ImageCms.buildTransform(profile, srgb, source, "RGB", flags=flags)
        if source == "CMYK":
            return transform
        sample = Image.fromarray(_SAMPLE).convert(source)
        found = ImageCms.applyTransform(sample, transform)
        assert found is not None  # only the in-place form returns nothing
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None  # as in browsers, a broken profile is no profile
    difference = np.asarray(found).astype(int) - np.asarray(sample.convert("RGB"))
    return None if np.abs(difference).max() <= _SAME else transform


_LEVELS = np.array([*range(0, 255, 15), 255], np.uint8)
_SAMPLE = np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS), -1).reshape(len(_LEVELS), -1, 3)


def _curve(info: Mapping[Any, Any]) -> tuple[Array, Array | None] | None:
    """The light of each of 256 levels, and the matrix to sRGB's primaries or None; None for sRGB itself."""
    if info.get("icc_profile") and "cicp" not in info:
        return None
    if "cicp" in info:
        return _cicp_curve(*info["cicp"])
    gamma = info.get("gamma")
    if not isinstance(gamma, float) or not 0.01 < gamma < 100 or "srgb" in info:
        return None
    points = info.get("chromaticity") or _SRGB_POINTS
    differs = np.abs(np.subtract(points, _SRGB_POINTS)).max() > _POINT_SLACK
    if not differs and abs(gamma / _SCREEN - 1) < _GAMMA_SLACK:
        return None
    matrix = _matrix(tuple(points)) if differs else None
    return (np.arange(256) / 255) ** (1 / gamma), matrix


@lru_cache(maxsize=16)
def _cicp_curve(primaries: int, transfer: int) -> tuple[Array, Array | None] | None:
    points = _PRIMARIES.get(primaries, _SRGB_POINTS)
    plain = transfer not in (4, 5, 8, 16, 18)
    if plain and np.abs(np.subtract(points, _SRGB_POINTS)).max() <= _POINT_SLACK * 3:
        return None  # broadcast's own curve is shown as sRGB, too
    levels = np.arange(256) / 255
    light = {
        4: levels**2.2,
        5: levels**2.8,
        8: levels,
        16: _pq(levels),
        18: _hlg(levels),
    }.get(transfer, _decoded(levels))
    matrix = _matrix(points)
    return light, np.eye(3) if matrix is None else matrix


def _pq(levels: Array) -> Array:
    """SMPTE ST 2084, relative to a white of an ordinary picture."""
    root = levels ** (1 / 78.84375)
    return (
        10_000
        / _SDR_WHITE
        * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
    )


def _hlg(levels: Array) -> Array:
    """ARIB STD-B67 without the screen's own part; 0.75 of the signal is white."""
    upper = (np.exp((levels - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return np.where(levels <= 0.5, levels**2 / 3, upper) / 0.265


def _decoded(levels: Array) -> Array:
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def _encoded(linear: Array) -> Array:
    """Light -> levels of sRGB, uint8."""
    clipped = linear.clip(0, 1)
    curved = np.where(clipped <= 0.0031308, clipped * 12.92, 1.055 * clipped ** (1 / 2.4) - 0.055)
    return (curved * 255).round().astype(np.uint8)


def _screen(linear: Array) -> Array:
    """Light -> levels of a screen of gamma 2.2, which browsers use where a file states only a gamma."""
    return (linear.clip(0, 1) ** _SCREEN * 255).round().astype(np.uint8)


def _matrix(points: tuple[float, ...]) -> Array | None:
    """Linear RGB of these white and primaries -> linear sRGB; None where they cannot be true."""
    try:
        matrix = np.linalg.inv(_to_d65(_SRGB_POINTS)) @ _to_d65(points)
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return None
    return matrix if np.isfinite(matrix).all() else None


def _to_d65(points: tuple[float, ...]) -> Array:
    """Linear RGB -> XYZ, adapted to the white of sRGB."""
    white, *primaries = (_xyz(*points[i : i + 2]) for i in range(0, 8, 2))
    columns = np.stack(primaries, 1)
    columns = columns * np.linalg.solve(columns, white)
    gains = (_BRADFORD @ _xyz(*_SRGB_POINTS[:2])) / (_BRADFORD @ white)
    return np.linalg.inv(_BRADFORD) @ np.diag(gains) @ _BRADFORD @ columns


def _xyz(x: float, y: float) -> Array:
    return np.array([x / y, 1.0, (1 - x - y) / y])
