"""A page before it is HTML or Markdown, and how it becomes either; both escape all text."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from descscore.eval.formatting import markdown_table
from descscore.eval.report.plots import Target

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list without order."""

    items: tuple[str, ...]


Column: TypeAlias = "str | Callable[[Json], str]"


@dataclass(frozen=True)
class Table:
    """A table with a caption."""

    key: str
    """Unique on the page; letters and dashes."""
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1
    """How many leading columns name the row."""
    folded: bool = False
    """Whether it is shown only when asked for (long lists of a plot's points)."""

    @classmethod
    def of(
        cls, key: str, caption: str, rows: Sequence[Json], columns: Mapping[str, Column], **options: Any
    ) -> Table:
        """A table of JSON rows. columns: by heading, a key of the row or a function of the whole row."""
        cells = (
            tuple(column(row) if callable(column) else str(row[column]) for column in columns.values())
            for row in rows
        )
        return cls(key, caption, tuple(columns), tuple(cells), **options)


@dataclass(frozen=True)
class Figure:
    """A plot."""

    key: str
    caption: str
    alt: str
    """What it shows, with numbers."""
    table: str
    """Key of the table that holds its data."""
    draw: Callable[[Target], None]
    """Writes it to a stream as SVG."""


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


TEMPLATES = Path(__file__).parent / "templates"

_NUMBER = re.compile(r"[+\N{MINUS SIGN}]?\d[\d.,]*(\s%)?( to [+\N{MINUS SIGN}]?\d[\d.,]*(\s%)?)?")
_NO_NUMBER = frozenset({"not defined", "none", "under 0.001"})


def to_html(page: Page) -> str:
    """The page as one self-contained file: no script, no request, plots inside as SVG.

    The same page gives the same text.
    """
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
    return html.escape(_SPECIAL.sub(lambda match: "\\" + match[0], flat), quote=False)


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
    rows = [list(map(escape, row)) for row in table.rows]
    title = f"**Table {number}. {escape(table.caption)}**"
    return f"{title}\n\n{markdown_table(list(map(escape, table.head)), rows).rstrip()}"
