"""What an image file says beside its pixels: colour, orientation, transparency and the place of a frame.

:func:`separate` takes this out of PNG and JPEG files, so that a comment, a profile or a tag that is large or
broken cannot keep sound pixels from being read. Of other formats it takes what Pillow does not give.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any, TypeAlias

Info: TypeAlias = "dict[str, Any]"
"""Facts under the names of Pillow's ``Image.info``: ``icc_profile``, ``exif``, ``gamma``, ``chromaticity``
and ``transparency``; and three more. ``cicp``: the numbers of primaries and transfer curve after ITU-T H.273.
``canvas``: width and height of the whole picture, and left and top of the frame in it, in pixels.
``deep_transparency``: the transparent colour of an RGB picture of 16 bits, in 16 bits."""

MAX_PROFILE = 1 << 24
"""Bytes of the largest colour profile that is used."""

_MOST_PARTS = 1 << 16
"""Most chunks of a PNG file, or segments and filling bytes of a JPEG file, that are taken apart. Each takes
time and memory, so a file with more stays as it is."""

_PNG = b"\x89PNG\r\n\x1a\n"


def separate(data: bytes) -> tuple[bytes, Info]:
    """An image file without what its pixels do not need, and what it says about them.

    Never raises: a file that cannot be understood stays as it is.
    """
    try:
        if data[:8] == _PNG:
            return _separate_png(data)
        if data[:3] == b"\xff\xd8\xff":
            return _separate_jpeg(data)
        if data[:4] == b"RIFF" and data[12:16] == b"VP8X" and data[20] & _WEBP_ANIMATION:
            # Without this flag, Pillow paints black what the first frame leaves out.
            return data[:20] + bytes([data[20] | _WEBP_ALPHA]) + data[21:], {}
        if data[:2] == b"BM":
            return data, _bmp_info(data)
        if data[4:8] in (b"ftyp", b"jP  "):
            return data, _box_info(data)
    except (ValueError, IndexError, struct.error, zlib.error):
        pass
    return data, {}


_WEBP_ANIMATION, _WEBP_ALPHA = 0x02, 0x10


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Names of chunks, and where their content begins and ends. The last one may reach beyond the file."""
    place = len(_PNG)
    for _ in range(_MOST_PARTS):
        if place + 8 > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, place)
        yield name, place + 8, place + 8 + length
        if name == b"IEND":
            return
        place += 12 + length
    raise ValueError("too many chunks")


def _separate_png(data: bytes) -> tuple[bytes, Info]:
    view = memoryview(data)
    kept: list[bytes | memoryview] = [_PNG]
    names = set()
    said: dict[bytes, bytes] = {}
    frames: list[tuple[bytes, list[bytes]]] = []
    """The ``fcTL`` and the pixel data of frames that are not the default picture; only the first is used."""
    has_pixels = False
    for name, start, end in _png_chunks(data):
        names.add(name)
        if name in (b"IHDR", b"PLTE", b"IDAT"):
            kept.append(view[start - 8 : end + 4])  # its checksum is Pillow's business
            has_pixels |= name == b"IDAT"
        elif name == b"fcTL" and len(frames) < 2:
            frames.append((data[start:end], [] if has_pixels else [b"default"]))
        elif name == b"fdAT" and len(frames) == 1:
            frames[0][1].append(data[start + 4 : end])
        elif name in _PNG_FACTS and (not has_pixels or name == b"eXIf") and name not in said:
            content = data[start:end]
            if data[end : end + 4] == struct.pack(">I", zlib.crc32(name + content)):
                said[name] = content
    if names == {b"IHDR", b"IDAT", b"IEND"}:
        return data, {}
    header = bytearray(kept[1][8:21])
    info = _png_info(said, depth=header[8], colour=header[9])
    if header[9] == _PNG_PALETTE and b"tRNS" in said:
        place = next(i for i, part in enumerate(kept) if part[4:8] == b"IDAT")
        kept.insert(place, _chunk(b"tRNS", said[b"tRNS"][:256]))
    if b"acTL" in said and frames and frames[0][1] and frames[0][1][0] != b"default":
        # The picture in IDAT is for programs that know no animations; browsers never show it.
        control, parts = frames[0]
        width, height, left, top = struct.unpack_from(">4I", control, 4)
        info["canvas"] = (*struct.unpack(">2I", header[:8]), left, top)
        header[:8] = struct.pack(">2I", width, height)
        pixels = [_chunk(b"IDAT", part) for part in parts]
        kept = [_PNG, _chunk(b"IHDR", bytes(header)), *(k for k in kept[2:] if k[4:8] != b"IDAT"), *pixels]
    return b"".join([*kept, _chunk(b"IEND", b"")]), info


_PNG_FACTS = (b"tRNS", b"eXIf", b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"acTL")
_PNG_GREY, _PNG_RGB, _PNG_PALETTE = 0, 2, 3


