"""The part of a model's preprocessing that works on pictures: resize, then crop or pad.

It equals what open_clip's evaluation transform does before it makes a tensor, to the
bit, but needs Pillow alone: a worker that decodes images starts in a fraction of the
time and memory that importing torch takes. The rest (scaling and normalising numbers)
is done on whole batches, on the model's device (:class:`descscore.encoder.Encoder`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from descscore.errors import ModelError

_MODES = ("shortest", "longest", "squash")


@dataclass(frozen=True)
class PixelSpec:
    """What pictures become. height, width: in pixels. mode: ``shortest`` (the shorter side
    fits, the rest is cut), ``longest`` (the longer side fits, the rest is ``fill``) or
    ``squash`` (both fit). interpolation: ``bicubic`` or ``bilinear``.
    """

    height: int
    width: int
    mode: str = "shortest"
    interpolation: str = "bicubic"
    fill: int = 0

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
    # open_clip's 'random' means bicubic outside training, and so does anything for a
    # 'shortest' that is not square.
    odd = mode == "shortest" and height != width
    interpolation = "bilinear" if config["interpolation"] == "bilinear" and not odd else "bicubic"
    return PixelSpec(int(height), int(width), str(mode), interpolation, int(config.get("fill_color") or 0))


def picture_pixels(image: Image.Image, spec: PixelSpec) -> np.ndarray[Any, Any]:
    """An RGB picture -> ``(height, width, 3)`` uint8, resized, and cropped or padded in the centre."""
    resized = image.resize(
        _target_size(image.width, image.height, spec), Image.Resampling[spec.interpolation.upper()]
    )
    return np.asarray(_centred(resized, spec))


def _target_size(width: int, height: int, spec: PixelSpec) -> tuple[int, int]:
    """Width and height to resize to. The three cases round as the original transforms do."""
    if spec.mode == "squash":
        return spec.width, spec.height
    if spec.mode == "shortest" and spec.width == spec.height:
        short = spec.width
        longer = int(short * max(width, height) / min(width, height))
        return (short, longer) if width <= height else (longer, short)
    ratios = height / spec.height, width / spec.width
    ratio = max(ratios) if spec.mode == "longest" else min(ratios)
    return round(width / ratio), round(height / ratio)


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
