"""The map of the code in CONTRIBUTING.md is what the files say of themselves.

With ``DESCSCORE_UPDATE_DOCS=1`` the map is written anew.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

from test_layers import LAYERS

from doc_pages import ROOT, read

PAGE = "CONTRIBUTING.md"
FOLDERS = ("descscore", "training", "eval", "reproduce")


def summary(path: Path) -> str:
    """The first sentence of a module's docstring, on one line and without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).removesuffix(".")


def tree() -> str:
    """A line for each file, under its folder."""
    lines = [f"app.py  {summary(ROOT / 'app.py')}"]
    for top in FOLDERS:
        for folder in sorted({path.parent for path in (ROOT / top).rglob("*.py")}):
            lines += ["", f"{folder.relative_to(ROOT)}/  {summary(folder / '__init__.py')}"]
            files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
            lines += [f"  {path.name:<22}{summary(path)}" for path in files]
    return "\n".join(lines)


def check_part(name: str, content: str) -> None:
    """Check that the page has ``content`` at its mark; with DESCSCORE_UPDATE_DOCS, put it there."""
    page = read(PAGE)
    wanted = f"<!-- {name} -->\n{content}\n<!-- /{name} -->"
    if "DESCSCORE_UPDATE_DOCS" in os.environ:
        page = re.sub(f"<!-- {name} -->.*<!-- /{name} -->", lambda _: wanted, page, flags=re.S)
        (ROOT / PAGE).write_text(page, encoding="utf-8")
    assert wanted in page


def test_the_map_has_a_line_for_every_file() -> None:
    check_part("tree", f"```text\n{tree()}\n```")


def layers() -> str:
    """The layers that the test of imports holds, the lowest first; a folder ends in a slash."""
    lines = []
    for number, parts in enumerate((*LAYERS, ("reproduce",)), 1):
        shown = [
            f"{part}/" if any((ROOT / top / part).is_dir() for top in ("descscore", ".")) else part
            for part in parts
        ]
        lines.append(f"{number}. " + ", ".join(f"`{name}`" for name in shown))
    return "\n".join(lines)


def test_the_list_of_layers_is_the_one_that_imports_are_held_to() -> None:
    check_part("layers", layers())


def test_a_line_of_the_map_fits_a_page() -> None:
    assert [line for line in tree().splitlines() if len(line) > 130] == []
