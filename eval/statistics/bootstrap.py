"""Studentised bootstrap over whole clusters (here: images), and correlations with such intervals.

Items of one image are not independent, so a resample draws images with all their items. With few
images, the plain percentile interval of such resamples is too narrow. To repair this, each resample's
deviation is divided by its own standard error (bootstrap-t, Efron 1981; Hall 1988 for the symmetric
form used here).

Everything works on *sums by cluster*, from which a statistic computes its value. So a resample is one
matrix product, and its standard error (a delete-one-cluster jackknife) only needs subtractions.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from descscore.errors import DataError, UsageError
from descscore.eval.statistics.correlation import (
    COLLINEAR,
    Array,
    Numbers,
    paired,
    partial_r,
    undefined_reason,
)

Clusters: TypeAlias = Sequence[Hashable] | np.ndarray[Any, Any]
Index: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Statistic: TypeAlias = Callable[[Array], Array]
"""Sums ``(..., k)`` -> values ``(...)``; NaN if they define none."""

MIN_CLUSTERS = 5
"""Fewest clusters for which an interval is reported."""

BOOTSTRAP = "bootstrap-t over clusters"
FISHER = f"{BOOTSTRAP}, Fisher z"
NO_VALUE = "the statistic has no value on these items"

_NUMBERS_AT_ONCE = 2_000_000
_MAX_FAILED = 0.02


@dataclass(frozen=True)
class Resampling:
    """How to resample."""

    resamples: int = 1999
    """Number of draws. With 1999 the 95 % interval excludes zero exactly where p <= 0.05."""
    seed: int = 0
    """Seed of the draws; the same seed gives the same interval."""

    def __post_init__(self) -> None:
        if self.resamples < 99:
            raise UsageError(f"resamples {self.resamples}: at least 99 are needed for an interval")


@dataclass(frozen=True)
class Interval:
    """A statistic with its interval and the two-sided p-value against 0.

    Where no interval is defined, ``low``, ``high`` and ``p`` are None and ``reason`` says why.
    """

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Estimate:
    """A number with its interval and two-sided p-value against 0, of ``n`` items in ``clusters`` clusters.

    method: how interval and p were computed. A share has no p. Numbers that are not defined are None;
    ``reason`` says why.
    """

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    clusters: int
    method: str
    reason: str | None = None


def cluster_index(clusters: Clusters, n: int) -> Index:
    """Labels of ``n`` items -> their clusters ``0..G-1``, ``(n,)``; :class:`DataError` on another length."""
    labels = clusters.tolist() if isinstance(clusters, np.ndarray) else list(clusters)
    if len(labels) != n:
        raise DataError(f"{n} items but {len(labels)} cluster labels: an item needs one each")
    place: dict[Hashable, int] = {}
    return np.array([place.setdefault(label, len(place)) for label in labels], dtype=np.int64)


def cluster_sums(columns: Array, index: Index) -> Array:
    """Sums by cluster: ``(n, k)`` and clusters ``(n,)`` -> ``(G, k)``."""
    sums = np.zeros((int(index.max()) + 1, columns.shape[1]))
    np.add.at(sums, index, columns)
    return sums


def estimate_of(interval: Interval, index: Index, method: str) -> Estimate:
    """``interval`` with the numbers of items and clusters, from each item's cluster ``(n,)``."""
    groups = len(np.unique(index))
    return Estimate(**vars(interval), n=len(index), clusters=groups, method=method)


def undefined(index: Index, method: str, reason: str) -> Estimate:
    """An estimate that is not defined, for this reason."""
    return estimate_of(Interval(None, None, None, None, reason), index, method)


