"""The map of the image: it finds what the image tower sees, and lies where the model looks."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from descscore.encoder import Encoder
from descscore.explanations.occlusion import GRID, occlude, visible_box
from descscore.images import PixelSpec
from descscore.models import load_model

ROUNDING = 1e-6


class Corner(torch.nn.Module):
    """An image tower that sees nothing but the top left quarter: how bright it is."""

    image_size = 32
    preprocess_cfg: ClassVar = {
        **{"size": 32, "resize_mode": "squash", "interpolation": "bicubic"},
        **{"mean": (0, 0, 0), "std": (1, 1, 1)},
    }

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        half = pixels.shape[-1] // 2
        bright = pixels[:, :, :half, :half].mean((1, 2, 3))
        return torch.stack([bright, torch.ones_like(bright)], 1)


def test_the_map_finds_what_the_tower_sees(tiny_folder: Path) -> None:
    model = load_model(tiny_folder, "cpu")
    model.clip.visual = Corner()
    photo = Image.new("RGB", (64, 64), "black")
    photo.paste("white", (8, 8, 24, 24))
    values = occlude(Encoder(model, 32), photo, F.normalize(torch.tensor([[1.0, 0.2], [-1.0, 0.2]]), dim=-1))
    assert values.shape == (2, GRID, GRID)
    # Where the tower is blind, both cosines are float32 sums of the same numbers: equal to rounding.
    assert values[0, 5:].abs().max() < ROUNDING
    assert values[0, :, 5:].abs().max() < ROUNDING
    assert values[0, 1:3, 1:3].min() > 100 * ROUNDING
    assert int(values[0].argmax()) // GRID in (1, 2)
    moved = values[0].abs() > 100 * ROUNDING
    assert torch.equal(values[1].sign()[moved], -values[0].sign()[moved])


@pytest.mark.parametrize(
    ("mode", "size", "box"),
    [
        ("squash", (200, 100), (0, 0, 1, 1)),
        ("shortest", (200, 100), (0.25, 0, 0.75, 1)),
        ("shortest", (100, 400), (0, 0.375, 1, 0.625)),
        ("longest", (200, 100), (0, -0.5, 1, 1.5)),
    ],
)
def test_the_map_lies_where_the_model_looks(mode: str, size: tuple[int, int], box: tuple[float, ...]) -> None:
    assert visible_box(PixelSpec(32, 32, mode), size) == pytest.approx(box)
