"""The formats of images that are read, the only list of them, and what a file in another format is.

:func:`open_image` lets Pillow try these formats alone. Of its other formats, some start another program
(PostScript), and some show only a small preview of the picture (raw files of cameras).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from PIL import Image, ImagePalette, UnidentifiedImageError

HAS_HEIF = find_spec("pillow_heif") is not None
"""Whether HEIC pictures can be read."""

_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "DIB": (".dib",),
    "ICNS": (".icns",),
    "ICO": (".ico",),
    "JPEG2000": (".j2c", ".j2k", ".jp2", ".jpc", ".jpf", ".jpx"),
    "MPO": (),
    "PCX": (".pcx",),
    "PPM": (".pbm", ".pgm", ".pnm", ".ppm", ".pfm"),
    "QOI": (".qoi",),
    "SGI": (".sgi",),
    "TIFF": (".tif", ".tiff"),
    "TGA": (".tga",),  # files of this format have no mark, so the others come first
}
_HEIF_SUFFIXES = (".heic", ".heif", ".hif")

FORMATS = tuple(_SUFFIXES)
"""Pillow's names of the formats that are read."""

BROWSER_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "AVIF", "MPO")
"""Those that browsers show."""

_QUICK = ("JPEG", "PNG", "GIF", "BMP")
"""Formats that Pillow always has in memory. To load the others takes it a moment."""

IMAGE_SUFFIXES = frozenset(
    suffix for suffixes in (*_SUFFIXES.values(), _HEIF_SUFFIXES if HAS_HEIF else ()) for suffix in suffixes
)
"""Endings of image files that are read, in lower case."""

UNREAD_SUFFIXES = (
    frozenset(
        [
            *(".ai", ".arw", ".cr2", ".cr3", ".dng", ".emf", ".eps", ".jxl", ".nef", ".orf", ".pdf", ".psd"),
            *(".raf", ".raw", ".rw2", ".svg", ".svgz", ".wmf", ".xcf", *_HEIF_SUFFIXES),
        ]
    )
    - IMAGE_SUFFIXES
)
"""Endings of pictures in formats that are not read."""

_START = 4096
"""Bytes at the beginning of a file that show its format."""

_RAW = "a camera's raw file"
_UNREAD = [
    ("PDF", rb".{0,1024}?%PDF-"),
    ("PostScript", rb"\x04?%!PS|\xc5\xd0\xd3\xc6"),
    ("SVG", rb"\xef?\xbb?\xbf?\s*(?:<\?xml.{0,3000}?)?(?:<!.{0,3000}?)?<svg\b"),
    ("a web page", rb"\xef?\xbb?\xbf?\s*(?:<!--.{0,1000}?-->\s*)?<(?i:!doctype html|html|head|body)\b"),
    ("XML", rb"\xef?\xbb?\xbf?\s*<\?xml\b"),
    ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
    ("Photoshop (PSD)", rb"8BPS"),
    ("GIMP (XCF)", rb"gimp xcf"),
    ("Windows metafile (WMF)", rb"\xd7\xcd\xc6\x9a|\x01\0\x09\0\0\x03"),
    ("Windows metafile (EMF)", rb"\x01\0\0\0.{36} EMF"),
    (_RAW, rb"FUJIFILMCCD-RAW|II\*\0.{4}CR\x02|II(?:RO|RS|U\0)|MMOR|\0MRM|FOVb|.{4}ftypcrx "),
    ("a video", rb".{4}ftyp(?:qt|isom|iso[2-9]|mp4|M4V|avc1|3g|dash|f4v)|\x1aE\xdf\xa3|RIFF.{4}AVI "),
    ("a video", rb"\0\0\x01[\xb3\xba]"),
    ("DirectDraw (DDS)", rb"DDS "),
    ("FITS", rb"SIMPLE  ="),
    ("OpenEXR", rb"v/1\x01"),
    ("Radiance HDR", rb"#\?(?:RADIANCE|RGBE)"),
    ("DjVu", rb"AT&TFORM"),
    ("XPM", rb"/\* XPM"),
    ("XBM", rb"\s*#define \w+_width"),
    ("a ZIP archive", rb"PK\x03\x04"),
    ("compressed with gzip", rb"\x1f\x8b"),
    ("a pointer of Git LFS, not the file itself", rb"version https://git-lfs"),
    ("an array of NumPy", rb"\x93NUMPY"),
    ("JSON", rb"\s*[{\[]\s*[\"{\[]"),
]
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")


