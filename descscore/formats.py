"""The formats of images that are read, the only list of them, and what a file in another format is.

:mod:`descscore.images` lets Pillow try these formats alone. Of its other formats, some start another program
(PostScript), and some show only a small preview of the picture (raw files of cameras).
"""

from __future__ import annotations

import re
from importlib.util import find_spec

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

IMAGE_FORMATS = tuple(_SUFFIXES)
"""Pillow's names of the formats that are read."""

BROWSER_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "AVIF", "MPO")
"""Those that browsers show."""

QUICK = ("JPEG", "PNG", "GIF", "BMP")
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

RAW_FILE = "a camera's raw file"
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
    ("StarView metafile (SVM)", rb"VCLMTF"),
    ("JPEG XR", rb"II\xbc"),
    (RAW_FILE, rb"FUJIFILMCCD-RAW|II\*\0.{4}CR\x02|II(?:RO|RS|U\0)|MMOR|\0MRM|FOVb|.{4}ftypcrx "),
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


def unread_kind(data: bytes) -> str:
    """What a file in a format that is not read is, by its first bytes; '' where they do not show it."""
    start = data[:_START]
    if start[4:8] == b"ftyp":
        length = int.from_bytes(start[:4], "big")
        brands = [start[i : i + 4] for i in range(8, min(max(length, 12), len(start)), 4)]
        if not {b"avif", b"avis"} & set(brands) and any(brand in _HEIF_BRANDS for brand in brands):
            return "HEIC"
    return next((kind for kind, mark in _UNREAD if re.match(mark, start, re.DOTALL)), "")
