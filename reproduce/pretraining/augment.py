"""Image augmentation on whole batches of uint8 tensors, on the CPU or a GPU alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augment:
    """How far a kind of picture may be changed: textbook figures hold text and are never mirrored."""

    smallest_area: float
    mirror: bool
    colour: float = 0.4
    grey: float = 0.1
    aspect: float = 4 / 3


PHOTO = Augment(smallest_area=0.35, mirror=True)
FIGURE = Augment(smallest_area=0.55, mirror=False, colour=0.25)
OBJECT = Augment(smallest_area=0.3, mirror=True)


def random_crops(images: Tensor, pixels: int, how: Augment, rng: torch.Generator) -> Tensor:
    """Random crops of random area and aspect: ``(n, 3, s, s)`` uint8 -> ``(n, 3, p, p)`` in 0..1."""
    n, device = len(images), images.device
    area = _uniform(n, how.smallest_area, 1.0, rng)
    ratio = torch.exp(_uniform(n, -math.log(how.aspect), math.log(how.aspect), rng))
    width = (area * ratio).sqrt().clamp(max=1.0)
    height = (area / ratio).sqrt().clamp(max=1.0)
    left = _uniform(n, -1.0, 1.0, rng) * (1 - width)
    top = _uniform(n, -1.0, 1.0, rng) * (1 - height)
    sign = torch.where(_uniform(n, 0, 1, rng) < 0.5, -1.0, 1.0) if how.mirror else torch.ones(n)
    affine = torch.zeros(n, 2, 3)
    affine[:, 0, 0], affine[:, 0, 2] = width * sign, left
    affine[:, 1, 1], affine[:, 1, 2] = height, top
    grid = F.affine_grid(affine.to(device), [n, 3, pixels, pixels], align_corners=False)
    out = F.grid_sample(
        images.float() / 255, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return out


def colour_jitter(images: Tensor, how: Augment, rng: torch.Generator) -> Tensor:
    """Random brightness, contrast and saturation, and some pictures made grey; values in 0..1."""
    n = len(images)

    def factor() -> Tensor:
        return _uniform(n, 1 - how.colour, 1 + how.colour, rng).view(n, 1, 1, 1).to(images.device)

    images = images * factor()
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * factor()
    weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    grey = (images * weights).sum(1, keepdim=True)
    keep = torch.where(_uniform(n, 0, 1, rng) < how.grey, 0.0, 1.0).view(n, 1, 1, 1).to(images.device)
    return (grey + (images - grey) * factor() * keep).clamp(0, 1)


def augment(images: Tensor, pixels: int, how: Augment, rng: torch.Generator) -> Tensor:
    """Crop and jitter; the result still has to be normalised with the model's mean and std."""
    return colour_jitter(random_crops(images, pixels, how, rng), how, rng)


def cutmix(images: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Paste one rectangle of another image of the batch into each.

    Returns the images, the partner of each, and the share of each that is still
    its own (CutMix, Yun et al. 2019).
    """
    n, _, height, width = images.shape
    partner = torch.randperm(n, generator=rng)
    cut = math.sqrt(1 - float(_uniform(1, 0.3, 1.0, rng)))
    h, w = int(height * cut), int(width * cut)
    top = int(torch.randint(0, height - h + 1, (1,), generator=rng))
    left = int(torch.randint(0, width - w + 1, (1,), generator=rng))
    mixed = images.clone()
    mixed[:, :, top : top + h, left : left + w] = images[partner.to(images.device)][
        :, :, top : top + h, left : left + w
    ]
    return mixed, partner, 1 - h * w / (height * width)


def _uniform(n: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    return torch.rand(n, generator=rng) * (high - low) + low