def open_image(data: bytes, formats: Iterable[str] = FORMATS) -> Image.Image:
    """Let Pillow open the bytes of an image file, of one of ``formats``. No other program is ever started.

    Raises:
        UnidentifiedImageError: The file has another format, which the message names.
        Exception: What else Pillow raises for a damaged file.
    """
    allowed = tuple(formats)
    try:
        return _open(data, [name for name in _QUICK if name in allowed])
    except UnidentifiedImageError:
        pass  # the other formats follow
    kind = unread_kind(data)
    if kind == "HEIC" and HAS_HEIF and allowed == FORMATS:
        _load_heif()
        allowed = ("HEIF",)
    elif kind:
        hint = " or install pillow-heif" if kind == "HEIC" else ""
        raise UnidentifiedImageError(f"{kind}: not read; convert it{hint}")
    Image.init()
    try:
        image = _open(data, [name for name in allowed if name in Image.OPEN and name not in _QUICK])
    except UnidentifiedImageError:
        raise UnidentifiedImageError("not an image that can be read") from None
    _check_not_raw(image)
    if image.format == "TIFF":
        _settle_tiff(image)
    return image


def unread_kind(data: bytes) -> str:
    """What a file in a format that is not read is, by its first bytes; '' where they do not show it."""
    start = data[:_START]
    if start[4:8] == b"ftyp":
        length = int.from_bytes(start[:4], "big")
        brands = [start[i : i + 4] for i in range(8, min(max(length, 12), len(start)), 4)]
        if not {b"avif", b"avis"} & set(brands) and any(brand in _HEIF_BRANDS for brand in brands):
            return "HEIC"
    return next((kind for kind, mark in _UNREAD if re.match(mark, start, re.DOTALL)), "")


def _open(data: bytes, formats: list[str]) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=formats)


def _check_not_raw(image: Image.Image) -> None:
    """Raise :class:`UnidentifiedImageError` for a raw file in the form of a TIFF file.

    Such a file begins with a preview, or holds what the sensor saw before it became a picture.
    """
    tags: Any = getattr(image, "tag_v2", {})
    if _DNG_VERSION in tags or (_SUB_IFDS in tags and tags.get(_NEW_SUBFILE_TYPE, 0) & 1):
        raise UnidentifiedImageError(f"{_RAW}: not read; convert it")


def _settle_tiff(image: Image.Image) -> None:
    """Put right what Pillow misreads in TIFF files.

    Raises:
        UnidentifiedImageError: It would show another picture, without an error.
    """
    tags: Any = getattr(image, "tag_v2", {})
    opened: Any = image
    tiles = opened.tile
    in_file = bool(tiles) and tiles[0][0] == "raw"  # otherwise libtiff decodes
    deep = max(tags.get(_BITS, (1,))) > 8
    if tags.get(_PLANES) == 2 and (image.mode in ("LA", "PA") or (in_file and deep)):
        raise UnidentifiedImageError(
            f"TIFF with a plane for each channel of {image.mode}: not read; convert it"
        )
    if not in_file:
        # What libtiff decodes is in the computer's own order of bytes, whatever the file's.
        opened.tile = [
            tile._replace(args=(re.sub(r"^([IF];\d+)B", r"\1N", tile.args[0]), *tile.args[1:]))
            for tile in tiles
        ]
    colours = tags.get(_COLOUR_MAP, ())
    if image.mode == "P" and colours and max(colours) < 256:  # some programs write 8 bits where 16 belong
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))


_BITS, _PLANES, _COLOUR_MAP = 258, 284, 320
_NEW_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50706


@cache
def _load_heif() -> None:
    import_module("pillow_heif").register_heif_opener()
