"""How metrics agree with people's ratings: one row a metric, group of raters and question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from descscore.errors import DataError
from descscore.eval.csv_tables import named
from descscore.eval.human.ratings import Drop, Judgments, Panel
from descscore.eval.score_tables import Joined
from descscore.eval.statistics.bootstrap import Estimate, Resampling
from descscore.eval.statistics.cluster_correlation import cluster_difference, cluster_partial, cluster_pearson
from descscore.eval.statistics.correlation import Array, kendall, pearson, spearman, undefined_reason
from descscore.eval.statistics.reliability import Reliability, split_half
from descscore.version import __version__

LENGTH, LOG_LENGTH = "length", "log length"

NOTES = (
    "r is Pearson's with the mean ratings. Its interval and p, and those of partial_r and of differences, "
    "come from a studentised bootstrap over whole images; pearson_p, spearman_p and kendall_p are the "
    "textbook ones, which take items as independent.",
    "length is in characters; partial_r is r given length, partial_r_log_length given its logarithm.",
    "ceiling is the square root of the raters' split-half reliability: with such means no metric can be "
    "expected to correlate higher.",
    "p-values are not corrected for the number of rows: one in twenty is at most 0.05 by chance.",
)


@dataclass(frozen=True)
class HumanRow:
    """One metric against the mean ratings of one group of raters on one question.

    phase: ``before`` or ``after`` the image, None where that does not apply. n: items;
    clusters: images. r with p, low, high (95 %); partial_r given length likewise. What is
    not defined is None; ``reason`` says why r or its interval is, ``partial_reason`` the
    same of partial_r, ``reliability_reason`` of reliability and ceiling.
    """

    metric: str
    raters: str
    phase: str | None
    question: str
    n: int
    clusters: int
    r: float | None
    p: float | None
    low: float | None
    high: float | None
    pearson_p: float | None
    spearman: float | None
    spearman_p: float | None
    kendall: float | None
    kendall_p: float | None
    partial_r: float | None
    partial_p: float | None
    partial_low: float | None
    partial_high: float | None
    partial_r_log_length: float | None
    reliability: float | None
    ceiling: float | None
    reason: str | None
    partial_reason: str | None
    reliability_reason: str | None


@dataclass(frozen=True)
class DifferenceRow:
    """r of ``first`` minus r of ``second`` on the same items, with 95 % interval and p against none."""

    first: str
    second: str
    raters: str
    phase: str | None
    question: str
    n: int
    clusters: int
    difference: float | None
    p: float | None
    low: float | None
    high: float | None
    reason: str | None


@dataclass(frozen=True)
class HumanResult:
    """All rows, what was joined and dropped, notes that belong to the numbers, and their signature."""

    rows: tuple[HumanRow, ...]
    differences: tuple[DifferenceRow, ...]
    joined: int
    drops: tuple[Drop, ...]
    notes: tuple[str, ...]
    signature: str

    @property
    def dropped(self) -> int:
        """How many scores, ratings and rated texts were left out in all."""
        return sum(drop.count for drop in self.drops)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; ``dropped`` is the sum of ``drops``."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "differences": [asdict(row) for row in self.differences],
            "joined": self.joined,
            "dropped": self.dropped,
            "drops": [asdict(drop) for drop in self.drops],
            "notes": list(self.notes),
            "signature": self.signature,
        }


@dataclass(frozen=True)
class _Cell:
    """One panel's items: means ``(n,)``, which of all items they are, and how reliable they are."""

    panel: Panel
    means: Array
    kept: np.ndarray[Any, np.dtype[np.int64]]
    clusters: list[str]
    reliability: Reliability


