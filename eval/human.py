"""How metrics agree with people's ratings: a row for each metric, group of raters and question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from descscore import __version__
from descscore.errors import DataError, first_ten
from descscore.eval.formatting import Columns, decimals, row_lines
from descscore.eval.metric_scores import Joined
from descscore.eval.ratings import Drop, Judgments, Panel
from descscore.eval.statistics.bootstrap import (
    Estimate,
    Resampling,
    cluster_difference,
    cluster_partial,
    cluster_pearson,
)
from descscore.eval.statistics.correlation import (
    Array,
    Reliability,
    kendall,
    pearson,
    spearman,
    split_half,
    undefined_reason,
)
from descscore.tables.cells import named

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

    What is not defined is None.
    """

    metric: str
    raters: str
    phase: str | None
    """``before`` or ``after`` the image; None if that does not apply."""
    question: str
    n: int
    """Items."""
    clusters: int
    """Images."""
    r: float | None
    """Pearson's correlation, with p against 0 and the 95 % interval low to high."""
    p: float | None
    low: float | None
    high: float | None
    pearson_p: float | None
    """The textbook p, which takes items as independent; spearman_p, kendall_p likewise."""
    spearman: float | None
    spearman_p: float | None
    kendall: float | None
    kendall_p: float | None
    partial_r: float | None
    """R given the length of the text, with its own p and interval."""
    partial_p: float | None
    partial_low: float | None
    partial_high: float | None
    partial_r_log_length: float | None
    """R given the logarithm of the length."""
    reliability: float | None
    """Of the mean ratings, by split halves."""
    ceiling: float | None
    """The r that no metric can be expected to pass."""
    reason: str | None
    """Why r or its interval is not defined; partial_reason and reliability_reason likewise."""
    partial_reason: str | None
    reliability_reason: str | None


@dataclass(frozen=True)
class DifferenceRow:
    """r of ``first`` minus r of ``second`` on the same items, with its interval and p against 0."""

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
    """The outcome of :func:`human_result`."""

    rows: tuple[HumanRow, ...]
    """A row for each metric, group of raters, phase and question."""
    differences: tuple[DifferenceRow, ...]
    """A row for each pair of metrics, likewise."""
    joined: int
    """Number of rated texts with a score."""
    drops: tuple[Drop, ...]
    """What was left out, and how many of each."""
    notes: tuple[str, ...]
    """What to know when the numbers are read."""
    signature: str
    """Everything that the numbers depend on."""

    @property
    def dropped(self) -> int:
        """Total number of scores, ratings and rated texts that were left out."""
        return sum(drop.count for drop in self.drops)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; ``dropped`` is the sum of ``drops``."""
        return asdict(self) | {"dropped": self.dropped}


@dataclass(frozen=True)
class _Cell:
    """The rated items of one panel."""

    panel: Panel
    means: Array
    """Mean rating of each item, ``(n,)``."""
    kept: np.ndarray[Any, np.dtype[np.int64]]
    """The items' places among all items, ``(n,)``."""
    clusters: list[str]
    """Each item's image."""
    reliability: Reliability


