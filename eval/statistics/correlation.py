"""Correlations with p-values, and how high the raters' agreement lets a correlation be.

The p-values here are the textbook ones, which take every item to be independent of the others.
Where several items share an image they are too small; :mod:`descscore.eval.statistics.bootstrap`
resamples whole images instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
from scipy import stats

from descscore.errors import DataError

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Numbers: TypeAlias = Sequence[float] | np.ndarray[Any, Any]

MIN_ITEMS = 4
"""Fewest items for which a correlation is reported: with three, any line fits well."""


@dataclass(frozen=True)
class Correlation:
    """A correlation, -1..1, of ``n`` items with its two-sided p-value.

    Where it is not defined, ``value`` and ``p`` are None and ``reason`` says why.
    """

    value: float | None
    p: float | None
    n: int
    reason: str | None = None


def pearson(x: Numbers, y: Numbers) -> Correlation:
    """Pearson's r of ``(n,)`` and ``(n,)``; raises :class:`DataError` on NaN or unequal lengths."""
    return _correlation(stats.pearsonr, x, y)


def spearman(x: Numbers, y: Numbers) -> Correlation:
    """Spearman's rho of ``(n,)`` and ``(n,)``, ties at their middle rank; raises as :func:`pearson`."""
    return _correlation(stats.spearmanr, x, y)


def kendall(x: Numbers, y: Numbers, variant: Literal["b", "c"] = "b") -> Correlation:
    """Kendall's tau-b or tau-c of ``(n,)`` and ``(n,)``; raises as :func:`pearson`.

    tau-c (Stuart) is meant for scales of different lengths, such as cosines against
    four grades.
    """
    return _correlation(partial(stats.kendalltau, variant=variant), x, y)


def _correlation(function: Callable[..., Any], x: Numbers, y: Numbers) -> Correlation:
    first, second = paired(x=x, y=y)
    reason = undefined_reason(x=first, y=second)
    if reason:
        return Correlation(None, None, len(first), reason)
    result = function(first, second)
    return Correlation(float(result.statistic), float(result.pvalue), len(first))


COLLINEAR = "one of the two is a straight line of the control"


def partial_r(xy: Any, xz: Any, yz: Any) -> Any:
    """Partial correlation of x and y given z from their plain ones; NaN if z explains one of them.

    Works on numbers and on arrays of one shape.
    """
    left, right = 1 - np.square(xz), 1 - np.square(yz)
    product = np.where((left > 1e-9) & (right > 1e-9), left * right, np.nan)
    return np.clip((xy - xz * yz) / np.sqrt(product), -1.0, 1.0)


def paired(**columns: Numbers) -> tuple[Array, ...]:
    """The columns as float arrays ``(n,)``, or a :class:`DataError` that names the one at fault."""
    arrays = {name: numbers(name, values) for name, values in columns.items()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} has {count}" for name, count in lengths.items())
        raise DataError(f"columns of unequal length: {shown}")
    return tuple(arrays.values())


def numbers(name: str, values: Numbers) -> Array:
    """``values`` as a float array ``(n,)``; raises :class:`DataError` on another shape, NaN or infinity."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{name}: expected numbers, got {str(values)[:60]!r}") from None
    if array.ndim != 1:
        raise DataError(f"{name}: expected one number an item, got an array of shape {array.shape}")
    wrong = np.flatnonzero(~np.isfinite(array))
    if len(wrong):
        raise DataError(
            f"{name}: row {wrong[0]} is {array[wrong[0]]} ({len(wrong)} such rows of {len(array)})"
        )
    return array


def undefined_reason(**columns: Array) -> str | None:
    """Why no correlation of these columns is defined, or None if it is."""
    n = len(next(iter(columns.values())))
    if n < MIN_ITEMS:
        return f"too few items ({n}, at least {MIN_ITEMS} are needed)"
    flat = [name for name, values in columns.items() if is_constant(values)]
    return f"constant values ({', '.join(flat)})" if flat else None


def is_constant(values: Array) -> bool:
    """Whether ``values`` differ by no more than rounding does."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


_CELLS_AT_ONCE = 500_000


@dataclass(frozen=True)
class Reliability:
    """Reliability of the items' mean ratings, at most 1, and the ceiling that it sets.

    ceiling: the square root of the reliability, the highest correlation to be
    expected of a metric that knows the true means. items: how many have two
    ratings or more. Where not defined, the numbers are None and ``reason`` says why.
    """

    value: float | None
    ceiling: float | None
    items: int
    reason: str | None = None


def split_half(ratings: Sequence[Numbers], splits: int = 20_000, seed: int = 0) -> Reliability:
    """Split-half reliability of mean ratings, one sequence of ratings an item.

    Each item's ratings are split at random into two halves (of an odd number, one
    half has one more); r between the halves' means over items is averaged over
    ``splits`` draws, then corrected to full length: 2r / (1 + r) (Spearman 1910,
    Brown 1910). Items with a single rating are left out. Averaging before correcting
    keeps the correction, which is steep below zero, from being driven by unlucky draws.
    """
    if splits < 1:
        raise DataError(f"split-half reliability: {splits} splits, at least 1 is needed")
    usable = [array for array in (numbers("ratings", values) for values in ratings) if len(array) > 1]
    n = len(usable)
    if n < MIN_ITEMS:
        return Reliability(None, None, n, f"too few items with two ratings or more ({n})")
    r = _half_correlations(usable, splits, seed)
    if not np.isfinite(r).all():
        return Reliability(None, None, n, "constant ratings in one half")
    mean = float(r.mean())
    value = 2 * mean / (1 + mean) if mean > -1 else -np.inf
    if value < 0:
        return Reliability(value if np.isfinite(value) else None, None, n, "negative: raters do not agree")
    return Reliability(value, value**0.5, n)


def _half_correlations(ratings: list[Array], splits: int, seed: int) -> Array:
    """r between the halves' means for each of ``splits`` random splits: ``(splits,)``."""
    counts = np.array([len(values) for values in ratings])
    width = counts.max()
    filled = np.arange(width) < counts[:, None]  # (items, width)
    table = np.zeros(filled.shape)
    table[filled] = np.concatenate(ratings)
    half = counts // 2
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS_AT_ONCE // table.size)
    parts = []
    for start in range(0, splits, step):
        shape = (min(step, splits - start), *table.shape)
        # Empty cells get the last ranks, so that a half is the cells ranked below its size.
        order = np.where(filled, rng.random(shape), 2.0).argsort(-1)
        shuffled = np.take_along_axis(np.broadcast_to(table, shape), order, -1)
        first = np.where(np.arange(width) < half[:, None], shuffled, 0.0).sum(-1)  # (step, items)
        rest = table.sum(-1) - first
        parts.append(_rowwise_r(first / half, rest / (counts - half)))
    return np.concatenate(parts)


def _rowwise_r(x: Array, y: Array) -> Array:
    """Pearson's r of each row: ``(m, n)``, ``(m, n)`` -> ``(m,)``, NaN if a row is constant."""
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    scale = np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return np.divide((x * y).sum(1), scale, out=np.full(len(x), np.nan), where=scale > 1e-12)
