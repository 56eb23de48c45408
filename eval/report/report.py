"""All evaluations of one or several models, side by side, as one JSON object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from descscore.errors import DataError
from descscore.eval.csv_tables import digest
from descscore.eval.report.bench import Bench, Subject, load_subjects
from descscore.eval.report.parts import PARTS, Part
from descscore.eval.report.report_page import FORMAT
from descscore.eval.statistics.bootstrap import Resampling
from descscore.version import __version__

Json: TypeAlias = dict[str, Any]


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
