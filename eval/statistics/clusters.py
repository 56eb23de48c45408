"""Correlations and their differences with intervals and p-values over whole clusters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from descscore.eval.statistics.bootstrap import (
    NO_VALUE,
    Clusters,
    Estimate,
    Index,
    Interval,
    Resampling,
    Statistic,
    cluster_index,
    cluster_sums,
    estimate_of,
    percentile,
    studentised,
    undefined,
)
from descscore.eval.statistics.correlation import COLLINEAR, Array, Numbers, paired, partial, undefined_reason

FISHER = "bootstrap-t over clusters, Fisher z"
PLAIN = "bootstrap-t over clusters"


def cluster_pearson(
    x: Numbers, y: Numbers, clusters: Clusters, resampling: Resampling | None = None
) -> Estimate:
    """Pearson's r of ``(n,)`` and ``(n,)``, its interval by bootstrap-t on Fisher's z scale, p against 0.

    clusters: a label an item. Raises :class:`descscore.errors.DataError` on NaN or
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
        return undefined(index, PLAIN, reason)
    interval = studentised(_moments([one, two, target], index), _r_difference, resampling)
    found = estimate_of(interval, index, PLAIN)
    if found.low is None or found.high is None:
        return found
    # Two correlations differ by 2 at most; with few clusters the symmetric interval reaches beyond.
    return replace(found, low=max(-2.0, found.low), high=min(2.0, found.high))


def percentile_pearson(
    x: Numbers, y: Numbers, clusters: Clusters, resampling: Resampling | None = None
) -> Estimate:
    """Pearson's r with the plain percentile interval over clusters and no p, for comparison only."""
    first, second = paired(x=x, y=y)
    index = cluster_index(clusters, len(first))
    method = "percentile bootstrap over clusters"
    reason = undefined_reason(x=first, y=second)
    if reason:
        return undefined(index, method, reason)
    interval = percentile(_moments([first, second], index), _pearson, resampling)
    return estimate_of(interval, index, method)


def _fisher(
    columns: dict[str, Array], clusters: Clusters, statistic: Statistic, resampling: Resampling | None
) -> Estimate:
    """A correlation's interval, found on Fisher's z scale, where its spread hardly depends on its size."""
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
    """r of two of the columns from sums ``(..., k)``: ``(...)``, NaN where one is constant."""
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


def _pearson(sums: Array) -> Array:
    return _r(sums, 0, 1, 2)


def _pearson_z(sums: Array) -> Array:
    return _z(_r(sums, 0, 1, 2))


def _partial_z(sums: Array) -> Array:
    return _z(partial(_r(sums, 0, 1, 3), _r(sums, 0, 2, 3), _r(sums, 1, 2, 3)))


def _r_difference(sums: Array) -> Array:
    return _r(sums, 0, 2, 3) - _r(sums, 1, 2, 3)


def _z(r: Array) -> Array:
    """Fisher's z; an exact ±1, which has none, is taken as the nearest number that has."""
    return np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))
