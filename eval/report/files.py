"""A report's three files."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, TypeAlias

from descscore.errors import DataError, UsageError
from descscore.eval.report.page_html import to_html
from descscore.eval.report.page_markdown import to_markdown
from descscore.eval.report.report_page import report_page

Json: TypeAlias = dict[str, Any]

NAMES = ("report.json", "report.md", "report.html")


def make_folder(folder: Path) -> None:
    """Make sure that ``folder`` can be written to; raises :class:`UsageError` that names it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"--output {folder}: cannot be written to ({error.strerror or error})") from None


def write_report(report: Json, folder: Path) -> list[Path]:
    """Write :data:`NAMES` into ``folder``, the JSON first; files of an earlier report are replaced.

    Markdown and HTML are rendered from what the JSON file holds, nothing else.
    """
    text = json.dumps(report, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    paths = [folder / name for name in NAMES]
    _replace(paths[0], text)
    page = report_page(json.loads(text))
    _replace(paths[1], to_markdown(page))
    _replace(paths[2], to_html(page))
    return paths


def read_report(path: Path) -> Json:
    """A saved report's JSON; :class:`DataError` where it cannot be read."""
    try:
        found: Json = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a report ({error})") from None
    return found


def _replace(path: Path, text: str) -> None:
    """Put ``text`` in place of the file at once, so that nobody reads half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
