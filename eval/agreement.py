"""Whether annotators agree: Krippendorff's alpha of each question, with an interval.

Alpha is 1 if all annotators agree, 0 if they agree as often as by chance, and negative if
they agree less. Ratings from 1 to 5 are ordered, so it is the ordinal alpha (Krippendorff, Content
Analysis). The package ``krippendorff`` computes it. The interval resamples whole images
(:mod:`descscore.eval.statistics.bootstrap`); for that, this module computes the same alpha from sums
over images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import krippendorff
import numpy as np

from descscore.eval.formatting import Columns, decimals, row_lines
from descscore.eval.statistics.bootstrap import Resampling, cluster_index, cluster_sums, studentised
from descscore.eval.statistics.correlation import Array
from descscore.study.judgments import Judgment
from descscore.study.questions import NO_IMAGE, QUESTIONS, Question

NOTES = (
    "alpha: Krippendorff's for ordered ratings; 1 is full agreement, 0 is chance. Interval: 95 %, by a "
    "bootstrap over whole images.",
    "5 is the good end of the questions of Kreiss et al.; for irrelevance it means 'not too much'.",
)

GROUPS = {NO_IMAGE: "BLV", "before": "sighted, before the image", "after": "sighted, after the image"}


@dataclass(frozen=True)
class Agreement:
    """Agreement of one group on one question."""

    group: str
    """Who answered: BLV, or sighted before or after the image."""
    question: str
    """Name of the question."""
    raters: int
    """Number of raters."""
    items: int
    """Number of items with a rating."""
    images: int
    """Number of these items' images, which the interval resamples."""
    ratings: int
    """Number of ratings."""
    mean: float
    """Mean rating."""
    alpha: float | None
    """Krippendorff's ordinal alpha; None if it is not defined."""
    low: float | None
    """Lower end of its 95 % interval, or None."""
    high: float | None
    """Its upper end, or None."""
    reason: str | None
    """Why alpha or its interval is not defined."""


def agreements(
    judgments: Sequence[Judgment],
    images: Mapping[str, str],
    resampling: Resampling | None = None,
    questions: Sequence[Question] = QUESTIONS,
) -> list[Agreement]:
    """Agreement on every question in every phase that somebody answered. images: by item."""
    rows = []
    for phase, group in GROUPS.items():
        part = [judgment for judgment in judgments if judgment.phase == phase]
        for question in questions:
            rated = [(j, j.ratings[question.name]) for j in part if question.name in j.ratings]
            if rated:
                rows.append(_agreement(group, question, rated, images, resampling))
    return rows


def _agreement(
    group: str,
    question: Question,
    rated: Sequence[tuple[Judgment, int]],
    images: Mapping[str, str],
    resampling: Resampling | None,
) -> Agreement:
    items = list(dict.fromkeys(judgment.item for judgment, _ in rated))
    counts = value_counts(((judgment.item, value) for judgment, value in rated), items, question.values)
    alpha, low, high, reason = ordinal_alpha(counts, [images[item] for item in items], resampling)
    return Agreement(
        group=group,
        question=question.name,
        raters=len({judgment.pseudonym for judgment, _ in rated}),
        items=len(items),
        images=len({images[item] for item in items}),
        ratings=len(rated),
        mean=float(np.mean([value for _, value in rated])),
        alpha=alpha,
        low=low,
        high=high,
        reason=reason,
    )


def value_counts(rated: Iterable[tuple[str, int]], items: Sequence[str], values: int = 5) -> Array:
    """How often each item got each value of the scale, 1 to ``values``: ``(items, values)``."""
    counts = np.zeros((len(items), values))
    place = {item: row for row, item in enumerate(items)}
    for item, value in rated:
        counts[place[item], value - 1] += 1
    return counts


def ordinal_alpha(
    counts: Array, images: Sequence[str], resampling: Resampling | None = None
) -> tuple[float | None, float | None, float | None, str | None]:
    """Alpha of value counts ``(items, values)`` with low, high, and why any of them is not defined."""
    shared = counts.sum(1) > 1
    if not shared.any():
        return None, None, None, "no item has two ratings or more"
    if (counts[shared].sum(0) > 0).sum() < 2:
        return None, None, None, "all ratings are the same"
    alpha = krippendorff.alpha(value_counts=counts.astype(np.int64), level_of_measurement="ordinal")
    index = cluster_index([image for image, kept in zip(images, shared, strict=True) if kept], shared.sum())
    interval = studentised(cluster_sums(coincidences(counts[shared]), index), alpha_of_sums, resampling)
    return float(alpha), interval.low, interval.high, interval.reason


def coincidences(counts: Array) -> Array:
    """Coincidences of values within each item, counts ``(n, v)`` of 2 ratings or more -> ``(n, v * v)``."""
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(counts.shape[1])
    return (pairs / (counts.sum(1) - 1)[:, None, None]).reshape(len(counts), -1)


def alpha_of_sums(sums: Array) -> Array:
    """Ordinal alpha of summed coincidences: ``(..., v * v)`` -> ``(...)``, NaN if it has none."""
    size = round(sums.shape[-1] ** 0.5)
    observed = sums.reshape(*sums.shape[:-1], size, size)
    totals = observed.sum(-1)
    ranks = totals.cumsum(-1) - totals / 2  # the middle of each value's ranks
    distances = np.square(ranks[..., :, None] - ranks[..., None, :])
    expected = totals[..., :, None] * totals[..., None, :] / (totals.sum(-1) - 1)[..., None, None]
    disagreement = (observed * distances).sum((-1, -2))
    chance = (expected * distances).sum((-1, -2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance > 1e-9, 1 - disagreement / chance, np.nan)


_COLUMNS: Columns = {
    "group": "group",
    "question": "question",
    "raters": "raters",
    "items": "items",
    "images": "images",
    "ratings": "ratings",
    "mean": lambda row: f"{row.mean:.2f}",
    "alpha": lambda row: decimals(row.alpha),
    "95 % interval": lambda row: (
        (row.reason or "-") if row.low is None or row.high is None else f"{row.low:+.3f} to {row.high:+.3f}"
    ),
}


def agreement_lines(rows: Sequence[Agreement]) -> list[str]:
    """The rows as a table of text, and what its columns mean."""
    return [*row_lines(rows, _COLUMNS, names=2), "", *NOTES]
