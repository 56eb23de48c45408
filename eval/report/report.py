"""A report's JSON as a page: a pure function, so that a saved report gives the same page again."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from descscore.errors import DataError, UsageError
from descscore.eval.ratings import digest
from descscore.eval.report.bench import Bench, Subject, load_subjects
from descscore.eval.report.page import Page, Section, listing, to_html, to_markdown
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
from descscore.eval.report.parts import PARTS, Part
from descscore.eval.statistics.bootstrap import Resampling
from descscore.version import __version__

# A report's three files.


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


# All evaluations of one or several models, side by side, as one JSON object.


def measure_report(
    data: Path,
    models: Sequence[str],
    device: str | None = None,
    resampling: Resampling | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Json:
    """Measure all models on all that the data folder holds.

    Each section is a list with one object a data set; ``not_measured`` names the files that
    are missing. Raises :class:`DataError` for a folder that holds nothing to measure on
    and for damaged files, :class:`descscore.errors.ModelError` and
    :class:`descscore.errors.UsageError` for models.
    """
    check_data(data)
    bench = Bench(data, load_subjects(models, device), resampling or Resampling())
    report = _head(bench.subjects, bench.resampling)
    report |= {part.section: [] for part in PARTS}
    for part in PARTS:
        if missing(data, part.files):
            continue
        progress(f"{part.section} on {part.data}")
        measured = {"data": part.data, "files": _digests(data, part.files)} | part.measure(bench)
        report[part.section].append(measured)
    return report | {"not_measured": [entry for part in PARTS for entry in _left_out(data, part)]}


def check_data(data: Path) -> None:
    """Raise :class:`DataError` unless ``data`` holds what at least one part needs."""
    if not data.is_dir():
        raise DataError(f"{data}: no such folder; --data or DESCSCORE_DATA must name the data folder")
    if all(missing(data, part.files) for part in PARTS):
        wanted = ", ".join(dict.fromkeys(part.files[0] for part in PARTS))
        raise DataError(f"{data}: holds nothing to measure on (looked for {wanted})")


def missing(data: Path, files: Sequence[str]) -> list[str]:
    """Those of ``files`` that are not below ``data``."""
    return [file for file in files if not (data / file).exists()]


def _head(subjects: Sequence[Subject], resampling: Resampling) -> Json:
    return {
        "format": FORMAT,
        "descscore": __version__,
        "models": [subject.to_dict() for subject in subjects],
        "resampling": {"resamples": resampling.resamples, "seed": resampling.seed},
    }


def _left_out(data: Path, part: Part) -> list[Json]:
    """One entry for the whole part, or for each thing it had to do without."""
    whole = missing(data, part.files)
    place = {"section": part.section, "data": part.data}
    if whole:
        return [place | {"what": "all", "missing": whole}]
    lacking = [(what, missing(data, files)) for what, files in part.optional]
    return [place | {"what": what, "missing": files} for what, files in lacking if files]


def _digests(data: Path, files: Sequence[str]) -> dict[str, str]:
    """First eight hex digits of the SHA-256 of each file; folders are left out."""
    return {file: digest(data / file) for file in files if (data / file).is_file()}


FORMAT = 1
"""Of the JSON; raised whenever its readers have to change."""


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
