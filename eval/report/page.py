"""A page as Markdown; plots are told in words, with their numbers in tables."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from descscore.eval.report.plots import Target

# Numbers and lists as a reader of the report sees them.


MINUS = "\N{MINUS SIGN}"
PERCENT = "\N{NO-BREAK SPACE}%"
UNDEFINED = "not defined"


def percent(value: float | None, digits: int = 1) -> str:
    """A share, 0..1, in per cent."""
    return UNDEFINED if value is None else f"{100 * value:.{digits}f}{PERCENT}"


def percent_interval(low: float | None, high: float | None) -> str:
    """``52.3 to 63.4 %``."""
    if low is None or high is None:
        return UNDEFINED
    return f"{100 * low:.1f} to {100 * high:.1f}{PERCENT}"


def signed(value: float | None, digits: int = 2) -> str:
    """A correlation or difference with its sign; what rounds to zero has none."""
    if value is None:
        return UNDEFINED
    shown = f"{value:+.{digits}f}"
    return f"{0:.{digits}f}" if float(shown) == 0 else shown.replace("-", MINUS)


def signed_interval(low: float | None, high: float | None, digits: int = 2) -> str:
    """``-0.32 to +0.09``, with a true minus sign."""
    return UNDEFINED if low is None or high is None else f"{signed(low, digits)} to {signed(high, digits)}"


def plain(value: float | None, digits: int = 2) -> str:
    """A number without a forced sign."""
    return UNDEFINED if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def p_value(value: float | None) -> str:
    """To three digits; what would round to zero is a bound."""
    if value is None:
        return UNDEFINED
    return "under 0.001" if value < 0.001 else f"{value:.3f}"


def listing(words: Sequence[str]) -> str:
    """``a, b and c``."""
    *first, last = words or ("none",)
    return f"{', '.join(first)} and {last}" if first else last


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """``1 image``, ``2 images``."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


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


# A plain Markdown table.


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """head and rows of as many cells each; the cells are taken as they are."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


# What a report says, before it is Markdown or HTML.


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list without order."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """key: unique on the page, letters and dashes. names: how many leading columns name the row.

    folded: whether it is shown only when asked for (long lists of a plot's points).
    """

    key: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1
    folded: bool = False


@dataclass(frozen=True)
class Figure:
    """A plot. alt: what it shows, with numbers. table: the key of the table that holds its data.

    draw: writes it to a stream as SVG.
    """

    key: str
    caption: str
    alt: str
    table: str
    draw: Callable[[Target], None]


Block: TypeAlias = Paragraph | Bullets | Table | Figure


@dataclass(frozen=True)
class Section:
    """key: unique on the page. parts: sections one level below."""

    key: str
    title: str
    blocks: tuple[Block, ...]
    parts: tuple[Section, ...] = ()


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    lead: str
    sections: tuple[Section, ...]
    foot: str

    def tables(self) -> dict[str, int]:
        """The number of each table by its key, from 1 in reading order."""
        return _numbers(block.key for block in self._blocks() if isinstance(block, Table))

    def figures(self) -> dict[str, int]:
        """The number of each figure by its key, from 1 in reading order."""
        return _numbers(block.key for block in self._blocks() if isinstance(block, Figure))

    def _blocks(self) -> Iterator[Block]:
        for section in self.sections:
            for part in (section, *section.parts):
                yield from part.blocks


def _numbers(keys: Iterator[str]) -> dict[str, int]:
    return {key: i for i, key in enumerate(keys, 1)}


# A page as one self-contained HTML file: no script, no request, pictures inside as SVG.


TEMPLATES = Path(__file__).parent / "templates"

_NUMBER = re.compile(r"[+\N{MINUS SIGN}]?\d[\d.,]*(\s%)?( to [+\N{MINUS SIGN}]?\d[\d.,]*(\s%)?)?")
_NO_NUMBER = frozenset({"not defined", "none", "under 0.001"})


def to_html(page: Page) -> str:
    """The page; everything in it is escaped, and the same page gives the same text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    template = environment.get_template("page.html.jinja")
    return template.render(
        page=page,
        tables=page.tables(),
        figures=page.figures(),
        kind_of=_kind,
        numeric=is_numeric,
        picture=_picture,
    )


def is_numeric(table: Table, column: int) -> bool:
    """Whether a column holds numbers and intervals only, and so stands to the right."""
    cells = [row[column] for row in table.rows]
    shown = [cell for cell in cells if cell not in _NO_NUMBER]
    return column >= table.names and bool(shown) and all(_NUMBER.fullmatch(cell) for cell in shown)


def _kind(block: Block) -> str:
    return type(block).__name__


def _picture(figure: Figure) -> str:
    """The plot as a data address; as an image, its markup cannot act on the page."""
    stream = io.BytesIO()
    figure.draw(stream)
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


# An underscore within a word is no emphasis.
_SPECIAL = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])")


def to_markdown(page: Page) -> str:
    """The page with all text escaped: markup in a name is shown, not obeyed."""
    lines = [f"# {escape(page.title)}", escape(page.lead)]
    for section in page.sections:
        lines += _section(section, page, "##")
        for part in section.parts:
            lines += _section(part, page, "###")
    return "\n\n".join([*lines, escape(page.foot)]) + "\n"


def escape(text: str) -> str:
    """``text`` as one line of Markdown that shows it as it is."""
    flat = re.sub(r"\s+", " ", text)
    return html.escape(_SPECIAL.sub(lambda found: "\\" + found[0], flat), quote=False)


def _section(section: Section, page: Page, level: str) -> list[str]:
    return [f"{level} {escape(section.title)}", *(_block(block, page) for block in section.blocks)]


def _block(block: Block, page: Page) -> str:
    if isinstance(block, Paragraph):
        return escape(block.text)
    if isinstance(block, Bullets):
        return "\n".join(f"- {escape(item)}" for item in block.items)
    if isinstance(block, Figure):
        return _figure(block, page)
    return _table(block, page.tables()[block.key])


def _figure(figure: Figure, page: Page) -> str:
    number, table = page.figures()[figure.key], page.tables()[figure.table]
    title = f"**Figure {number}. {escape(figure.caption)}.**"
    return f"{title} {escape(figure.alt)} Its numbers stand in table {table}."


def _table(table: Table, number: int) -> str:
    rule = "|".join("---" for _ in table.head)
    rows = [" | ".join(map(escape, row)) for row in (table.head, *table.rows)]
    head, *body = (f"| {row} |" for row in rows)
    return "\n".join([f"**Table {number}. {escape(table.caption)}**", "", head, f"|{rule}|", *body])
