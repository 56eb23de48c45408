"""Map which parts of an image the cosine depends on, by covering one part after another.

This works for any image tower, because it uses only the tower's input and output. A square of
the image's mean colour slides over the picture that the model gets. Each cell of the map is the
mean loss over the squares that covered it. Source: Zeiler and Fergus 2014 (arXiv 1311.2901).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from descscore.images import PixelSpec, picture_pixels

GRID = 8
"""Cells across and down."""

COVER = 2
"""Width of the sliding square in cells."""


OCCLUSION_NOTE = (
    "an aid for the eye, not evidence: it shows how covers change the cosine, and a cover is itself a new "
    "thing in the image"
)


@dataclass(frozen=True)
class OcclusionMap:
    """The loss of cosine when a part of the image is covered, by cell of a grid."""

    values: tuple[tuple[float, ...], ...]
    """Rows of cells; rows from top to bottom, cells from left to right."""
    box: tuple[float, float, float, float]
    """The part of the image that the model sees: left, top, right and bottom in fractions of the image's
    width and height. It reaches beyond 0..1 if the model pads."""
    note: str = OCCLUSION_NOTE
    """A warning about the use of the map."""


class PixelEncoder(Protocol):
    """The part of :class:`descscore.encoder.Encoder` that a map needs."""

    @property
    def spec(self) -> PixelSpec: ...

    def pixels(self, pixels: Tensor) -> Tensor:
        """Unit features ``(n, embed_dim)`` of pictures ``(n, height, width, 3)`` uint8."""


def occlusion_maps(encoder: PixelEncoder, images: Sequence[Image.Image], texts: Tensor) -> list[OcclusionMap]:
    """Maps of n pairs of RGB images and unit text features ``(n, embed_dim)``.

    An image object that occurs again is encoded once for all its texts.
    """
    pairs: dict[int, list[int]] = {}
    for i, image in enumerate(images):
        pairs.setdefault(id(image), []).append(i)
    maps: dict[int, OcclusionMap] = {}
    for same in pairs.values():
        image = images[same[0]]
        box = visible_box(encoder.spec, image.size)
        losses = occlude(encoder, image, texts[same]).tolist()
        maps |= {
            i: OcclusionMap(tuple(map(tuple, cells)), box) for i, cells in zip(same, losses, strict=True)
        }
    return [maps[i] for i in range(len(images))]


@torch.inference_mode()
def occlude(encoder: PixelEncoder, image: Image.Image, texts: Tensor) -> Tensor:
    """Loss of cosine between n texts and an RGB image, by cell: ``(n, GRID, GRID)`` float64 on the CPU.

    texts: ``(n, embed_dim)`` unit text features.
    """
    pixels = torch.tensor(picture_pixels(image, encoder.spec))  # (height, width, 3)
    mean = pixels.double().mean((0, 1)).round().to(torch.uint8)
    covered = torch.where(_covers(pixels.shape[:2])[..., None], mean, pixels)
    cosines = encoder.pixels(torch.cat([pixels[None], covered])) @ texts.T
    losses = (cosines[:1] - cosines[1:]).T.cpu().double()  # (n, covers)
    return _by_cell(losses)


def visible_box(spec: PixelSpec, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """What the model sees of an image, as :attr:`OcclusionMap.box`. size: its width and height in pixels."""
    width, height = size
    across, down = 1.0, 1.0
    if spec.mode != "squash":
        # One scale for width and height: either the shorter or the longer edge fits.
        choose = max if spec.mode == "shortest" else min
        scale = choose(spec.width / width, spec.height / height)
        across, down = spec.width / (width * scale), spec.height / (height * scale)
    return ((1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2)


def _covers(size: Sequence[int]) -> Tensor:
    """The pixels that each square covers: ``(covers, height, width)`` bool.

    Squares reach over the edges, so all cells are covered equally often.
    """
    starts = torch.arange(1 - COVER, GRID)[:, None]
    down, across = (torch.arange(length) * GRID // length for length in size)
    rows, columns = ((cells >= starts) & (cells < starts + COVER) for cells in (down, across))
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1)


def _by_cell(losses: Tensor) -> Tensor:
    """Mean over the squares that covered each cell: ``(n, covers)`` -> ``(n, GRID, GRID)``."""
    masks = _covers((GRID, GRID))
    total = torch.einsum("nc,cij->nij", losses, masks.double())
    return total / masks.sum(0)
