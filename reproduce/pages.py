"""Pages that commands write: templates filled from JSON files, and the options that the commands share.

A command measures, and writes its numbers into a JSON file. A template in ``reproduce/templates`` shows
them as Markdown. The text goes between two marks of a page, ``<!-- name -->`` and ``<!-- /name -->``, or
it is the whole page.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import click

from descscore.errors import DataError
from descscore.eval.formatting import counted, listing, percent, plain, signed, signed_interval
from descscore.files import atomic_write
from descscore.templates import environment

Json: TypeAlias = Mapping[str, Any]

folder_argument = click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
data_option = click.option(
    "--data", required=True, type=click.Path(path_type=Path, exists=True), help="The data folder."
)


def render(template: str, **values: Any) -> str:
    """The Markdown that ``templates/TEMPLATE.md.jinja`` makes of ``values``."""
    templates = environment(Path(__file__).parent / "templates", autoescape=False, keep_trailing_newline=True)
    for form in (counted, listing, percent, plain, signed, flow):
        templates.filters[form.__name__] = form
    templates.globals["signed_interval"] = signed_interval
    return templates.get_template(f"{template}.md.jinja").render(values)


def flow(text: str) -> str:
    """Join a template's lines into one line of the page."""
    return " ".join(line.strip(" ") for line in text.strip("\n").split("\n"))


def put_in(text: str, name: str, part: str) -> str:
    """A page with ``part`` between its lines ``<!-- name -->`` and ``<!-- /name -->``.

    Raises :class:`DataError` for a page without these lines.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = text.partition(start)
    _, mark, after = rest.partition(end)
    if not mark:
        raise DataError(f"the page lacks the lines {start} and {end}")
    return f"{before}{start}\n{part}{end}{after}"


@dataclass(frozen=True)
class Part:
    """A part of a page, made from one JSON file in the same folder."""

    data: str
    """Name of the JSON file."""
    page: str
    """Name of the page."""
    name: str
    """Name in the marks."""
    markdown: Callable[[Json], str]
    """Makes the part from the content of the file."""

    def put_in(self, text: str, content: Json) -> str:
        """The page with this part. Raises :class:`DataError` for a page without its marks."""
        return put_in(text, self.name, self.markdown(content))

    def write(self, content: Json, folder: Path) -> None:
        """Write the file, and the part of the page. Writes nothing if the page lacks the marks."""
        page = folder / self.page
        text = self.put_in(page.read_text(encoding="utf-8"), content)
        write_json(content, folder / self.data)
        write_text(text, page)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no file. Raises :class:`DataError` where it holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds no object")
    return content


def write_json(content: Json, path: Path) -> None:
    """Write readable JSON, with a line break at its end, in one step."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(text + "\n", path)


def write_text(text: str, path: Path) -> None:
    """Write a text file in one step."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
