"""Read an image from any source, and prepare the pixels that a model takes.

:func:`load_image` turns any source into an 8-bit RGB picture, as a person would see it. It applies
the EXIF orientation, puts transparent images on white, converts palettes and CMYK, scales 16-bit and
float greys, and takes the first frame of an animation. It never fetches anything.
:func:`picture_pixels` resizes a picture, then crops or pads it. Its result equals the first part of
open_clip's evaluation transform to the bit.

This module needs only Pillow and NumPy. So a worker process that decodes images starts quickly and
uses little memory, as it does not import torch. :class:`descscore.encoder.Encoder` then scales and
normalises whole batches on the model's device.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from descscore.errors import ImageError, ModelError

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any]"

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

_TILE_PIXELS = 1 << 20
"""Pixels of a large image that are converted at once."""

_TRANSPARENT_MODES = ("RGBA", "LA", "PA", "RGBa", "La")


def load_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read ``source`` as an RGB image.

    Args:
        source: A path, the bytes of an image file, a PIL image, or an array ``(height, width)`` or
            ``(height, width, 1, 3 or 4)`` of uint8 or bool, uint16 (full range), or float in 0..1.
        max_pixels: The largest image that is decoded.

    Raises:
        ImageError: The image cannot be scored. Its ``kind`` is ``url_not_supported``,
            ``missing_image``, ``unreadable_image``, ``empty_image``, ``not_an_image``,
            ``damaged_image``, ``image_too_large``, ``bad_array`` or ``bad_image_type``.
    """
    if isinstance(source, Image.Image):
        image = _open_checked(lambda: source, "image", max_pixels)
        return image.copy() if image is source else image
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        if not data:
            raise ImageError("empty_image", "image bytes: empty")
        return _open_checked(lambda: Image.open(io.BytesIO(data)), "image bytes", max_pixels)
    if isinstance(source, (str, os.PathLike)):
        path = check_path(source)
        return _open_checked(lambda: Image.open(path), str(path), max_pixels)
    if hasattr(source, "__array__"):
        return array_to_image(np.asarray(source), max_pixels)
    raise ImageError(
        "bad_image_type",
        f"image: expected a path, bytes, a PIL image or an array, got {type(source).__name__}",
    )


def image_identity(image: ImageSource) -> object:
    """Equal for two arguments that are the same image: the path, or the identity of the object."""
    return os.fspath(image) if isinstance(image, (str, os.PathLike)) else id(image)


def check_path(source: str | os.PathLike[str]) -> Path:
    """The path of an existing, non-empty file, or an :class:`ImageError` that names it."""
    text = os.fspath(source)
    if isinstance(text, bytes):
        text = os.fsdecode(text)
    if re.match(r"(?i)(https?|ftp|s3|gs|data):", text):
        raise ImageError(
            "url_not_supported",
            f"{text[:200]}: addresses are never fetched; download the image first "
            "(for example 'curl -O ADDRESS') and give the file's path",
        )
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
        raise ImageError("unreadable_image", f"{path}: {error.strerror or error}") from None
    if size == 0:
        raise ImageError("empty_image", f"{path}: the file is empty")
    return path


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
    return _open_checked(lambda: image, f"array of shape {shape}", max_pixels)


