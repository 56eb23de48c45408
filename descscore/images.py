"""Open and read an image from any source, and prepare the pixels that a model takes.

:func:`load_image` turns any source into an 8-bit RGB picture, as a current browser shows it:
:mod:`descscore.metadata` says what a file holds beside its pixels, and :mod:`descscore.appearance` makes the
picture of both. It never fetches anything and starts no program.
:func:`picture_pixels` resizes a picture, then crops or pads it. Its result equals the first part of
open_clip's evaluation transform to the bit.

This module needs only Pillow and NumPy. So a worker process that decodes images starts quickly and
uses little memory, as it does not import torch. :class:`descscore.encoder.Encoder` then scales and
normalises whole batches on the model's device.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote

import numpy as np
from PIL import Image, ImageOps, ImagePalette, UnidentifiedImageError
from PIL.ExifTags import Base as Tag

from descscore.appearance import to_rgb
from descscore.errors import ImageError, ModelError, shown
from descscore.formats import HAS_HEIF, IMAGE_FORMATS, QUICK, RAW_FILE, unread_kind
from descscore.metadata import separate

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any]"

BYTES_NAME = "image bytes"
"""What messages call an image that was given as the bytes of its file."""

PATH_LIMIT = 4096
"""Longest path of an image, in characters."""

MAX_PIXELS = 178_956_970
"""Largest image that is decoded, in pixels: the size at which Pillow refuses by default."""

MAX_FILE_BYTES = 1 << 30
"""Largest image file that is read."""

MAX_MEMORY = 1 << 31
"""Memory that decoding an image may take, in bytes: the image, a turned copy and the RGB result, of 4 bytes a
pixel each, and what the decoder needs itself. Resizing an image may take as much."""

_DECODER_BYTES = {"AVIF": 16, "JPEG2000": 16, "TIFF": 8, "WEBP": 16}
"""Bytes a pixel that a format's decoder may hold at once; the others decode row by row."""
_PROGRESSIVE_BYTES = 6
"""Bytes a pixel that the decoder holds of a progressive JPEG."""
_DEEP_BYTES = 12
"""Bytes a pixel of the lower bytes, the alpha and the copy that an RGB picture of 16 bits may need."""

DECODING = "v3"
"""The version of how files become pixels, for signatures. It rises when scores of any files move."""


def load_image(
    source: ImageSource, max_pixels: int = MAX_PIXELS, bytes_name: str = BYTES_NAME
) -> Image.Image:
    """Read ``source`` as an RGB image.

    Args:
        source: A path, the bytes of an image file, a PIL image, or an array ``(height, width)`` or
            ``(height, width, 1, 3 or 4)`` of uint8 or bool, uint16 (full range), or float in 0..1. A PIL
            image that is opened but not loaded is read as its file.
        max_pixels: The largest image that is decoded.
        bytes_name: What messages call an image that is given as bytes, such as their file.

    Raises:
        ImageError: The image cannot be scored. Its ``kind`` is ``url_not_supported``,
            ``missing_image``, ``unreadable_image``, ``empty_image``, ``not_an_image``,
            ``damaged_image``, ``image_too_large``, ``bad_array`` or ``bad_image_type``.
    """
    if isinstance(source, Image.Image):
        if getattr(source, "tile", None) and source.format not in (*IMAGE_FORMATS, "HEIF"):
            # To load it may start another program.
            raise ImageError("not_an_image", f"image: {source.format}: not read; convert it")
        data, name = _bytes_not_loaded(source), "image"
        if data is None:
            return _read(lambda: source, name, max_pixels, own=False)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        data, name = bytes(source), bytes_name
        if not data:
            raise ImageError("empty_image", f"{name}: empty")
    elif isinstance(source, (str, os.PathLike)):
        data, name = read_image_file(source), os.fsdecode(source)
    elif hasattr(source, "__array__"):
        return array_to_image(np.asarray(source), max_pixels)
    else:
        kind = type(source).__name__
        raise ImageError(
            "bad_image_type", f"image: expected a path, bytes, a PIL image or an array, got {kind}"
        )
    return _read(partial(open_bytes, data), name, max_pixels)


