"""A page as one self-contained HTML file: no script, no request, pictures inside as SVG."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

from descscore.eval.report.page import Block, Figure, Page, Table

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