def _to_uint8(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == np.bool_:
        return np.ascontiguousarray(array).astype(np.uint8) * 255
    if array.dtype == np.uint16:
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


def _open_checked(opener: Any, name: str, max_pixels: int) -> Image.Image:
    """Open and decode an image; every error of Pillow becomes an :class:`ImageError`."""
    try:
        image = opener()
        if 0 in image.size:
            raise ImageError("damaged_image", f"{name}: has no pixels ({image.width}x{image.height})")
        if image.width * image.height > max_pixels:
            size = f"{image.width}x{image.height} pixels"
            raise ImageError("image_too_large", f"{name}: {size}, over the limit of {max_pixels}")
        if decoding_bytes(image) > MAX_MEMORY:
            size = f"{image.width}x{image.height} pixels of {image.format or image.mode}"
            raise ImageError("image_too_large", f"{name}: {size} take over {MAX_MEMORY:,} bytes to decode")
        return to_rgb(image)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError("image_too_large", f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise ImageError("not_an_image", f"{name}: not an image that Pillow can read") from None
    except PermissionError:
        raise ImageError("unreadable_image", f"{name}: permission denied") from None
    except MemoryError:
        raise ImageError("image_too_large", f"{name}: takes more memory than there is") from None
    except Exception as error:  # noqa: BLE001 - decoders raise anything on hostile data
        reason = str(error) or type(error).__name__
        raise ImageError("damaged_image", f"{name}: damaged or truncated image ({reason})") from None


def decoding_bytes(image: Image.Image) -> int:
    """An upper bound of the memory that reading an opened image takes, in bytes."""
    decoder = _DECODER_BYTES.get(image.format or "", 0)
    if image.info.get("progressive"):
        decoder = _PROGRESSIVE_BYTES
    return image.width * image.height * (3 * 4 + decoder)


def to_rgb(image: Image.Image) -> Image.Image:
    """The first frame of ``image`` as a person would see it, as 8-bit RGB.

    ``image`` stays unchanged, and may be the result itself.
    """
    frame = image.tell()
    if not frame:
        return _first_frame_to_rgb(image)
    image.seek(0)
    try:
        return _first_frame_to_rgb(image)
    finally:
        image.seek(frame)


def _first_frame_to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    image = _upright(image)
    if image.mode == "RGB" and image.format == "JPEG":
        # The file has one frame and is closed by now. A copy would cost a tenth of its decoding.
        return image
    if image.mode.startswith("I") or image.mode == "F":
        low, high = _grey_range(image)
        return _in_tiles(image, lambda tile: _scale_deep_grey(tile, low, high))
    if image.mode == "LAB":
        return _in_tiles(image, _lab_to_rgb)
    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        return _in_tiles(image, _on_white)
    return image.convert("RGB")


def _tiles(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of at most :data:`_TILE_PIXELS` that cover an image."""
    width = min(image.width, _TILE_PIXELS)
    height = _TILE_PIXELS // width
    for top in range(0, image.height, height):
        for left in range(0, image.width, width):
            yield left, top, min(left + width, image.width), min(top + height, image.height)


def _in_tiles(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert an image pixel by pixel to RGB, so that intermediate results take little memory."""
    if image.width * image.height <= _TILE_PIXELS:
        return convert(image)
    result = Image.new("RGB", image.size)
    for box in _tiles(image):
        result.paste(convert(image.crop(box)), box)
    return result


def _upright(image: Image.Image) -> Image.Image:
    """Turn the image as its EXIF data say. As in browsers, damaged EXIF data are ignored."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # noqa: BLE001 - the pixels can be used even if the tags are damaged
        return image


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _grey_range(image: Image.Image) -> tuple[float, float]:
    """The values of a deep grey image that mean black and white.

    16-bit greys have their full range. 32-bit and float greys have none, so their values set it.
    """
    if image.mode not in ("I", "F"):
        return 0.0, 65535.0
    lows, highs = [], []
    for box in _tiles(image):
        values = np.asarray(image.crop(box))
        finite = values[np.isfinite(values)]
        if finite.size:
            lows.append(float(finite.min()))
            highs.append(float(finite.max()))
    low, high = min(lows, default=0.0), max(highs, default=1.0)
    usual = 1.0 if image.mode == "F" else 65535.0
    return (0.0, usual) if low >= 0 and high <= usual else (low, high)


def _scale_deep_grey(image: Image.Image, low: float, high: float) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    scaled = (np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-12)
    return Image.fromarray((scaled.clip(0, 1) * 255).round().astype(np.uint8)).convert("RGB")


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # only the in-place form returns nothing
    return converted


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