def open_bytes(data: bytes, formats: Iterable[str] = IMAGE_FORMATS) -> Image.Image:
    """Let Pillow open the bytes of an image file, with what the file says beside its pixels as ``info``.

    Args:
        data: The file. No other program is ever started for it.
        formats: Those that Pillow may try, of :data:`descscore.formats.IMAGE_FORMATS`.

    Raises:
        UnidentifiedImageError: The file has another format, which the message names.
        Exception: What else Pillow raises for a damaged file.
    """
    pixels, said = separate(data)
    image = _open(pixels, tuple(formats))
    for name in ("xmp", "XML:com.adobe.xmp", "Raw profile type exif"):
        image.info.pop(name, None)  # Pillow, unlike browsers, looks there for an orientation
    image.info.update(said)
    if "deep_transparency" in said:
        image.info["file"] = pixels
    return image


def _open(data: bytes, allowed: tuple[str, ...]) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=[name for name in QUICK if name in allowed])
    except UnidentifiedImageError:
        pass  # the other formats follow
    kind = unread_kind(data)
    if kind == "HEIC" and HAS_HEIF and allowed == IMAGE_FORMATS:
        _load_heif()
        allowed = ("HEIF",)
    elif kind:
        hint = " or install pillow-heif" if kind == "HEIC" else ""
        raise UnidentifiedImageError(f"{kind}: not read; convert it{hint}")
    Image.init()
    others = [name for name in allowed if name in Image.OPEN and name not in QUICK]
    try:
        image = Image.open(io.BytesIO(data), formats=others)
    except UnidentifiedImageError:
        raise UnidentifiedImageError("not an image that can be read") from None
    _check_not_raw(image)
    if image.format == "TIFF":
        _settle_tiff(image)
    return image


@cache
def _load_heif() -> None:
    import_module("pillow_heif").register_heif_opener()


def _check_not_raw(image: Image.Image) -> None:
    """Raise :class:`UnidentifiedImageError` for a raw file in the form of a TIFF file.

    Such a file begins with a preview, or holds what the sensor saw before it became a picture.
    """
    tags: Any = getattr(image, "tag_v2", {})
    if Tag.DNGVersion in tags or (Tag.SubIFDs in tags and tags.get(Tag.NewSubfileType, 0) & 1):
        raise UnidentifiedImageError(f"{RAW_FILE}: not read; convert it")


def _settle_tiff(image: Image.Image) -> None:
    """Put right what Pillow misreads in TIFF files.

    Raises:
        UnidentifiedImageError: It would show another picture, without an error.
    """
    tags: Any = getattr(image, "tag_v2", {})
    opened: Any = image
    tiles = opened.tile
    in_file = bool(tiles) and tiles[0][0] == "raw"  # otherwise libtiff decodes
    deep = max(tags.get(Tag.BitsPerSample, (1,))) > 8
    if tags.get(Tag.PlanarConfiguration) == 2 and (image.mode in ("LA", "PA") or (in_file and deep)):
        raise UnidentifiedImageError(
            f"TIFF with a plane for each channel of {image.mode}: not read; convert it"
        )
    if not in_file:
        # What libtiff decodes is in the computer's own order of bytes, whatever the file's.
        opened.tile = [
            tile._replace(args=(re.sub(r"^([IF];\d+)B", r"\1N", tile.args[0]), *tile.args[1:]))
            for tile in tiles
        ]
    colours = tags.get(Tag.ColorMap, ())
    if image.mode == "P" and colours and max(colours) < 256:  # some programs write 8 bits where 16 belong
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))


def _bytes_not_loaded(image: Image.Image) -> bytes | None:
    """The file of a PIL image that is opened but not loaded; None if it is not at hand as it was."""
    file = getattr(image, "fp", None)
    # For two formats Pillow lists no tiles, but replaces the file when it loads the picture.
    if file is None or not (getattr(image, "tile", None) or image.format in ("WEBP", "AVIF")):
        return None
    try:
        place = file.tell()
        file.seek(0)
        data = file.read(MAX_FILE_BYTES)
        file.seek(place)
        with open_bytes(data) as again:
            return bytes(data) if shown_size(again) == image.size else None
    except Exception:  # noqa: BLE001 - the image itself is tried next, and says what is wrong
        return None


