"""Do probabilities mean what they say? Log-loss and the reliability curve, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from descscore.errors import DataError, UsageError
from descscore.eval.statistics.bootstrap import Clusters
from descscore.eval.statistics.correlation import Array, Numbers, paired
from descscore.eval.statistics.proportions import proportion

BINS = 10


@dataclass(frozen=True)
class Bin:
    """The items whose probability lies in ``(start, stop]``; the first bin holds 0 too.

    predicted: their mean probability. observed: the share that is true, with its 95 %
    interval; low and high are None where there are too few clusters. n: items.
    """

    start: float
    stop: float
    n: int
    predicted: float
    observed: float
    low: float | None
    high: float | None


def reliability_curve(
    labels: Numbers, probabilities: Numbers, clusters: Clusters | None = None, bins: int = BINS
) -> list[Bin]:
    """Bins of equal width with at least one item, in ascending order.

    labels: ``(n,)``, 0 or 1. probabilities: ``(n,)``, 0..1. clusters: a label an item,
    such as its image; None takes items as independent. Raises :class:`DataError` for
    other values, :class:`UsageError` for fewer than one bin.
    """
    truth, chance = _checked(labels, probabilities)
    if bins < 1:
        raise UsageError(f"{bins} bins: at least one is needed")
    edges = np.linspace(0, 1, bins + 1)
    place = np.searchsorted(edges[1:-1], chance)
    owners = None if clusters is None else np.asarray(clusters)
    found = []
    for i in np.unique(place):
        keep = place == i
        share = proportion(truth[keep], None if owners is None else owners[keep])
        inside = chance[keep]
        # Rounded, the mean of equal numbers may lie beyond them.
        mean = float(np.clip(inside.mean(), inside.min(), inside.max()))
        observed = float(truth[keep].mean())
        start, stop = float(edges[i]), float(edges[i + 1])
        found.append(Bin(start, stop, int(keep.sum()), mean, observed, share.low, share.high))
    return found


def log_losses(labels: Numbers, probabilities: Numbers) -> Array:
    """-log of the probability given to what is true: ``(n,)``, ``(n,)`` -> ``(n,)`` in nats.

    Probabilities are kept off 0 and 1 by the rounding of float64, as in scikit-learn's
    ``log_loss``, so that one certain error does not make the mean infinite. Raises as
    :func:`reliability_curve`.
    """
    truth, chance = _checked(labels, probabilities)
    smallest = float(np.finfo(np.float64).eps)
    right = np.clip(np.where(truth == 1, chance, 1 - chance), smallest, 1 - smallest)
    losses: Array = -np.log(right)
    return losses


def brier_score(labels: Numbers, probabilities: Numbers) -> float:
    """Mean squared distance of probability and truth, 0 (best) to 1 (Brier 1950)."""
    truth, chance = _checked(labels, probabilities)
    return float(np.square(chance - truth).mean())


def _checked(labels: Numbers, probabilities: Numbers) -> tuple[Array, Array]:
    truth, chance = paired(labels=labels, probabilities=probabilities)
    if not len(truth):
        raise DataError("reliability: no items")
    if not np.isin(truth, (0, 1)).all():
        raise DataError(f"labels: must be 0 or 1, got {_first(truth[~np.isin(truth, (0, 1))])}")
    wrong = (chance < 0) | (chance > 1)
    if wrong.any():
        raise DataError(f"probabilities: must lie in 0..1, got {_first(chance[wrong])}")
    return truth, chance


def _first(values: Sequence[float] | Array) -> str:
    return f"{values[0]:g}"