def studentised(sums: Array, statistic: Statistic, resampling: Resampling | None = None) -> Interval:
    """Symmetric bootstrap-t interval of ``statistic`` of the summed ``sums``, and p against 0.

    sums: ``(G, k)``, one row a cluster. The interval is value ± q·se with q the
    95 % quantile of |t*|; p the share of |t*| at least as large as
    |value| / se. A resample that has no value or no spread counts as an
    infinite |t*|; if that happens in over 2 % of them, no interval is defined.
    """
    resampling = resampling or Resampling()
    value = float(statistic(sums.sum(0)))
    if not np.isfinite(value):
        return Interval(None, None, None, None, NO_VALUE)
    if len(sums) < MIN_CLUSTERS:
        reason = f"too few clusters ({len(sums)}, at least {MIN_CLUSTERS} are needed)"
        return Interval(value, None, None, None, reason)
    error = jackknife_error(sums, statistic)
    if not np.isfinite(error) or error <= 1e-12 * max(1.0, abs(value)):
        return Interval(value, None, None, None, "no spread between the clusters")
    deviations = np.sort(_deviations(sums, statistic, value, resampling))
    if np.isinf(deviations).mean() > _MAX_FAILED:
        return Interval(value, None, None, None, "too few clusters hold any information")
    rank = int(np.ceil((len(deviations) + 1) * 0.95)) - 1
    reach = float(deviations[min(rank, len(deviations) - 1)]) * error
    beyond = int((deviations >= abs(value) / error).sum())
    return Interval(value, value - reach, value + reach, (beyond + 1) / (len(deviations) + 1))


def jackknife_error(sums: Array, statistic: Statistic) -> float:
    """Delete-one-cluster standard error of ``statistic`` of ``sums`` ``(G, k)``; NaN if undefined."""
    return float(_jackknife(sums.sum(0)[None], np.ones((1, len(sums))), sums, statistic)[0])


def _deviations(sums: Array, statistic: Statistic, value: float, resampling: Resampling) -> Array:
    """|t*| of each resample: ``(resamples,)``, infinite if it has no value or no spread."""
    parts = []
    for weights in _draws(sums, resampling):
        totals = weights @ sums
        error = _jackknife(totals, weights, sums, statistic)
        with np.errstate(invalid="ignore", divide="ignore"):
            t = np.abs(statistic(totals) - value) / error
        parts.append(np.where(np.isfinite(t), t, np.inf))
    return np.concatenate(parts)