def content_digest(data: bytes) -> bytes:
    """SHA-256 of an image file's bytes; images with equal digests count as the same image."""
    return hashlib.sha256(data).digest()


def image_identity(image: object) -> object:
    """Equal for two arguments that are the same image: the path, or the identity of the object."""
    return os.fspath(image) if isinstance(image, (str, os.PathLike)) else id(image)


def bytes_or_path(image: Any) -> Any:
    """The bytes or the path in a struct of both, as ``datasets`` writes an image. Other values stay."""
    if isinstance(image, Mapping) and image.keys() & {"bytes", "path"}:
        return image.get("bytes") or image.get("path")
    return image


def check_path(source: str | os.PathLike[str]) -> Path:
    """The path of an existing, non-empty file, or an :class:`ImageError` that names it."""
    text = os.fspath(source)
    if isinstance(text, bytes):
        text = os.fsdecode(text)
    if re.match(r"(?i)((https?|ftp|s3|gs|data):|file:/)", text):
        raise address_fault(text)
    if not text.strip() or "\0" in text:
        raise ImageError("missing_image", f"image path {text!r}: not a file name")
    path = Path(text)
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise ImageError("not_an_image", f"{path}: is a folder, not an image file")
        if not path.is_file():
            raise ImageError("not_an_image", f"{path}: is not a regular file")
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError("missing_image", f"{path}: no such file") from None
    except OSError as error:
        check_is_path(text)  # the content of a file in place of its path is too long for a name
        raise ImageError("unreadable_image", f"{path}: {error.strerror or error}") from None
    if size == 0:
        raise ImageError("empty_image", f"{path}: the file is empty")
    return path


def address_fault(text: str) -> ImageError:
    """The error for an address in place of a path, which says what to give instead."""
    if text[:5].lower() == "file:":
        file = re.match(r"(?is)file:(?://(?:localhost)?)?(/[^/].*)", text[:PATH_LIMIT])
        path = f"write the path {shown(unquote(file[1]))}" if file else "give the file's path"
        reason = f"{text[:100]}: addresses are not read; {path}"
    elif text[:5].lower() == "data:":
        reason = (
            f"{text[:40]}: this address holds the image itself; save it as a file and give the file's path"
        )
    else:
        reason = (
            f"{text[:200]}: addresses are never fetched; download the image first "
            "(for example 'curl -O ADDRESS') and give the file's path"
        )
    return ImageError("url_not_supported", reason)


_LOOKS = {
    "base64 data": r"(?:iVBORw0KGgo|/9j/[24]|R0lGOD[dl]h|UklGR|SUkqA|TU0AK)[\w+/=\s]*",
    "the text of Python's bytes": r"b(['\"]).*\1",
    "JSON": r"\{.*\}|\[.*\]",
    "markup": r"<.*>",
    "hexadecimal data": r"(?:89504e47|ffd8ff|47494638)[0-9a-fA-F]*",
}
_SHORT, _NAME_LIMIT = 100, 255


def check_is_path(path: str) -> None:
    """Raise :class:`ImageError` for a text that cannot be a path, and say what it looks like."""
    if len(path) <= _SHORT:
        return
    # A path has a limit, so both ends of a longer text show what it is: it may hold many megabytes.
    ends = path if len(path) <= PATH_LIMIT else path[:PATH_LIMIT] + path[-PATH_LIMIT:]
    text, long_name = ends.strip(), max(map(len, ends.split("/"))) > _NAME_LIMIT
    look = next((look for look, form in _LOOKS.items() if re.fullmatch(form, text, re.DOTALL)), "")
    if not look and long_name and re.fullmatch(r"[\w+/=-]+", text, re.ASCII):
        look = "base64 data"
    if not (look or long_name or len(path) > PATH_LIMIT):
        return
    guess = f"looks like {look}" if look else "is too long for a path"
    raise ImageError(
        "bad_image_type",
        f"the image is text of {len(path):,} characters that {guess} ({path[:20]!r}...); "
        "give a path, or bytes in Python or a Parquet file",
    )


