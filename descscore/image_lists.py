"""Images as callers hold them, as a list that a scorer takes: one image, a list, an array or a tensor.

Apart from ``images.py``, because it imports torch, which the workers that decode images must not load.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from descscore.errors import ImageError, UsageError
from descscore.images import ImageSource, bytes_or_path

AnyImage: TypeAlias = "ImageSource | Tensor | Mapping[str, Any]"
"""Anything that :func:`descscore.images.load_image` takes, a tensor ``(channels, height, width)``, or a
struct of ``bytes`` and ``path``, as ``datasets`` writes an image.

A tensor is uint8, or float in 0..1, with 1 channel (grey), 3 (red, green, blue) or 4 (red, green, blue,
opacity).
"""

ImageBatch: TypeAlias = "Sequence[AnyImage] | AnyImage"
"""A list of images, one image, or a tensor ``(n, channels, height, width)``."""


def image_source(image: AnyImage) -> ImageSource:
    """One image as :func:`descscore.images.load_image` takes it; raises :class:`ImageError` for a tensor
    of another shape."""
    return _array(image, "image") if isinstance(image, Tensor) else bytes_or_path(image)


def is_one_image(images: object) -> bool:
    """Whether this is one image, not a list of them; an array of one dimension is a list of paths."""
    if isinstance(images, (Tensor, np.ndarray)):
        return images.ndim in (0, 2, 3)
    return isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike, Image.Image, Mapping))


def image_list(images: ImageBatch, count: int | None) -> list[ImageSource]:
    """The images of ``count`` texts (None: of a single text outside a list), as a list that a scorer takes.

    A repeated image stays one object, so that it is encoded once.

    Raises:
        ImageError: A tensor has a wrong shape.
        UsageError: There is one image instead of a list.
    """
    if isinstance(images, Tensor):
        images = _tensors(images, count)
    elif count is None and (is_one_image(images) or not isinstance(images, (list, tuple, np.ndarray))):
        return [images]  # type: ignore[list-item]
    elif is_one_image(images) and isinstance(images, np.ndarray):
        raise UsageError("images: one array; give a list of them, or one (n, height, width, channels)")
    elif is_one_image(images) or not hasattr(images, "__iter__"):
        raise UsageError(f"images: expected a list, got one {type(images).__name__}")
    listed = [*cast(Iterable[Any], images)]
    arrays = {id(one): _array(one, f"row {i}") for i, one in enumerate(listed) if isinstance(one, Tensor)}
    return [arrays.get(id(one), one) for one in listed]


def _tensors(images: Tensor, count: int | None) -> list[Tensor]:
    """One tensor as a list of images ``(channels, height, width)``."""
    if images.ndim == 4:
        return list(images)
    if images.ndim == 3 and count in (None, 1):
        return [images]
    shape = "x".join(map(str, images.shape))
    raise ImageError(
        "bad_array",
        f"images: tensor of shape {shape} for {count or 1} texts: expected (n, channels, height, width), "
        "or (channels, height, width) for one image",
    )


def _array(image: Tensor, name: str) -> np.ndarray[Any, Any]:
    """``(channels, height, width)`` -> ``(height, width, channels)`` on the host, values as they are."""
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        shape = "x".join(map(str, image.shape))
        raise ImageError(
            "bad_array",
            f"{name}: tensor of shape {shape}: expected (channels, height, width) with 1, 3 or 4 channels",
        )
    if image.dtype == torch.bfloat16:
        image = image.float()
    return image.detach().permute(1, 2, 0).cpu().numpy()
