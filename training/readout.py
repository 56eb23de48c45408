"""After training: order the purpose coordinates, fit the read-out, and keep reference cosines.

A read-out fitted on the texts that the tower was trained on is too sure of itself:
training has already driven those texts apart. Its calibration therefore comes from
towers trained without the texts, a fold of whole groups (books, articles) at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from open_clip import CLIP
from torch import Tensor

from descscore.errors import DataError
from descscore.purpose import Purpose, Readout, Site
from descscore.towers.text import encode_tokens, run_to_block
from descscore.training.config import FinetuneConfig
from descscore.training.data import Examples, select
from descscore.training.losses import cosines
from descscore.training.trainer import RunData, Trainer

# Fit the calibrated linear read-out of the purpose subspace on training texts.


Array: TypeAlias = "np.ndarray[Any, Any]"

FOLDS = 5
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Inverse strengths of the L2 penalty that are tried."""


@dataclass(frozen=True)
class FittedReadout:
    """The read-out, the penalty chosen, and the log-loss of texts in folds that were held out."""

    readout: Readout
    strength: float
    held_out_log_loss: float


@torch.no_grad()
def purpose_coordinates(clip: CLIP, examples: Examples, purpose: Purpose, batch_size: int = 128) -> Tensor:
    """Purpose coordinates of all texts: ``(2n, k)``, descriptions first."""
    parts = [
        purpose.coordinates(run_to_block(clip, part, purpose.site.block).state)
        for part in torch.split(examples.tokens, batch_size)
    ]
    return torch.cat(parts).float()


def fit_readout(coordinates: Tensor, is_description: Tensor, groups: Array, seed: int = 0) -> FittedReadout:
    """Logistic regression whose penalty and calibration come from held-out groups.

    coordinates: ``(m, k)``. is_description: ``(m,)`` bool. groups: ``(m,)``, what must
    not be split between folds (books, articles or images): texts of one group share
    their words, and folds that split them would call overfitting skill. The held-out
    decision values are rescaled (Platt 1999), and the scale folded into the weights.

    Raises :class:`DataError` for fewer than two groups or texts of one kind only.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    x, y = coordinates.cpu().double().numpy(), is_description.cpu().numpy().astype(int)
    if len(np.unique(y)) < 2 or len(np.unique(groups)) < 2:
        raise DataError("a read-out needs texts of both kinds, in at least two groups")
    centre, spread = x.mean(0), x.std(0) + 1e-12
    z = (x - centre) / spread
    held = {c: _held_out_decisions(z, y, groups, c) for c in STRENGTHS}
    scales = {c: platt(d, y) for c, d in held.items()}
    losses = {c: log_loss(y, _sigmoid(scales[c][0] * d + scales[c][1])) for c, d in held.items()}
    best = min(losses, key=lambda c: losses[c])
    scale, shift = scales[best]
    model = LogisticRegression(C=best, max_iter=2000, random_state=seed).fit(z, y)
    weight = scale * model.coef_[0] / spread
    bias = scale * model.intercept_[0] + shift - float(weight @ centre)
    readout = Readout(torch.tensor(weight, dtype=torch.float32), torch.tensor(bias, dtype=torch.float32))
    return FittedReadout(readout, best, float(losses[best]))


def calibrated(readout: Readout, scale: float, shift: float) -> Readout:
    """The read-out with its decision values times ``scale`` plus ``shift``."""
    return Readout(readout.weight * scale, readout.bias * scale + shift)


def decisions(readout: Readout, coordinates: Tensor) -> Array:
    """Log-odds of being a description: ``(m, k)`` -> ``(m,)``."""
    found: Array = (coordinates.double() @ readout.weight.double() + readout.bias.double()).cpu().numpy()
    return found


def _held_out_decisions(z: Array, y: Array, groups: Array, strength: float) -> Array:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict

    folds = GroupKFold(min(FOLDS, len(np.unique(groups))))
    model = LogisticRegression(C=strength, max_iter=2000)
    decisions: Array = cross_val_predict(model, z, y, groups=groups, cv=folds, method="decision_function")
    return decisions


def platt(decisions: Array, y: Array) -> tuple[float, float]:
    """Scale and shift that calibrate decision values best, nearly without penalty."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1e6, max_iter=2000).fit(decisions[:, None], y)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def _sigmoid(values: Array) -> Array:
    out: Array = 1 / (1 + np.exp(-values))
    return out


# Cut a split into folds of whole groups, such as textbooks, and train on all but one of them.


def fold_of(groups: Sequence[str], folds: int) -> Array:
    """Fold of each example ``(n,)``: whole groups, sizes evened out, the same for any order of examples.

    Raises :class:`DataError` for fewer groups than folds.
    """
    names, counts = np.unique(np.asarray(groups), return_counts=True)
    if len(names) < folds:
        raise DataError(f"{len(names)} groups cannot be cut into {folds} folds")
    sizes, place = np.zeros(folds, int), {}
    for name, count in sorted(zip(names, counts, strict=True), key=lambda item: (-item[1], item[0])):
        place[name] = int(sizes.argmin())
        sizes[place[name]] += count
    return np.array([place[name] for name in groups])


def part(examples: Examples, keep: Array) -> Examples:
    """The pairs where ``keep`` ``(n,)`` is true."""
    return select(examples, torch.from_numpy(np.flatnonzero(keep)))


def train_without(
    clip: CLIP, examples: Examples, keep: Array, config: FinetuneConfig, folder: Path
) -> Trainer:
    """Train a copy of the untuned ``clip`` where ``keep`` ``(n,)`` is true; no validation, one checkpoint."""
    never = 10**9
    quiet = replace(config, save_every=never, validate_every=never, patience=None)
    fresh = copy.deepcopy(clip).requires_grad_(True)
    trainer = Trainer(fresh, RunData(part(examples, keep), None), quiet, folder)
    trainer.train()
    return trainer


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
