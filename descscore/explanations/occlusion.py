"""Map which parts of an image the cosine depends on, by covering one part after another.

This works for any image tower, because it uses only the tower's input and output. A square of
the image's mean colour slides over the picture that the model gets. Each cell of the map is the
mean loss over the squares that covered it. Source: Zeiler and Fergus 2014 (arXiv 1311.2901).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from descscore.clip import get_model_preprocess_cfg
from descscore.explanations.explanation import OcclusionMap
from descscore.images import ImageSource, image_identity, load_image
from descscore.models import LoadedModel

GRID = 8
"""Cells across and down."""

COVER = 2
"""Width of the sliding square in cells."""


def occlusion_maps(model: LoadedModel, images: Sequence[ImageSource], texts: Tensor) -> list[OcclusionMap]:
    """A map for each of n pairs; a repeated image is encoded once for all its texts.

    texts: ``(n, embed_dim)`` unit text features.
    """
    pairs: dict[object, list[int]] = {}
    for i, image in enumerate(images):
        pairs.setdefault(image_identity(image), []).append(i)
    maps: dict[int, OcclusionMap] = {}
    for same in pairs.values():
        image = load_image(images[same[0]])
        box = visible_box(model, image.size)
        losses = occlude(model, image, texts[same]).tolist()
        maps |= {
            i: OcclusionMap(tuple(map(tuple, cells)), box) for i, cells in zip(same, losses, strict=True)
        }
    return [maps[i] for i in range(len(images))]


@torch.inference_mode()
def occlude(model: LoadedModel, image: Image.Image, texts: Tensor, batch_size: int = 32) -> Tensor:
    """Loss of cosine between n texts and an RGB image, by cell: ``(n, GRID, GRID)`` float64 on the CPU.

    texts: ``(n, embed_dim)`` unit text features.
    """
    pixels = model.preprocess(image)
    covers = _covers(pixels.shape[-2:])
    mean = pixels.mean((1, 2), keepdim=True)
    cosines = []
    for start in range(0, len(covers), batch_size):
        covered = torch.where(covers[start : start + batch_size, None], mean, pixels).to(model.device)
        cosines.append(F.normalize(model.clip.encode_image(covered), dim=-1) @ texts.T)
    uncovered = F.normalize(model.clip.encode_image(pixels[None].to(model.device)), dim=-1) @ texts.T
    losses = (uncovered - torch.cat(cosines)).T.cpu().double()  # (n, covers)
    return _by_cell(losses)


def visible_box(model: LoadedModel, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part of an image that the model's preprocessing keeps.

    size: width and height of the image in pixels.

    Returns left, top, right and bottom in fractions of width and height; they reach beyond
    0..1 if the model pads.
    """
    config = get_model_preprocess_cfg(model.clip)
    target = config["size"]
    high, wide = target if isinstance(target, (tuple, list)) else (target, target)
    width, height = size
    across, down = 1.0, 1.0
    if config["resize_mode"] != "squash":
        # One scale for width and height: either the shorter or the longer edge fits the target.
        choose = max if config["resize_mode"] == "shortest" else min
        scale = choose(wide / width, high / height)
        across, down = wide / (width * scale), high / (height * scale)
    return ((1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2)


def _corners() -> Sequence[tuple[int, int]]:
    """Top left cells of the squares. Squares reach over the edges, so all cells are covered equally often."""
    starts = range(1 - COVER, GRID)
    return [(row, column) for row in starts for column in starts]


def _covers(size: Sequence[int]) -> Tensor:
    """The pixels that each square covers: ``(covers, height, width)`` bool."""
    height, width = size
    rows = torch.arange(height) * GRID // height
    columns = torch.arange(width) * GRID // width
    return torch.stack([_span(rows, r)[:, None] & _span(columns, c)[None] for r, c in _corners()])


def _by_cell(losses: Tensor) -> Tensor:
    """Mean over the squares that covered each cell: ``(n, covers)`` -> ``(n, GRID, GRID)``."""
    masks = _covers((GRID, GRID))
    total = torch.einsum("nc,cij->nij", losses, masks.double())
    return total / masks.sum(0)


def _span(cells: Tensor, first: int) -> Tensor:
    return (cells >= first) & (cells < first + COVER)
