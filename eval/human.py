"""The comparison with people's ratings as a table to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from descscore.errors import DataError
from descscore.eval.ratings import (
    ATTENTION_CHECKS,
    Drop,
    Item,
    Judgments,
    Panel,
    check_columns,
    digest,
    named,
    read_rows,
    text_key,
)
from descscore.eval.statistics.bootstrap import Estimate, Resampling
from descscore.eval.statistics.clusters import cluster_difference, cluster_partial, cluster_pearson
from descscore.eval.statistics.correlation import (
    Array,
    Reliability,
    kendall,
    numbers,
    pearson,
    spearman,
    split_half,
    undefined_reason,
)
from descscore.version import __version__

# Scores of texts from anybody's CSV file, and their join with rated items.


TEXT_COLUMNS = ("texts", "text", "description", "item")
SCORE_COLUMNS = {"clipscore": "CLIPScore", "SPURTS_score": "SPURTS", "score": "", "cosine": ""}
"""Columns looked for where none is named; the first two are the published files', with their metric."""


@dataclass(frozen=True)
class Scores:
    """A metric's score by text. checks: texts of attention checks. source: file and digest."""

    metric: str
    values: dict[str, float]
    checks: frozenset[str]
    source: str


@dataclass(frozen=True)
class Joined:
    """Scores in the items' order, ``(n,)``, with what was left out and where they come from."""

    metric: str
    values: Array
    drops: tuple[Drop, ...]
    source: str


def read_scores(path: Path, text_column: str | None = None, score_column: str | None = None) -> Scores:
    """Scores from a CSV file; columns not named are found by :data:`TEXT_COLUMNS`, :data:`SCORE_COLUMNS`.

    Raises :class:`DataError` where a column is missing or not clear, a score is not
    a number, or a text occurs twice.
    """
    rows = read_rows(path)
    columns = list(rows[0].cells)
    text = _column(path, columns, text_column, list(TEXT_COLUMNS))
    score = _column(path, columns, score_column, list(SCORE_COLUMNS))
    repeated = [key for key, times in Counter(text_key(row[text]) for row in rows).items() if times > 1]
    if repeated:
        raise DataError(f"{path}: more than one row for {named(repeated)}")
    values: dict[str, float] = {}
    for row in rows:
        value = row.number(score)
        if value is None:
            raise DataError(f"{row.place}: {score} is blank for {named([row[text]])}")
        values[text_key(row[text])] = value
    checks = frozenset(
        text_key(row[text]) for row in rows if row.cells.get("imgstem_version") in ATTENTION_CHECKS
    )
    metric = SCORE_COLUMNS.get(score) or f"{path.stem}:{score}"
    return Scores(metric, values, checks, f"{path.name}#{digest(path)}")


def join(items: tuple[Item, ...], scores: Scores) -> Joined:
    """The score of each item; :class:`DataError` names items without one, surplus scores are counted."""
    missing = [item.key for item in items if item.key not in scores.values]
    if missing:
        raise DataError(
            f"{scores.source}: no {scores.metric} for {len(missing)} of {len(items)} rated texts: "
            f"{named(missing)}"
        )
    surplus = set(scores.values) - {item.key for item in items}
    checks = len(surplus & scores.checks)
    drops = (
        Drop(f"{scores.metric} scores of attention checks", checks),
        Drop(f"{scores.metric} scores of texts without ratings", len(surplus) - checks),
    )
    values = numbers(scores.metric, [scores.values[item.key] for item in items])
    return Joined(scores.metric, values, drops, scores.source)


def _column(path: Path, columns: list[str], asked: str | None, known: list[str]) -> str:
    if asked is not None:
        check_columns(path, columns, [asked])
        return asked
    found = [column for column in known if column in columns]
    if len(found) != 1:
        what = f"more than one of {', '.join(found)}" if found else f"none of {', '.join(known)}"
        raise DataError(f"{path}: has {what}; name the column (there are {', '.join(columns)})")
    return found[0]


# How metrics agree with people's ratings: one row a metric, group of raters and question.


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

    metrics: scores in the items' order (:func:`descscore.eval.human.join`), each
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


_NAMES = ("raters", "phase", "question")
_ROW_HEAD = ("metric", *_NAMES, "n", "r", "95 % interval", "p", "rho", "tau", "partial", "reliab.", "ceiling")
_DIFFERENCE_HEAD = ("first - second", *_NAMES, "n", "r - r", "95 % interval", "p")


def table_lines(result: HumanResult) -> list[str]:
    """The result as lines of text: rows, differences, what is not defined, counts, notes, signature."""
    lines = _aligned([_ROW_HEAD, *(_row_cells(row) for row in result.rows)])
    if result.differences:
        cells = [_DIFFERENCE_HEAD, *(_difference_cells(row) for row in result.differences)]
        lines += ["", *_aligned(cells)]
    reasons = _reasons(result)
    if reasons:
        lines += ["", "not defined (shown as -):", *(f"  {reason}" for reason in reasons)]
    dropped = "".join(f"; {drop.what}: {drop.count}" for drop in result.drops)
    lines += ["", f"joined: {result.joined} rated texts; dropped: {result.dropped}{dropped}"]
    return [*lines, *(f"note: {note}" for note in result.notes), result.signature]


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Cells as lines of one width: the names to the left, the numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    names = 1 + len(_NAMES)
    return [
        " ".join(
            cell.ljust(width) if i < names else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        for cells in table
    ]


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _p(value: float | None) -> str:
    """A p-value to three digits; what would round to zero is shown as a bound."""
    if value is None:
        return "-"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"[{low:+.3f}, {high:+.3f}]"


def _place(row: HumanRow | DifferenceRow) -> tuple[str, ...]:
    return (row.raters, row.phase or "-", row.question, str(row.n))


def _row_cells(row: HumanRow) -> tuple[str, ...]:
    found = (_signed(row.r), _interval(row.low, row.high), _p(row.p))
    others = (_signed(row.spearman), _signed(row.kendall), _signed(row.partial_r))
    return (row.metric, *_place(row), *found, *others, _plain(row.reliability), _plain(row.ceiling))


def _difference_cells(row: DifferenceRow) -> tuple[str, ...]:
    found = (_signed(row.difference), _interval(row.low, row.high), _p(row.p))
    return (f"{row.first} - {row.second}", *_place(row), *found)


def _reasons(result: HumanResult) -> list[str]:
    """Each thing that is not defined with its reason, once."""
    found = []
    for row in result.rows:
        where = ", ".join(filter(None, (row.raters, row.phase, row.question)))
        found += [f"{row.metric} ({where}): {row.reason}"] * (row.reason is not None)
        found += [f"partial r of {row.metric}: {row.partial_reason}"] * (row.partial_reason is not None)
        found += [f"reliability ({where}): {row.reliability_reason}"] * (row.reliability_reason is not None)
    for pair in result.differences:
        where = ", ".join(filter(None, (pair.raters, pair.phase, pair.question)))
        found += [f"{pair.first} - {pair.second} ({where}): {pair.reason}"] * (pair.reason is not None)
    return list(dict.fromkeys(found))
