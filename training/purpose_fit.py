"""After training: order the purpose coordinates, fit the read-out, and keep reference cosines.

A read-out fitted on the texts that the tower was trained on is too sure of itself:
training has already driven those texts apart. Its calibration therefore comes from
towers trained without the texts, a fold of whole groups (books, articles) at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from open_clip import CLIP
from torch import Tensor

from descscore.interventions import Site
from descscore.readout import Purpose
from descscore.text_tower import encode_tokens
from descscore.training.config import FinetuneConfig
from descscore.training.examples import Examples
from descscore.training.folds import Array, fold_of, part, train_without
from descscore.training.losses import cosines
from descscore.training.readout import (
    FittedReadout,
    calibrated,
    decisions,
    fit_readout,
    platt,
    purpose_coordinates,
)


@dataclass(frozen=True)
class Grouped:
    """Examples with the group of each, ``n`` names: what must not be split between folds."""

    examples: Examples
    groups: Sequence[str]

    @property
    def of_texts(self) -> Array:
        """The group of each text, descriptions first: ``(2n,)``."""
        return np.tile(np.asarray(self.groups), 2)

    @property
    def is_description(self) -> Tensor:
        """``(2n,)`` bool."""
        return torch.arange(2 * len(self.examples)) < len(self.examples)

    def where(self, keep: Array) -> Grouped:
        """The pairs where ``keep`` ``(n,)`` is true."""
        return Grouped(part(self.examples, keep), [g for g, k in zip(self.groups, keep, strict=True) if k])


def order_rotation(clip: CLIP, rotation: Tensor, site: Site, examples: Examples) -> Tensor:
    """R with the first k rows turned among themselves, the most telling first: ``(width, width)``.

    The subspace, and with it every interchange at the trained k, stays the same; only its
    basis was arbitrary. The first coordinate becomes the mean difference between an
    image's description and caption, the others the principal axes of what is left of
    these differences, so that smaller k keep as much of the purpose as they can.
    """
    n = len(examples)
    found = purpose_coordinates(clip, examples, Purpose(site, rotation)).double()
    difference = found[:n] - found[n:]
    first = torch.nn.functional.normalize(difference.mean(0), dim=0)
    rest = difference - (difference @ first)[:, None] * first
    # The mean's axis has no variance left; a weight on it sorts it before all others.
    spread = rest.T @ rest / n
    spread += 2 * spread.diagonal().sum() * torch.outer(first, first)
    axes = torch.linalg.eigh(spread).eigenvectors.flip(1)
    axes[:, 0] *= torch.sign(axes[:, 0] @ first)
    turned = (axes.T @ rotation[: site.k].double()).to(rotation)
    return torch.cat([turned, rotation[site.k :]])


def fit(clip: CLIP, rotation: Tensor, site: Site, data: Grouped) -> tuple[Tensor, FittedReadout]:
    """The ordered rotation and a read-out fitted on ``data``; raises as :func:`fit_readout`."""
    ordered = order_rotation(clip, rotation, site, data.examples)
    found = purpose_coordinates(clip, data.examples, Purpose(site, ordered))
    return ordered, fit_readout(found, data.is_description, data.of_texts)


def cross_calibration(
    clip: CLIP, data: Grouped, config: FinetuneConfig, folds: int, folder: Path
) -> tuple[float, float]:
    """Scale and shift of a read-out's decision values, from towers that have not seen the texts.

    clip: the untuned model. Each fold's tower is trained on the other folds' groups and
    kept under ``folder``, so that a run that is started again does not train it twice.
    """
    fold, values, kinds = fold_of(data.groups, folds), [], []
    for number in range(folds):
        trainer = train_without(clip, data.examples, fold != number, config, folder / f"fold{number}")
        assert trainer.objective.rotation is not None
        assert config.site is not None
        tuned, matrix = trainer.objective.clip, trainer.objective.rotation.matrix().detach()
        ordered, found = fit(tuned, matrix, config.site, data.where(fold != number))
        held = data.where(fold == number)
        coordinates = purpose_coordinates(tuned, held.examples, Purpose(config.site, ordered))
        values.append(decisions(found.readout, coordinates))
        kinds.append(held.is_description.numpy().astype(int))
    return platt(np.concatenate(values), np.concatenate(kinds))


def make_purpose(
    clip: CLIP, rotation: Tensor, site: Site, data: Grouped, scale: tuple[float, float] | None
) -> Purpose:
    """The ordered rotation with its read-out. scale: from :func:`cross_calibration`, None for none."""
    ordered, found = fit(clip, rotation, site, data)
    return Purpose(site, ordered, found.readout if scale is None else calibrated(found.readout, *scale))


@torch.no_grad()
def reference_cosines(clip: CLIP, examples: Examples, batch_size: int = 128) -> Tensor:
    """Cosines of descriptions with their own images, ascending: ``(n,)``."""
    parts = torch.split(examples.tokens[: len(examples)], batch_size)
    texts = torch.cat([encode_tokens(clip, tokens) for tokens in parts])
    return cosines(examples.images, texts).sort().values
