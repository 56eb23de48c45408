"""What a report says, before it is Markdown or HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from descscore.eval.report.plots import Target


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
