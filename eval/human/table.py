"""The comparison with people's ratings as a table to read."""

from __future__ import annotations

from collections.abc import Sequence

from descscore.eval.human.rows import DifferenceRow, HumanResult, HumanRow

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