def human_result(
    judgments: Judgments, metrics: Sequence[Joined], resampling: Resampling | None = None
) -> HumanResult:
    """Every metric, and text length and its logarithm, against every panel of raters.

    metrics: scores in the items' order (:func:`descscore.eval.score_tables.join`), each
    under its own name. Differences are those of each metric from length and from
    log length, and of each two metrics.
    """
    resampling = resampling or Resampling()
    lengths = np.array([len(item.text) for item in judgments.items], dtype=np.float64)
    table = _table(metrics, lengths)
    cells = [_cell(judgments, panel, resampling.seed) for panel in judgments.panels]
    names = [metric.metric for metric in metrics]
    pairs = [*combinations(names, 2), *((name, base) for name in names for base in (LENGTH, LOG_LENGTH))]
    rows = tuple(_row(name, table, cell, resampling) for cell in cells for name in table)
    differences = tuple(_difference(pair, table, cell, resampling) for cell in cells for pair in pairs)
    drops = (*judgments.drops, *(drop for metric in metrics for drop in metric.drops))
    signature = _signature(judgments, metrics, resampling)
    return HumanResult(rows, differences, len(judgments.items), drops, judgments.notes + NOTES, signature)


def _table(metrics: Sequence[Joined], lengths: Array) -> dict[str, Array]:
    """Scores by metric, the two baselines last; names must differ."""
    columns = [(metric.metric, metric.values) for metric in metrics]
    columns += [(LENGTH, lengths), (LOG_LENGTH, np.log(lengths))]
    table = dict(columns)
    if len(table) < len(columns):
        raise DataError(f"two metrics have the same name among {named((name for name, _ in columns), 10)}")
    return table


def _cell(judgments: Judgments, panel: Panel, seed: int) -> _Cell:
    kept = np.array([i for i, ratings in enumerate(panel.ratings) if ratings], dtype=np.int64)
    ratings = [panel.ratings[i] for i in kept]
    means = np.array([np.mean(values) for values in ratings])
    clusters = [judgments.items[i].cluster for i in kept]
    return _Cell(panel, means, kept, clusters, split_half(ratings, seed=seed))


def _row(metric: str, table: dict[str, Array], cell: _Cell, resampling: Resampling) -> HumanRow:
    scores, length = table[metric][cell.kept], table[LENGTH][cell.kept]
    estimate = cluster_pearson(scores, cell.means, cell.clusters, resampling)
    given = cluster_partial(scores, cell.means, length, cell.clusters, resampling)
    given_log = cluster_partial(scores, cell.means, np.log(length), cell.clusters, resampling)
    columns = {"scores": scores, "ratings": cell.means}
    rank, tau = spearman(scores, cell.means), kendall(scores, cell.means)
    return HumanRow(
        metric=metric,
        raters=cell.panel.raters,
        phase=cell.panel.phase,
        question=cell.panel.question,
        n=estimate.n,
        clusters=estimate.clusters,
        r=estimate.value,
        p=estimate.p,
        low=estimate.low,
        high=estimate.high,
        pearson_p=pearson(scores, cell.means).p,
        spearman=rank.value,
        spearman_p=rank.p,
        kendall=tau.value,
        kendall_p=tau.p,
        partial_r=given.value,
        partial_p=given.p,
        partial_low=given.low,
        partial_high=given.high,
        partial_r_log_length=given_log.value,
        reliability=cell.reliability.value,
        ceiling=cell.reliability.ceiling,
        reason=undefined_reason(**columns) or estimate.reason,
        partial_reason=undefined_reason(**columns, length=length) or given.reason,
        reliability_reason=cell.reliability.reason,
    )


def _difference(
    pair: tuple[str, str], table: dict[str, Array], cell: _Cell, resampling: Resampling
) -> DifferenceRow:
    first, second = (table[name][cell.kept] for name in pair)
    found: Estimate = cluster_difference(first, second, cell.means, cell.clusters, resampling)
    return DifferenceRow(
        first=pair[0],
        second=pair[1],
        raters=cell.panel.raters,
        phase=cell.panel.phase,
        question=cell.panel.question,
        n=found.n,
        clusters=found.clusters,
        difference=found.value,
        p=found.p,
        low=found.low,
        high=found.high,
        reason=undefined_reason(**{pair[0]: first, pair[1]: second, "ratings": cell.means}) or found.reason,
    )


def _signature(judgments: Judgments, metrics: Sequence[Joined], resampling: Resampling) -> str:
    """All that the numbers depend on, in one line."""
    parts = [f"descscore:{__version__}", f"ratings:{judgments.source}"]
    parts += [f"{metric.metric}:[{metric.source}]" for metric in metrics]
    parts += [f"bootstrap-t:{resampling.resamples}", f"seed:{resampling.seed}"]
    return "|".join(parts)
