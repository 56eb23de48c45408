"""How far raters agree, and so how high any metric's correlation with their means can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from descscore.errors import DataError
from descscore.eval.statistics.correlation import MIN_ITEMS, Array, Numbers, numbers

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
    """Pearson's r of each row: ``(m, n)``, ``(m, n)`` -> ``(m,)``, NaN where a row is constant."""
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    scale = np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return np.divide((x * y).sum(1), scale, out=np.full(len(x), np.nan), where=scale > 1e-12)
