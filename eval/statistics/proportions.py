"""Shares of hits with intervals, over items or whole clusters; and how far probabilities can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from descscore.errors import DataError, UsageError
from descscore.eval.statistics.bootstrap import (
    BOOTSTRAP,
    MIN_CLUSTERS,
    Clusters,
    Estimate,
    Index,
    Resampling,
    cluster_index,
    cluster_sums,
    estimate_of,
    jackknife_error,
    studentised,
    undefined,
)
from descscore.eval.statistics.correlation import Array, Numbers, numbers, paired

WILSON = "Wilson"
EFFECTIVE = "Wilson, effective size by clusters"

_MIN_RARE = 10


def cluster_mean(values: Numbers, clusters: Clusters, resampling: Resampling | None = None) -> Estimate:
    """Mean of ``(n,)`` with a bootstrap-t interval over clusters, and p against 0.

    Of per-item differences between two methods (hits of one minus hits of the
    other) it is their paired test. Raises :class:`DataError` on NaN.
    """
    array = numbers("values", values)
    index = cluster_index(clusters, len(array))
    if not len(array):
        return undefined(index, BOOTSTRAP, "no items")
    return estimate_of(studentised(_sums(array, index), _mean, resampling), index, BOOTSTRAP)


def proportion(
    hits: Numbers, clusters: Clusters | None = None, resampling: Resampling | None = None
) -> Estimate:
    """Share of hits ``(n,)``, each 0..1 (a share if one item is several trials), with its interval but no p.

    Without clusters, items are independent: Wilson's interval. With clusters, the interval is a bootstrap-t
    over them. But if fewer than ten clusters hold any of the rarer outcome, the bootstrap cannot tell how
    rare it is. Then it is Wilson's interval with the effective number of trials, from the design effect
    (Korn and Graubard 1998).
    """
    array = numbers("hits", hits)
    if len(array) and (array.min() < 0 or array.max() > 1):
        raise DataError(f"hits: values must lie in 0..1, got {array.min():g}..{array.max():g}")
    n = len(array)
    index = cluster_index(range(n) if clusters is None else clusters, n)
    if not n:
        return undefined(index, WILSON, "no items")
    if clusters is None:
        share = float(array.mean())
        return Estimate(share, *wilson(share, n), None, n, n, WILSON)
    sums = _sums(array, index)
    if _rarer(sums) >= _MIN_RARE:
        found = studentised(sums, _mean, resampling)
        if found.low is not None and found.high is not None:
            low, high = max(0.0, found.low), min(1.0, found.high)
            return Estimate(found.value, low, high, None, n, len(sums), BOOTSTRAP)
    return _by_effective_size(array, sums)


def wilson(share: float, trials: float, freedom: int | None = None) -> tuple[float, float]:
    """Wilson's 95 % score interval of a ``share``, 0..1, of ``trials`` (Wilson 1927).

    trials need not be whole (an effective number). With ``freedom`` the quantile is
    Student's instead of the normal one, as for few clusters.
    """
    if not 0 <= share <= 1 or trials <= 0:
        raise DataError(f"Wilson interval: {share} of {trials} trials is not a share")
    z = float(stats.norm.ppf(0.975) if freedom is None else stats.t.ppf(0.975, freedom))
    centre = share + z * z / (2 * trials)
    reach = z * np.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    scale = 1 + z * z / trials
    return max(0.0, float((centre - reach) / scale)), min(1.0, float((centre + reach) / scale))


def _sums(values: Array, index: Index) -> Array:
    """Count and sum by cluster: ``(n,)``, ``(n,)`` -> ``(G, 2)``."""
    return cluster_sums(np.stack([np.ones_like(values), values], 1), index)


def _mean(sums: Array) -> Array:
    """Means from counts and sums ``(..., 2)``; NaN if there is no item."""
    result: Array = sums[..., 1] / np.where(sums[..., 0] > 0, sums[..., 0], np.nan)
    return result


def _rarer(sums: Array) -> int:
    """In how many clusters the rarer outcome occurs."""
    return int(min((sums[:, 1] > 0).sum(), (sums[:, 1] < sums[:, 0]).sum()))


def _by_effective_size(hits: Array, sums: Array) -> Estimate:
    """Wilson's interval with the effective number of trials; if all hits are alike, one for each cluster."""
    n, groups, share = len(hits), len(sums), float(hits.mean())
    if groups < MIN_CLUSTERS:
        reason = f"too few clusters ({groups}, at least {MIN_CLUSTERS} are needed)"
        return Estimate(share, None, None, None, n, groups, EFFECTIVE, reason)
    error = jackknife_error(sums, _mean)
    trials = min(n, share * (1 - share) / error**2) if error > 1e-12 else groups
    return Estimate(share, *wilson(share, trials, groups - 1), None, n, groups, EFFECTIVE)


BINS = 10


@dataclass(frozen=True)
class Bin:
    """The items whose probability lies in ``(start, stop]``; the first bin holds 0 too.

    predicted: their mean probability. observed: the share that is true, with its 95 %
    interval; low and high are None if there are too few clusters. n: items.
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

    labels: ``(n,)``, 0 or 1. probabilities: ``(n,)``, 0..1. clusters: one label for each item,
    such as its image; None takes items as independent. Raises :class:`DataError` for
    other values, :class:`UsageError` for fewer than one bin.
    """
    truth, chance = _checked(labels, probabilities)
    if bins < 1:
        raise UsageError(f"{bins} bins: at least one is needed")
    edges = np.linspace(0, 1, bins + 1)
    place = np.searchsorted(edges[1:-1], chance)
    owners = None if clusters is None else np.asarray(clusters)
    curve = []
    for i in np.unique(place):
        keep = place == i
        share = proportion(truth[keep], None if owners is None else owners[keep])
        inside = chance[keep]
        # Rounded, the mean of equal numbers may lie beyond them.
        mean = float(np.clip(inside.mean(), inside.min(), inside.max()))
        observed = float(truth[keep].mean())
        start, stop = float(edges[i]), float(edges[i + 1])
        curve.append(Bin(start, stop, int(keep.sum()), mean, observed, share.low, share.high))
    return curve


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
