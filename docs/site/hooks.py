"""What MkDocs cannot do by itself: pages from the repository's root, and the notebook as a page.

``README.md`` and its neighbours stay where people look for them; the site shows them with
their links turned to its own pages, so that no text exists twice.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import nbformat
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "MODEL_CARD.md": "model_card.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Files of the root, and what they are called on the site."""
NOTEBOOK = "notebooks/tour"


def on_config(config: Any) -> None:
    """Look every command up: mkdocs-click shows those that a group holds, and ours come when asked for."""
    from descscore.cli import main

    hold_commands(main)


def hold_commands(command: click.Command) -> None:
    """Put into a group, and the groups below, the commands that it would look up."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            command.commands[name] = found
            hold_commands(found)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in ``docs``."""
    for source, target in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=from_root(text)))
    files.append(File.generated(config, f"{NOTEBOOK}.md", content=notebook_page(f"{NOTEBOOK}.ipynb")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links that leave ``docs`` to the site's pages."""
    return re.sub(r"\]\(\.\./([A-Z_]+\.md)", lambda found: f"]({PAGES.get(found[1], found[1])}", markdown)


def from_root(text: str) -> str:
    """A text of the root with its links as seen from ``docs``."""
    text = re.sub(r"\]\(docs/", "](", text).replace(f"({NOTEBOOK}.ipynb", f"({NOTEBOOK}.md")
    return re.sub(r"\]\(([A-Z_]+\.md)", lambda found: f"]({PAGES.get(found[1], found[1])}", text)


def notebook_page(name: str) -> str:
    """The notebook's text and code as Markdown."""
    notebook = nbformat.read(ROOT / "docs" / name, as_version=4)
    parts = [
        cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```"
        for cell in notebook.cells
    ]
    return "\n\n".join(parts) + "\n"