def _draws(sums: Array, resampling: Resampling) -> Iterator[Array]:
    """How often each cluster is drawn, ``(b, G)`` at a time, as large as memory allows."""
    groups, width = sums.shape
    rng = np.random.default_rng(resampling.seed)
    step = max(1, _NUMBERS_AT_ONCE // (groups * width))
    for start in range(0, resampling.resamples, step):
        size = min(step, resampling.resamples - start)
        yield rng.multinomial(groups, np.full(groups, 1 / groups), size).astype(np.float64)


def _jackknife(totals: Array, weights: Array, sums: Array, statistic: Statistic) -> Array:
    """Standard errors of resamples: ``(b, k)``, ``(b, G)``, ``(G, k)`` -> ``(b,)``.

    Each drawn copy of a cluster is left out in turn; copies of one cluster give
    the same value, so each is computed once and weighted by its count.
    """
    groups = len(sums)
    left = statistic(totals[:, None, :] - sums[None])  # (b, G)
    left = np.where(weights > 0, left, 0.0)
    mean = (weights * left).sum(1, keepdims=True) / groups
    spread = (weights * np.square(left - mean)).sum(1)
    return np.sqrt(spread * (groups - 1) / groups)


# Correlations


def cluster_pearson(
    x: Numbers, y: Numbers, clusters: Clusters, resampling: Resampling | None = None
) -> Estimate:
    """Pearson's r of ``(n,)`` and ``(n,)``, its interval by bootstrap-t on Fisher's z scale, p against 0.

    clusters: one label for each item. Raises :class:`descscore.errors.DataError` on NaN or
    unequal lengths; constant values and too few items or clusters give a reason.
    """
    first, second = paired(x=x, y=y)
    return _fisher({"x": first, "y": second}, clusters, _pearson_z, resampling)


def cluster_partial(
    x: Numbers, y: Numbers, control: Numbers, clusters: Clusters, resampling: Resampling | None = None
) -> Estimate:
    """Partial correlation of ``x`` and ``y`` given ``control``, ``(n,)`` each, as :func:`cluster_pearson`."""
    first, second, third = paired(x=x, y=y, control=control)
    estimate = _fisher({"x": first, "y": second, "control": third}, clusters, _partial_z, resampling)
    return replace(estimate, reason=COLLINEAR) if estimate.reason == NO_VALUE else estimate


def cluster_difference(
    first: Numbers, second: Numbers, y: Numbers, clusters: Clusters, resampling: Resampling | None = None
) -> Estimate:
    """r of ``first`` with ``y`` minus r of ``second`` with ``y`` on the same items, ``(n,)`` each.

    Both are recomputed in each resample, so their dependence is kept. p is against
    no difference.
    """
    one, two, target = paired(first=first, second=second, y=y)
    index = cluster_index(clusters, len(one))
    reason = undefined_reason(first=one, second=two, y=target)
    if reason:
        return undefined(index, BOOTSTRAP, reason)
    interval = studentised(_moments([one, two, target], index), _r_difference, resampling)
    estimate = estimate_of(interval, index, BOOTSTRAP)
    if estimate.low is None or estimate.high is None:
        return estimate
    # Two correlations differ by 2 at most; with few clusters the symmetric interval reaches beyond.
    return replace(estimate, low=max(-2.0, estimate.low), high=min(2.0, estimate.high))


def _fisher(
    columns: dict[str, Array], clusters: Clusters, statistic: Statistic, resampling: Resampling | None
) -> Estimate:
    """A correlation's interval, computed on Fisher's z scale, where its spread hardly depends on its size."""
    arrays = list(columns.values())
    index = cluster_index(clusters, len(arrays[0]))
    reason = undefined_reason(**columns)
    if reason:
        return undefined(index, FISHER, reason)
    z = studentised(_moments(arrays, index), statistic, resampling)
    interval = Interval(_tanh(z.value), _tanh(z.low), _tanh(z.high), z.p, z.reason)
    return estimate_of(interval, index, FISHER)


def _tanh(z: float | None) -> float | None:
    return None if z is None else float(np.tanh(z))


def _moments(columns: list[Array], index: Index) -> Array:
    """Sums by cluster of 1, each column, and each product of two: ``(G, 1 + v + v(v + 1) / 2)``.

    Columns are standardised first, which leaves correlations as they are and keeps
    the products from losing digits.
    """
    table = np.stack([(column - column.mean()) / column.std() for column in columns], 1)
    rows, cols = np.triu_indices(table.shape[1])
    ones = np.ones((len(table), 1))
    return cluster_sums(np.hstack([ones, table, table[:, rows] * table[:, cols]]), index)


def _r(sums: Array, first: int, second: int, columns: int) -> Array:
    """r of two of the columns from sums ``(..., k)``: ``(...)``, NaN if one is constant."""
    total = np.where(sums[..., 0] > 0, sums[..., 0], np.nan)

    def covariance(a: int, b: int) -> Array:
        # Place of (a, b), a <= b, in the upper triangle read row by row, behind the count and the columns.
        place = 1 + columns + a * columns - a * (a - 1) // 2 + (b - a)
        centre = sums[..., 1 + a] * sums[..., 1 + b] / total
        result: Array = (sums[..., place] - centre) / total
        return result

    spread = covariance(first, first) * covariance(second, second)
    spread = np.where(spread > 1e-18, spread, np.nan)
    return np.clip(covariance(first, second) / np.sqrt(spread), -1.0, 1.0)


def _pearson_z(sums: Array) -> Array:
    return _z(_r(sums, 0, 1, 2))


def _partial_z(sums: Array) -> Array:
    return _z(partial_r(_r(sums, 0, 1, 3), _r(sums, 0, 2, 3), _r(sums, 1, 2, 3)))


def _r_difference(sums: Array) -> Array:
    return _r(sums, 0, 2, 3) - _r(sums, 1, 2, 3)


def _z(r: Array) -> Array:
    """Fisher's z; an exact ±1, which has none, is taken as the nearest number that has."""
    return np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))
