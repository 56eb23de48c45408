"""After training: order the purpose coordinates, fit the read-out of them, and keep reference cosines.

The read-out is a calibrated logistic regression on the purpose coordinates of the training texts; its
probability is a text's ``description_probability``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from descscore.clip import CLIP
from descscore.errors import DataError
from descscore.purpose import Purpose, Readout, Site
from descscore.towers.text import encode_tokens, run_to_block
from descscore.training.data import Examples
from descscore.training.losses import cosines

Array: TypeAlias = "np.ndarray[Any, Any]"

FOLDS = 5
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Inverse strengths of the L2 penalty that are tried."""


@dataclass(frozen=True)
class FittedReadout:
    """A read-out, and how well it does on texts that it was not fitted on."""

    readout: Readout
    held_out_log_loss: float
    """Mean log-loss, in nats, of the texts of held-out folds."""


def fit(clip: CLIP, rotation: Tensor, site: Site, examples: Examples) -> tuple[Tensor, FittedReadout]:
    """The ordered rotation and a read-out fitted on the examples; raises as :func:`fit_readout`."""
    ordered = order_rotation(clip, rotation, site, examples)
    coordinates = purpose_coordinates(clip, examples, Purpose(site, ordered))
    return ordered, fit_readout(coordinates, is_description(examples), np.tile(examples.groups, 2))


def order_rotation(clip: CLIP, rotation: Tensor, site: Site, examples: Examples) -> Tensor:
    """R with the first k rows turned among themselves, the most telling first: ``(width, width)``.

    The subspace, and with it every interchange at the trained k, stays the same; only its
    basis was arbitrary. The first coordinate becomes the mean difference between an
    image's description and caption, the others the principal axes of what is left of
    these differences, so that smaller k keep as much of the purpose as they can.
    """
    n = len(examples)
    coordinates = purpose_coordinates(clip, examples, Purpose(site, rotation)).double()
    difference = coordinates[:n] - coordinates[n:]
    first = torch.nn.functional.normalize(difference.mean(0), dim=0)
    rest = difference - (difference @ first)[:, None] * first
    # The mean's axis has no variance left; a weight on it sorts it before all others.
    spread = rest.T @ rest / n
    spread += 2 * spread.diagonal().sum() * torch.outer(first, first)
    axes = torch.linalg.eigh(spread).eigenvectors.flip(1)
    axes[:, 0] *= torch.sign(axes[:, 0] @ first)
    turned = (axes.T @ rotation[: site.k].double()).to(rotation)
    return torch.cat([turned, rotation[site.k :]])


@torch.no_grad()
def purpose_coordinates(clip: CLIP, examples: Examples, purpose: Purpose, batch_size: int = 128) -> Tensor:
    """Purpose coordinates of all texts: ``(2n, k)``, descriptions first."""
    parts = [
        purpose.coordinates(run_to_block(clip, part, purpose.site.block).state)
        for part in torch.split(examples.tokens, batch_size)
    ]
    return torch.cat(parts).float()


def is_description(examples: Examples) -> Tensor:
    """Whether each text is a description: ``(2n,)`` bool."""
    return torch.arange(2 * len(examples)) < len(examples)


def fit_readout(coordinates: Tensor, is_description: Tensor, groups: Array, seed: int = 0) -> FittedReadout:
    """Logistic regression whose penalty and calibration come from held-out groups.

    The held-out decision values are rescaled (Platt 1999), and the scale is folded into the weights.

    Args:
        coordinates: ``(m, k)``.
        is_description: ``(m,)`` bool.
        groups: ``(m,)``, such as books, articles or images. No fold splits one: texts of one group share
            their words, and folds that split them would call overfitting skill.
        seed: For the solver.

    Raises:
        DataError: There are fewer than two groups, or texts of one kind only.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    x, y = coordinates.cpu().double().numpy(), is_description.cpu().numpy().astype(int)
    if len(np.unique(y)) < 2 or len(np.unique(groups)) < 2:
        raise DataError("a read-out needs texts of both kinds, in at least two groups")
    centre, spread = x.mean(0), x.std(0) + 1e-12
    z = (x - centre) / spread
    held_out = {c: _held_out_decisions(z, y, groups, c) for c in STRENGTHS}
    scales = {c: platt(d, y) for c, d in held_out.items()}
    losses = {c: log_loss(y, _sigmoid(scales[c][0] * d + scales[c][1])) for c, d in held_out.items()}
    best = min(losses, key=lambda c: losses[c])
    scale, shift = scales[best]
    model = LogisticRegression(C=best, max_iter=2000, random_state=seed).fit(z, y)
    weight = scale * model.coef_[0] / spread
    bias = scale * model.intercept_[0] + shift - float(weight @ centre)
    readout = Readout(torch.tensor(weight, dtype=torch.float32), torch.tensor(bias, dtype=torch.float32))
    return FittedReadout(readout, float(losses[best]))


def _held_out_decisions(z: Array, y: Array, groups: Array, strength: float) -> Array:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict

    folds = GroupKFold(min(FOLDS, len(np.unique(groups))))
    model = LogisticRegression(C=strength, max_iter=2000)
    values: Array = cross_val_predict(model, z, y, groups=groups, cv=folds, method="decision_function")
    return values


def platt(decisions: Array, y: Array) -> tuple[float, float]:
    """Scale and shift that calibrate decision values best, nearly without penalty."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1e6, max_iter=2000).fit(decisions[:, None], y)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def _sigmoid(values: Array) -> Array:
    out: Array = 1 / (1 + np.exp(-values))
    return out


def calibrated(readout: Readout, scale: float, shift: float) -> Readout:
    """The read-out with its decision values times ``scale`` plus ``shift``."""
    return Readout(readout.weight * scale, readout.bias * scale + shift)


def decisions(readout: Readout, coordinates: Tensor) -> Array:
    """Log-odds of being a description: ``(m, k)`` -> ``(m,)``."""
    odds: Array = (coordinates.double() @ readout.weight.double() + readout.bias.double()).cpu().numpy()
    return odds


@torch.no_grad()
def reference_cosines(clip: CLIP, examples: Examples, batch_size: int = 128) -> Tensor:
    """Cosines of descriptions with their own images, ascending: ``(n,)``."""
    parts = torch.split(examples.tokens[: len(examples)], batch_size)
    texts = torch.cat([encode_tokens(clip, tokens) for tokens in parts])
    return cosines(examples.images, texts).sort().values


def fold_of(groups: Sequence[str], folds: int) -> Tensor:
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
    return torch.tensor([place[name] for name in groups])
