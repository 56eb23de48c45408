"""Fit the calibrated linear read-out of the purpose subspace on training texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from open_clip import CLIP
from torch import Tensor

from descscore.errors import DataError
from descscore.interventions import run_to_block
from descscore.readout import Purpose, Readout
from descscore.training.examples import Examples

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
