"""Add pages to the site that MkDocs does not find: those in the repository's root, and the notebook.

``README.md`` and other pages of the root stay where people look for them. The site shows them
too, with links to its own pages. So every text exists only once.
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
"""Pages of the root, and their names on the site."""
NOTEBOOK = "notebooks/tour"


def on_config(config: Any) -> None:
    """Load every command: mkdocs-click shows only loaded commands, and ours load when they are used."""
    from descscore.cli import main

    load_commands(main)


def load_commands(command: click.Command) -> None:
    """Load the commands of a group, and of the groups below it."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            subcommand = command.get_command(context, name)
            assert subcommand is not None
            command.commands[name] = subcommand
            load_commands(subcommand)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root, and the notebook as a page."""
    for source, target in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=from_root(text)))
    files.append(File.generated(config, f"{NOTEBOOK}.md", content=notebook_page(f"{NOTEBOOK}.ipynb")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Change links that leave ``docs``, or lead to the notebook, into links to the site's pages."""
    markdown = markdown.replace(f"({NOTEBOOK}.ipynb", f"({NOTEBOOK}.md")
    return re.sub(r"\]\(\.\./([A-Z_]+\.md)", lambda match: f"]({PAGES.get(match[1], match[1])}", markdown)


def from_root(text: str) -> str:
    """Change the links in a page of the root so that they hold from ``docs``."""
    text = re.sub(r"\]\(docs/", "](", text).replace(f"({NOTEBOOK}.ipynb", f"({NOTEBOOK}.md")
    return re.sub(r"\]\(([A-Z_]+\.md)", lambda match: f"]({PAGES.get(match[1], match[1])}", text)


def notebook_page(name: str) -> str:
    """Return the notebook's text and code as Markdown."""
    notebook = nbformat.read(ROOT / "docs" / name, as_version=4)
    parts = [
        cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```"
        for cell in notebook.cells
    ]
    return "\n\n".join(parts) + "\n"