def read_image_file(name: str | os.PathLike[str]) -> bytes:
    """The bytes of an image file. Raises :class:`ImageError` that names the file."""
    path = check_path(name)
    try:
        with path.open("rb") as file:
            # read() reserves all the memory that it is asked for, so ask only for the file's size.
            size = os.fstat(file.fileno()).st_size
            data = b"" if size > MAX_FILE_BYTES else file.read(size + 1)
    except OSError as error:
        raise ImageError("unreadable_image", f"{path}: {error.strerror or error}") from None
    if size > MAX_FILE_BYTES:
        raise ImageError("image_too_large", f"{path}: over the limit of {MAX_FILE_BYTES} bytes")
    return data


def array_to_image(array: np.ndarray[Any, Any], max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Turn an array (see :func:`load_image`) into an RGB image."""
    shape = "x".join(map(str, array.shape))
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(
            "bad_array",
            f"array of shape {shape}: expected height x width, or height x width x 1, 3 or 4 (channels last)",
        )
    if 0 in array.shape:
        raise ImageError("bad_array", f"array of shape {shape}: has no pixels")
    image = Image.fromarray(_to_uint8(array))
    return _read(lambda: image, f"array of shape {shape}", max_pixels)


def _to_uint8(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == np.bool_:
        return np.ascontiguousarray(array).astype(np.uint8) * 255
    if array.dtype.newbyteorder("=") == np.uint16:
        return (array.astype(np.float64) / 257).round().astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ImageError(
                "bad_array", f"float array: values must lie in 0..1, got {array.min():g}..{array.max():g}"
            )
        return (array * 255).round().astype(np.uint8)
    raise ImageError(
        "bad_array", f"array of type {array.dtype}: expected uint8, uint16, bool, or float in 0..1"
    )


def _read(opener: Callable[[], Image.Image], name: str, max_pixels: int, own: bool = True) -> Image.Image:
    """Open and decode an image; every error of Pillow becomes an :class:`ImageError` that names it."""
    try:
        image = opener()
        width, height = shown_size(image)
        if 0 in (width, height):
            raise ImageError("damaged_image", f"has no pixels ({width}x{height})")
        if width * height > max_pixels:
            raise ImageError("image_too_large", f"{width}x{height} pixels, over the limit of {max_pixels}")
        if decoding_bytes(image) > MAX_MEMORY:
            size = f"{width}x{height} pixels of {image.format or image.mode}"
            raise ImageError("image_too_large", f"{size} take over {MAX_MEMORY:,} bytes to decode")
        return to_rgb(image, own)
    except ImageError as error:
        raise ImageError(error.kind, f"{name}: {error}") from None
    except Image.DecompressionBombError as error:
        raise ImageError("image_too_large", f"{name}: {error}") from None
    except UnidentifiedImageError as error:
        raise ImageError("not_an_image", f"{name}: {error}") from None
    except MemoryError:
        raise ImageError("image_too_large", f"{name}: takes more memory than there is") from None
    except Exception as error:  # noqa: BLE001 - decoders raise anything on hostile data
        reason = str(error) or type(error).__name__
        raise ImageError("damaged_image", f"{name}: damaged or truncated image ({reason})") from None


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the whole picture, of which an opened file's first frame may be a part."""
    canvas = image.info.get("canvas")
    return (canvas[0], canvas[1]) if isinstance(canvas, tuple) else image.size


def decoding_bytes(image: Image.Image) -> int:
    """An upper bound of the memory that reading an opened image takes, in bytes."""
    decoder = _DECODER_BYTES.get(image.format or "", 0)
    if image.info.get("progressive"):
        decoder = _PROGRESSIVE_BYTES
    if "deep_transparency" in image.info:
        decoder = _DEEP_BYTES
    width, height = shown_size(image)
    return width * height * (3 * 4 + decoder)


_MODES = ("shortest", "longest", "squash")


@dataclass(frozen=True)
class PixelSpec:
    """The size of the pictures that a model takes, and how to resize pictures to it."""

    height: int
    """In pixels."""
    width: int
    """In pixels."""
    mode: str = "shortest"
    """``shortest`` fits the shorter edge and crops the rest. ``longest`` fits the longer edge and pads with
    ``fill``. ``squash`` fits both edges, and may distort the picture."""
    interpolation: str = "bicubic"
    """``bicubic`` or ``bilinear``."""
    fill: int = 0
    """Grey level, 0..255, of padding."""

    @property
    def nbytes(self) -> int:
        """Bytes of one prepared picture."""
        return self.height * self.width * 3


def pixel_spec(config: Mapping[str, Any]) -> PixelSpec:
    """The picture part of an open_clip preprocessing configuration."""
    size, mode = config["size"], config["resize_mode"] or "shortest"
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    if mode not in _MODES:
        raise ModelError(f"resize mode {mode!r} is not one of {', '.join(_MODES)}")
    # Outside training, open_clip uses bicubic for 'random', and for 'shortest' unless the size is square.
    always_bicubic = mode == "shortest" and height != width
    bilinear = config["interpolation"] == "bilinear" and not always_bicubic
    interpolation = "bilinear" if bilinear else "bicubic"
    return PixelSpec(int(height), int(width), str(mode), interpolation, int(config.get("fill_color") or 0))


def picture_pixels(image: Image.Image, spec: PixelSpec) -> np.ndarray[Any, Any]:
    """An RGB picture -> ``(height, width, 3)`` uint8, resized, and cropped or padded in the centre.

    Raises:
        ImageError: Of kind ``image_too_large``, for a picture so long and narrow that resizing it would take
            over :data:`MAX_MEMORY`.
    """
    target = _target_size(image.width, image.height, spec)
    if _resizing_bytes(image.size, target) > MAX_MEMORY:
        size = f"{image.width}x{image.height} pixels"
        raise ImageError("image_too_large", f"image: {size} take over {MAX_MEMORY:,} bytes to resize")
    return np.asarray(_centred(image.resize(target, Image.Resampling[spec.interpolation.upper()]), spec))


def load_pixels(source: ImageSource, spec: PixelSpec, bytes_name: str = BYTES_NAME) -> np.ndarray[Any, Any]:
    """:func:`picture_pixels` of an image that :func:`load_image` reads; errors of both name the image."""
    picture = load_image(source, bytes_name=bytes_name)
    try:
        return picture_pixels(picture, spec)
    except ImageError as error:
        name = os.fsdecode(source) if isinstance(source, (str, os.PathLike)) else "image"
        name = bytes_name if isinstance(source, (bytes, bytearray, memoryview)) else name
        raise ImageError(error.kind, f"{name}: {str(error).removeprefix('image: ')}") from None


def _resizing_bytes(size: tuple[int, int], target: tuple[int, int]) -> int:
    """An upper bound of the memory that Pillow's resizing takes, in bytes.

    Pillow holds the picture, the result, and between them a picture with the new width and the old height, of
    4 bytes a pixel each. For every new row and column, it holds the weights of the old ones near it, of 8
    bytes each.
    """
    (width, height), (new_width, new_height) = size, target
    pixels = width * height + new_width * height + new_width * new_height
    weights = 4 * (width + height) + 6 * (new_width + new_height)
    return 4 * pixels + 8 * weights


def _target_size(width: int, height: int, spec: PixelSpec) -> tuple[int, int]:
    """Width and height to resize to. Each mode rounds as open_clip's transform does."""
    if spec.mode == "squash":
        return spec.width, spec.height
    if spec.mode == "shortest" and spec.width == spec.height:
        short = spec.width
        longer = int(short * max(width, height) / min(width, height))
        return (short, longer) if width <= height else (longer, short)
    ratios = height / spec.height, width / spec.width
    ratio = max(ratios) if spec.mode == "longest" else min(ratios)
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def _centred(image: Image.Image, spec: PixelSpec) -> Image.Image:
    missing = max(spec.width - image.width, 0), max(spec.height - image.height, 0)
    if any(missing):
        left, top = missing[0] // 2, missing[1] // 2
        border = (left, top, missing[0] - left, missing[1] - top)
        image = ImageOps.expand(image, border=border, fill=(spec.fill,) * 3)
    if image.size == (spec.width, spec.height):
        return image
    top, left = round((image.height - spec.height) / 2), round((image.width - spec.width) / 2)
    return image.crop((left, top, left + spec.width, top + spec.height))