def _png_info(said: dict[bytes, bytes], depth: int, colour: int) -> Info:
    info: Info = {}
    if b"eXIf" in said:
        info["exif"] = b"Exif\0\0" + said[b"eXIf"]
    clear = said.get(b"tRNS", b"")
    if colour == _PNG_GREY and len(clear) == 2:
        # Pillow widens grey to 8 bits, but not the grey that is transparent.
        wide = 1 if depth >= 8 else 255 // (2**depth - 1)
        info["transparency"] = (int.from_bytes(clear, "big") & (2**depth - 1)) * wide
    if colour == _PNG_RGB and len(clear) == 6:
        info["deep_transparency" if depth == 16 else "transparency"] = struct.unpack(">3H", clear)
    return info | _png_colour(said)


def _png_colour(said: dict[bytes, bytes]) -> Info:
    """What counts of the chunks on colour, by the order that the PNG standard sets."""
    if len(said.get(b"cICP", b"")) == 4 and said[b"cICP"][2] == 0:
        return {"cicp": (said[b"cICP"][0], said[b"cICP"][1])}
    if b"iCCP" in said:
        _, _, packed = said[b"iCCP"].partition(b"\0")
        unpacker = zlib.decompressobj()
        try:
            profile = unpacker.decompress(packed[1:], MAX_PROFILE)
        except zlib.error:
            profile = b""
        if profile and unpacker.eof:
            return {"icc_profile": profile}
    if b"sRGB" in said or len(said.get(b"gAMA", b"")) != 4:
        return {}
    info: Info = {"gamma": int.from_bytes(said[b"gAMA"], "big") / 100_000}
    if len(said.get(b"cHRM", b"")) == 32:
        info["chromaticity"] = tuple(v / 100_000 for v in struct.unpack(">8I", said[b"cHRM"]))
    return info


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Markers of segments, and where they begin and end, up to the first scan of pixels."""
    place = 2
    for _ in range(_MOST_PARTS):
        if data[place] != 0xFF:
            raise ValueError("no segment")
        marker = data[place + 1]
        if marker == 0xFF:  # filling
            place += 1
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        yield marker, place, end
        if marker == _SCAN:
            return
        place = end
    raise ValueError("too many segments")


def _separate_jpeg(data: bytes) -> tuple[bytes, Info]:
    kept = [data[:2]]
    info: Info = {}
    profile: dict[int, bytes] = {}
    parts = 0
    for marker, start, end in _jpeg_segments(data):
        content = data[start + 4 : end]
        if marker == _SCAN:
            kept.append(data[start:])
        elif _is_needed(marker, content):
            kept.append(data[start:end])
        elif marker == _APP1 and content[:6] == b"Exif\0\0":
            info.setdefault("exif", content)
        elif marker == _APP2 and content[:12] == b"ICC_PROFILE\0" and len(content) > 14:
            profile[content[12]], parts = content[14:], content[13]
    if profile and sorted(profile) == list(range(1, parts + 1)):
        info["icc_profile"] = b"".join(profile[i] for i in sorted(profile))
    return b"".join(kept), info


def _is_needed(marker: int, content: bytes) -> bool:
    """Whether a JPEG decoder needs a segment: those of pixels, and the two that say what the channels are."""
    if marker == _APP0:
        return content[:5] == b"JFIF\0" and len(content) >= 14
    if marker == _APP14:
        return content[:5] == b"Adobe" and len(content) >= 12
    return not (_APP0 <= marker <= _APP15 or marker == _COMMENT)


_APP0, _APP1, _APP2, _APP14, _APP15, _COMMENT, _SCAN = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE, 0xDA


def _bmp_info(data: bytes) -> Info:
    """The colours that the header of version 4 or 5 of a BMP file states."""
    size, kind = int.from_bytes(data[14:18], "little"), data[70:74]
    if size >= 124 and kind == b"DEBM":
        start, length = struct.unpack_from("<2I", data, 14 + 112)
        return {"icc_profile": data[14 + start : 14 + start + length]} if length <= MAX_PROFILE else {}
    if size >= 108 and kind == b"\0\0\0\0":
        *ends, red, green, blue = struct.unpack_from("<12I", data, 74)
        xyz = [[v / (1 << 30) for v in ends[i : i + 3]] for i in (0, 3, 6)]
        if all(sum(end) > 0 for end in xyz) and red == green == blue > 0:
            white = [sum(column) for column in zip(*xyz, strict=True)]
            points = [(x / (x + y + z), y / (x + y + z)) for x, y, z in (white, *xyz)]
            return {"gamma": 65536 / red, "chromaticity": tuple(v for point in points for v in point)}
    return {}


def _box_info(data: bytes) -> Info:
    """The colours that AVIF and JPEG 2000 files state, where Pillow does not give them."""
    for box in re.finditer(rb"(?s)(.{4})colr(nclx|\x02)", data[:_BOXES]):
        if box[2] == b"nclx":
            return {"cicp": struct.unpack_from(">2H", data, box.end())}
        end = box.start() + int.from_bytes(box[1], "big")
        return {"icc_profile": data[box.end() + 2 : end]}
    return {}


_BOXES = 1 << 20
"""Bytes of a file in which its boxes on colour are looked for."""
