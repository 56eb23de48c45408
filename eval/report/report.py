"""A report's files: its JSON, and the pages that are made from the JSON alone."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from descscore.errors import DataError, UsageError
from descscore.eval.formatting import listing
from descscore.eval.report.page import Page, Section, to_html, to_markdown
from descscore.eval.report.page_human import human_section
from descscore.eval.report.page_models import (
    captions_section,
    missing_section,
    quality_section,
    reading_section,
    repeat_section,
    results_section,
    zero_shot_section,
)
from descscore.eval.report.page_pairs import preference_section, probability_section, sanity_section
from descscore.files import atomic_write

Json: TypeAlias = dict[str, Any]

FORMAT = 1
"""Of the JSON; raised whenever its readers have to change."""

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
        report: Json = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a report ({error})") from None
    return report


def _replace(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def report_page(report: Json) -> Page:
    """The page of a report; every number in it comes from ``report``.

    Raises :class:`DataError` for another kind of JSON, or a report of another format.
    """
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise DataError(f"not a report of format {FORMAT} (its 'format' says so)")
    try:
        names = listing([model["name"] for model in report["models"]])
        return Page(f"descscore report: {names}", _LEAD, tuple(_sections(report)), _foot(report))
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise DataError(f"not a whole report: {type(error).__name__} {error}") from error


_LEAD = (
    "How well do scores of alternative texts agree with people, and what do they prefer? "
    "All evaluations of one or several models, side by side."
)


def _foot(report: Json) -> str:
    return f"Made by descscore {report['descscore']} from the numbers in report.json."


def _sections(report: Json) -> Iterator[Section]:
    yield results_section(report)
    yield reading_section(report)
    yield from map(human_section, report["human"])
    for key, build in (("preference", preference_section), ("sanity", sanity_section)):
        if report[key]:
            yield build(report[key])
    if report["probability"]:
        yield probability_section(report["probability"])
    if report["quality"]:
        yield quality_section(report["quality"])
    yield from map(captions_section, report["captions"])
    if report["zeroshot"]:
        yield zero_shot_section(report["zeroshot"])
    yield missing_section(report)
    yield repeat_section(report)
