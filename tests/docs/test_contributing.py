"""The map of the code in CONTRIBUTING.md is what the files say of themselves.

With ``DESCSCORE_UPDATE_DOCS=1`` the map is written anew.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from test_layers import LAYERS

from doc_pages import ROOT, read

PAGE = "CONTRIBUTING.md"
FOLDERS = ("descscore", "training", "eval", "reproduce")
TOPICS = {
    "Scores": [
        "scorer",
        "encoder",
        "context",
        "records",
        "frames",
        "cache",
        "shared_scorers",
        "record_metric",
        "metrics",
        "coco",
    ],
    "Images": ["images", "image_lists", "formats", "metadata", "appearance"],
    "Texts": ["cleaning", "tokenizer", "library_tokenizer", "tokenizer_config", "texts"],
    "Models": [
        "models",
        "model_config",
        "hub",
        "clip",
        "attention",
        "adapters",
        "lora",
        "purpose",
        "interchange",
        "model_card",
    ],
    "Commands": ["cli", "options", "screen", "demo"],
    "For all of them": ["errors", "files", "templates"],
}
"""The files of ``descscore/`` itself, by what a reader looks for."""


def summary(path: Path) -> str:
    """The first sentence of a module's docstring, on one line and without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).removesuffix(".")


def tree() -> str:
    """A line for each file, under its folder; the largest folder by topics."""
    lines = [f"app.py  {summary(ROOT / 'app.py')}"]
    for top in FOLDERS:
        for folder in sorted({path.parent for path in (ROOT / top).rglob("*.py")}):
            lines += ["", f"{folder.relative_to(ROOT)}/  {summary(folder / '__init__.py')}"]
            if folder == ROOT / "descscore":
                for topic, names in TOPICS.items():
                    lines += [f"  {topic}", *(f"  {line}" for line in file_lines(folder, names))]
            else:
                lines += file_lines(folder, file_names(folder))
    return "\n".join(lines)


def file_names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def file_lines(folder: Path, names: Iterable[str]) -> list[str]:
    return [f"  {name + '.py':<22}{summary(folder / f'{name}.py')}" for name in names]


def check_part(name: str, content: str) -> None:
    """Check that the page has ``content`` at its mark; with DESCSCORE_UPDATE_DOCS, put it there."""
    page = read(PAGE)
    wanted = f"<!-- {name} -->\n{content}\n<!-- /{name} -->"
    if "DESCSCORE_UPDATE_DOCS" in os.environ:
        page = re.sub(f"<!-- {name} -->.*<!-- /{name} -->", lambda _: wanted, page, flags=re.S)
        (ROOT / PAGE).write_text(page, encoding="utf-8")
    assert wanted in page


def test_the_map_has_a_line_for_every_file() -> None:
    assert sorted(chain(*TOPICS.values())) == file_names(ROOT / "descscore")
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