def human_result(
    judgments: Judgments, metrics: Sequence[Joined], resampling: Resampling | None = None
) -> HumanResult:
    """Compare every metric, text length and its logarithm with every panel of raters.

    Differences are computed for each two metrics, and for each metric and both kinds of length.

    Args:
        judgments: The rated items.
        metrics: Scores in the items' order (:func:`descscore.eval.metric_scores.join`), with different names.
        resampling: How intervals are computed.

    Raises:
        DataError: Two metrics have the same name.
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
        r=estimate.value,
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
        partial_reason=undefined_reason(**columns, length=length) or given.reason,
        reliability_reason=cell.reliability.reason,
        **_shared(cell, estimate, undefined_reason(**columns)),
    )


def _difference(
    pair: tuple[str, str], table: dict[str, Array], cell: _Cell, resampling: Resampling
) -> DifferenceRow:
    first, second = (table[name][cell.kept] for name in pair)
    estimate = cluster_difference(first, second, cell.means, cell.clusters, resampling)
    undefined = undefined_reason(**{pair[0]: first, pair[1]: second, "ratings": cell.means})
    return DifferenceRow(*pair, difference=estimate.value, **_shared(cell, estimate, undefined))


def _shared(cell: _Cell, estimate: Estimate, undefined: str | None) -> dict[str, Any]:
    """The fields that both kinds of rows have."""
    panel = {name: getattr(cell.panel, name) for name in ("raters", "phase", "question")}
    numbers = {name: getattr(estimate, name) for name in ("n", "clusters", "p", "low", "high")}
    return panel | numbers | {"reason": undefined or estimate.reason}


def _signature(judgments: Judgments, metrics: Sequence[Joined], resampling: Resampling) -> str:
    """All that the numbers depend on, in one line."""
    parts = [f"descscore:{__version__}", f"ratings:{judgments.source}"]
    parts += [f"{metric.metric}:[{metric.source}]" for metric in metrics]
    parts += [f"bootstrap-t:{resampling.resamples}", f"seed:{resampling.seed}"]
    return "|".join(parts)


LEGEND = (
    "r: Pearson's correlation of the scores with the mean ratings, -1 to 1, with its 95 % interval and the "
    "p-value against 0. rho: Spearman's correlation of ranks. tau: Kendall's, from pairs in the same order.",
    "partial: r given the length of the text. reliab.: how far two halves of the raters agree, 1 at most. "
    "ceiling: the r that no metric can be expected to pass.",
)
"""What the columns of :func:`table_lines` mean."""
BLV_LEGEND = "BLV: blind and low-vision readers."

_PLACE: Columns = {
    "raters": "raters",
    "phase": lambda row: row.phase or "-",
    "question": "question",
    "n": "n",
}
_INTERVAL: Columns = {
    "95 % interval": lambda row: (
        "-" if row.low is None or row.high is None else f"[{row.low:+.3f}, {row.high:+.3f}]"
    ),
    "p": lambda row: "<0.001" if row.p is not None and row.p < 0.001 else decimals(row.p, ".3f"),
}
_COLUMNS: Columns = {
    "metric": "metric",
    **_PLACE,
    "r": lambda row: decimals(row.r),
    **_INTERVAL,
    "rho": lambda row: decimals(row.spearman),
    "tau": lambda row: decimals(row.kendall),
    "partial": lambda row: decimals(row.partial_r),
    "reliab.": lambda row: decimals(row.reliability, ".2f"),
    "ceiling": lambda row: decimals(row.ceiling, ".2f"),
}
_DIFFERENCE_COLUMNS: Columns = {
    "first - second": lambda row: f"{row.first} - {row.second}",
    **_PLACE,
    "r - r": lambda row: decimals(row.difference),
    **_INTERVAL,
}


def table_lines(result: HumanResult) -> list[str]:
    """The result as lines of text: rows, differences, what is not defined, counts, notes, signature.

    Questions that nobody answered have no rows here; they are listed.
    """
    rows = [row for row in result.rows if row.n]
    lines = row_lines(rows, _COLUMNS, names=4)
    differences = [row for row in result.differences if row.n]
    if differences:
        lines += ["", *row_lines(differences, _DIFFERENCE_COLUMNS, names=4)]
    reasons = _reasons(rows, differences)
    if reasons:
        lines += ["", "not defined (shown as -):", *(f"  {reason}" for reason in reasons)]
    unrated = dict.fromkeys(f"{row.question} ({row.raters})" for row in result.rows if not row.n)
    if unrated:
        lines += ["", f"without ratings: {', '.join(unrated)}"]
    dropped = "".join(f"; {drop.what}: {drop.count}" for drop in result.drops)
    lines += ["", f"joined: {result.joined} rated texts; dropped: {result.dropped}{dropped}"]
    legend = [*LEGEND, *([BLV_LEGEND] if any(row.raters == "BLV" for row in result.rows) else [])]
    return [*lines, *(f"note: {note}" for note in (*legend, *result.notes)), result.signature]


def _reasons(rows: Sequence[HumanRow], differences: Sequence[DifferenceRow]) -> list[str]:
    """Each reason why something is not defined, once, with what it concerns."""
    reasons: list[tuple[str, str | None]] = []
    for row in rows:
        where = _where(row)
        reasons += [
            (f"{row.metric} ({where})", row.reason),
            (f"partial r of {row.metric}", row.partial_reason),
            (f"reliability ({where})", row.reliability_reason),
        ]
    reasons += [(f"{pair.first} - {pair.second} ({_where(pair)})", pair.reason) for pair in differences]
    concerned: dict[str, dict[str, None]] = {}
    for what, reason in reasons:
        if reason is not None:
            concerned.setdefault(reason, {})[what] = None
    return [f"{reason}: {first_ten(list(things), '; ')}" for reason, things in concerned.items()]


def _where(row: HumanRow | DifferenceRow) -> str:
    return ", ".join(filter(None, (row.raters, row.phase, row.question)))
