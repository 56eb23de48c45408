"""A page as Markdown; plots are told in words, with their numbers in tables."""

from __future__ import annotations

import html
import re

from descscore.eval.report.page import Block, Bullets, Figure, Page, Paragraph, Section, Table

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
