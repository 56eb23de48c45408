"""Picture files that no library writes, made by hand: odd chunks, tags, frames and colour profiles."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray


def saved(image: Image.Image, form: str, **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **more)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes, broken: bool = False) -> bytes:
    check = zlib.crc32(name + content) ^ (1 if broken else 0)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {"grey": 0, "rgb": 2, "palette": 3, "grey alpha": 4, "rgb alpha": 6}


def png_pixels(samples: Array, depth: int) -> bytes:
    """Samples ``(height, width, channels)`` as the content of a file's IDAT."""
    height, width, channels = samples.shape
    if depth == 16:
        lines = samples.astype(">u2").reshape(height, -1).view(np.uint8).reshape(height, -1)
    else:
        bits = np.unpackbits(samples.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        lines = np.packbits(bits.reshape(height, width * channels * depth), axis=1)
    return zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))


def png(samples: Array, depth: int, colour: str, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG file of these samples, with further chunks before and after its pixels."""
    height, width, _ = samples.shape
    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, COLOUR_TYPES[colour], 0, 0, 0))
    pixels = chunk(b"IDAT", png_pixels(samples, depth))
    return SIGNATURE + header + before + pixels + after + chunk(b"IEND", b"")


def png_with(image: Image.Image, before: bytes = b"", after: bytes = b"") -> bytes:
    """An 8-bit RGB PNG with further chunks."""
    return png(np.asarray(image.convert("RGB")), 8, "rgb", before, after)


def frame_control(number: int, width: int, height: int, left: int, top: int) -> bytes:
    return chunk(b"fcTL", struct.pack(">5I2H2B", number, width, height, left, top, 1, 10, 0, 0))


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def jpeg_with(data: bytes, segments: bytes) -> bytes:
    """A JPEG file with further segments at its beginning."""
    return data[:2] + segments + data[2:]


def without_segment(data: bytes, marker: int) -> bytes:
    """A JPEG file without its first segment of that kind."""
    start = data.index(bytes([0xFF, marker]))
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]


def tiff(
    pixels: bytes, size: tuple[int, int], tags: Mapping[int, int | Sequence[int]], big: bool = False
) -> bytes:
    """An uncompressed TIFF file. Tags of one number are 32-bit, those of several 16-bit."""
    order = ">" if big else "<"
    entries: dict[int, int | Sequence[int]] = {
        256: size[0],
        257: size[1],
        259: 1,
        273: 8,
        278: size[1],
        279: len(pixels),
        **tags,
    }
    place = 8 + len(pixels)
    extra = b""
    table = struct.pack(order + "H", len(entries))
    after = place + 2 + 12 * len(entries) + 4
    for tag, value in sorted(entries.items()):
        if isinstance(value, int):
            table += struct.pack(order + "HHII", tag, 4, 1, value)
        elif len(value) <= 2:
            table += struct.pack(order + "HHIHH", tag, 3, len(value), *value, *[0] * (2 - len(value)))
        else:
            table += struct.pack(order + "HHII", tag, 3, len(value), after + len(extra))
            extra += struct.pack(f"{order}{len(value)}H", *value)
    mark = b"MM\0*" if big else b"II*\0"
    return mark + struct.pack(order + "I", place) + pixels + table + struct.pack(order + "I", 0) + extra


def gif_on_canvas(image: Image.Image, canvas: tuple[int, int], place: tuple[int, int]) -> bytes:
    """A GIF file whose only frame covers a part of the picture."""
    data = bytearray(saved(image, "GIF"))
    frame = data.index(b"\x2c" + struct.pack("<4H", 0, 0, *image.size))
    data[frame + 1 : frame + 5] = struct.pack("<2H", *place)
    data[6:10] = struct.pack("<2H", *canvas)
    return bytes(data)


def webp_on_canvas(image: Image.Image, canvas: tuple[int, int], place: tuple[int, int]) -> bytes:
    """An animated WebP file without transparency whose only frame covers a part; ``place`` is even."""

    def little(value: int) -> bytes:
        return value.to_bytes(3, "little")

    def part(name: bytes, content: bytes) -> bytes:
        return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)

    pixels = saved(image, "WEBP", lossless=True)[12:]
    corner = little(place[0] // 2) + little(place[1] // 2)
    size = little(image.width - 1) + little(image.height - 1)
    frame = part(b"ANMF", corner + size + little(100) + b"\0" + pixels)
    header = part(b"VP8X", b"\x02\0\0\0" + little(canvas[0] - 1) + little(canvas[1] - 1))
    content = b"WEBP" + header + part(b"ANIM", b"\0" * 6) + frame
    return b"RIFF" + struct.pack("<I", len(content)) + content


def _tag(name: bytes, content: bytes) -> bytes:
    return name + b"\0" * 4 + content


def _number(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def icc_profile(
    space: bytes, tags: Mapping[bytes, bytes], kind: bytes = b"mntr", pcs: bytes = b"XYZ "
) -> bytes:
    """An ICC profile of version 2 with these tags and the white that all profiles have."""
    white = _tag(b"XYZ ", b"".join(map(_number, (0.9642, 1.0, 0.8249))))
    table, body = b"", b""
    text = _tag(b"text", b"made by hand\0")
    all_tags = {
        b"cprt": text,
        b"desc": _tag(b"desc", struct.pack(">I", 2) + b"x\0" + b"\0" * 79),
        b"wtpt": white,
    }
    all_tags |= tags
    start = 128 + 4 + 12 * len(all_tags)
    for name, content in all_tags.items():
        table += name + struct.pack(">2I", start + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    header = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02400000, kind, space, pcs)
    header += b"\0" * 12 + b"acsp" + b"\0" * 28 + white[8:] + b"\0" * 48
    return header + struct.pack(">I", len(all_tags)) + table + body


def gamma_curve(gamma: float) -> bytes:
    return _tag(b"curv", struct.pack(">IH", 1, round(gamma * 256))) + b"\0\0"


def rgb_profile(gamma: float, columns: Array) -> bytes:
    """A profile of that gamma whose primaries are the columns of a matrix from linear RGB to XYZ (D50)."""
    tags = {name: gamma_curve(gamma) for name in (b"rTRC", b"gTRC", b"bTRC")}
    for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns.T, strict=True):
        tags[name] = _tag(b"XYZ ", b"".join(map(_number, column)))
    return icc_profile(b"RGB ", tags)


def grey_profile(gamma: float) -> bytes:
    return icc_profile(b"GRAY", {b"kTRC": gamma_curve(gamma)})


def cmyk_profile() -> bytes:
    """A press whose inks all print the same: the picture's lightness is what is left of the paper."""
    ramp = bytes(range(256))
    corners = []
    for inks in range(16):
        lightness = 100 * (1 - bin(inks).count("1") / 4)
        corners += [round(lightness * 2.55), 128, 128]
    matrix = b"".join(map(_number, np.eye(3).ravel()))
    table = _tag(b"mft1", bytes([4, 3, 2, 0]) + matrix + ramp * 4 + bytes(corners) + ramp * 3)
    return icc_profile(b"CMYK", {b"A2B0": table}, b"prtr", b"Lab ")


def bmp_with_profile(image: Image.Image, profile: bytes) -> bytes:
    """A BMP file of version 5, 24 bits, with an embedded profile."""
    rows = np.asarray(image.convert("RGB"))[::-1, :, ::-1]
    padding = -rows.shape[1] * 3 % 4
    pixels = b"".join(row.tobytes() + b"\0" * padding for row in rows)
    header = struct.pack("<IiiHHIIiiII", 124, *image.size, 1, 24, 0, len(pixels), 2835, 2835, 0, 0)
    header += b"\0" * 16 + b"DEBM" + b"\0" * 48
    header += struct.pack("<4I", 4, 124 + len(pixels), len(profile), 0)
    place = 14 + len(header)
    return (
        b"BM"
        + struct.pack("<IHHI", place + len(pixels) + len(profile), 0, 0, place)
        + header
        + pixels
        + profile
    )


def jp2_with_profile(image: Image.Image, profile: bytes) -> bytes:
    """A JPEG 2000 file without loss, with an embedded profile."""
    data = saved(image, "JPEG2000")
    outer, inner = data.index(b"jp2h") - 4, data.index(b"colr") - 4
    before = int.from_bytes(data[inner : inner + 4], "big")
    box = b"colr\x02\0\0" + profile
    box = struct.pack(">I", len(box) + 4) + box
    length = int.from_bytes(data[outer : outer + 4], "big") + len(box) - before
    return data[:outer] + struct.pack(">I", length) + data[outer + 4 : inner] + box + data[inner + before :]
