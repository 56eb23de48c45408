"""Turn the colours of a file into sRGB, as browsers do: by its ICC profile, or by its gamma and primaries."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageCms

Array: TypeAlias = "np.ndarray[Any, Any]"

SAME = 2
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


def needs_conversion(info: Mapping[Any, Any], mode: str) -> bool:
    """Whether colours of a picture of ``mode`` (L, RGB or CMYK) are not sRGB.

    info: As ``Image.info`` of Pillow, and ``cicp`` (see :data:`descscore.metadata.Info`).
    """
    return _transform(info, mode) is not None or _curve(info) is not None


def to_srgb(image: Image.Image, info: Mapping[Any, Any]) -> Image.Image:
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
    return None if np.abs(difference).max() <= SAME else transform


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
