"""Numbers, lists and tables as text, for pages and for what commands print."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from tabulate import DataRow, TableFormat, tabulate  # type: ignore[import-untyped, unused-ignore]

MINUS = "\N{MINUS SIGN}"
PERCENT = "\N{NO-BREAK SPACE}%"
UNDEFINED = "not defined"

Columns: TypeAlias = "Mapping[str, str | Callable[[Any], object]]"
"""A table's columns by heading: the name of a row's attribute, or a function of the row."""


def percent(value: float | None, digits: int = 1) -> str:
    """A share, 0..1, in per cent."""
    return UNDEFINED if value is None else f"{100 * value:.{digits}f}{PERCENT}"


def signed(value: float | None, digits: int = 2) -> str:
    """A correlation or difference with its sign; no sign if it rounds to zero."""
    if value is None:
        return UNDEFINED
    shown = f"{value:+.{digits}f}"
    return f"{0:.{digits}f}" if float(shown) == 0 else shown.replace("-", MINUS)


def plain(value: float | None, digits: int = 2) -> str:
    """A number without a forced sign."""
    return UNDEFINED if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def interval(form: Callable[..., str], low: float | None, high: float | None, **options: int) -> str:
    """``0.32 to 0.51`` or ``52.3 to 63.4 %``; form: one of the three functions above."""
    if low is None or high is None:
        return UNDEFINED
    return f"{form(low, **options).removesuffix(PERCENT)} to {form(high, **options)}"


percent_interval = partial(interval, percent)
signed_interval = partial(interval, signed)
plain_interval = partial(interval, plain)


def p_value(value: float | None) -> str:
    """Three digits; ``under 0.001`` for a value that would round to zero."""
    if value is None:
        return UNDEFINED
    return "under 0.001" if value < 0.001 else f"{value:.3f}"


def listing(words: Sequence[str]) -> str:
    """``a, b and c``."""
    *first, last = words or ("none",)
    return f"{', '.join(first)} and {last}" if first else last


def counted(count: int, singular: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{count:,} {singular}{'' if count == 1 else 's'}"


def sentence(text: str) -> str:
    """``text`` with a capital first letter, unless that is a symbol such as r or p, and a full stop."""
    symbol = len(text) > 1 and not text[1].isalpha()
    return stop(text if symbol else text[:1].upper() + text[1:])


def stop(text: str) -> str:
    """``text``, which may begin with a name, with a full stop."""
    return text if text.endswith((".", "!", "?")) else text + "."


def slug(text: str) -> str:
    """``text`` in lower case letters, digits and dashes, for keys."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def decimals(value: float | None, form: str = "+.3f") -> str:
    """A number for a terminal, ``-`` if it is not defined."""
    return "-" if value is None else format(value, form)


def share(value: float | None) -> str:
    """A share, 0..1, in per cent for a terminal: ``52.3%``, ``-`` if it is not defined."""
    return "-" if value is None else f"{100 * value:.1f}%"


def share_interval(low: float | None, high: float | None) -> str:
    """``46.7 to 57.9`` per cent for a terminal, ``-`` if it is not defined."""
    return "-" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"


WINS: Columns = {
    "n": "n",
    "wins": lambda row: share(row.value),
    "95 % interval": lambda row: share_interval(row.low, row.high),
    "ties": "ties",
}
"""Columns of a share of pairs that something wins."""


_COMPACT = TableFormat(
    lineabove=None,
    linebelowheader=lambda widths, _: f"| {' | '.join('---' for _ in widths)} |",
    linebetweenrows=None,
    linebelow=None,
    headerrow=DataRow("| ", " | ", " |"),
    datarow=DataRow("| ", " | ", " |"),
    padding=0,
    with_header_hide=None,
)
"""Markdown without padding. So a changed cell changes only one line of a page, and all versions of
tabulate write the same."""


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with a line break at its end; the cells are Markdown already."""
    text: str = tabulate(rows, head, tablefmt=_COMPACT, stralign=None, disable_numparse=True)
    return text + "\n"


def text_table(
    head: Sequence[str], rows: Sequence[Sequence[object]], names: int = 1, style: str = "simple"
) -> str:
    """A table for a terminal.

    Args:
        head: Headings.
        rows: Cells.
        names: How many leading columns are aligned left; the rest is aligned right.
        style: ``simple`` with a line below the headings, or ``plain``.
    """
    sides = ["left"] * names + ["right"] * (len(head) - names)
    cells = [[str(cell) for cell in row] for row in rows]
    text: str = tabulate(cells, head, tablefmt=style, colalign=sides, disable_numparse=True)
    return text


def row_lines(rows: Sequence[object], columns: Columns, names: int = 1, style: str = "simple") -> list[str]:
    """Rows as the lines of a table; names and style as for :func:`text_table`."""
    cells = [
        [column(row) if callable(column) else getattr(row, column) for column in columns.values()]
        for row in rows
    ]
    return text_table(list(columns), cells, names, style).splitlines()
