"""Judgments as the two files that Kreiss et al. (2022) published theirs in.

``blv_ratings.csv`` holds judgments of blind and low-vision people, ``sighted_ratings.csv``
those of sighted people before and after they saw the image; ``images`` holds the photos.
``descscore eval human --data`` takes the folder as it is.
"""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from descscore.errors import DataError
from descscore.study.items import StudyItem
from descscore.study.judgments import Judgment, JudgmentStore, Ratings
from descscore.study.questions import AFTER, BEFORE, NO_IMAGE, QUESTIONS

BLV_COLUMNS = (
    *("context", "participant", "img_id", "description", "q_reconstructivity", "q_relevance"),
    *("q_irrelevance", "q_imgfit", "q_overall", "article_text"),
)
SIGHTED_COLUMNS = (
    *("context", "anon_worker_id", "trial_number", "img_id", "img_file", "description"),
    *("q_overall.preimg", "q_overall.postimg", "q_reconstructivity.preimg"),
    *("q_relevance.preimg", "q_relevance.postimg", "q_irrelevance.preimg", "q_irrelevance.postimg"),
    *("q_imgfit.preimg", "q_imgfit.postimg", "article_text"),
)
"""The published columns in their order. How well the image fits (``q_imgfit``) is not asked here: blank."""

_RESERVED = frozenset({"guitar", "640px-parc_agen"})
"""Images of the published study's attention checks; what has their name is left out by its readers."""


@dataclass(frozen=True)
class Exported:
    """What was written where, and how many rows each table has."""

    folder: Path
    blv: int
    sighted: int
    images: int


def export_judgments(store: JudgmentStore, folder: Path) -> Exported:
    """Write both tables and the images into ``folder``, which is made where needed.

    A table is replaced in one step, so that a reader never finds half of it. Raises
    :class:`DataError` where there is nothing to write, or an image is gone.
    """
    judgments, items = store.judgments(), store.items()
    if not judgments:
        raise DataError(f"{store.path}: holds no judgments yet")
    names = image_names(items)
    by_item = {item.item: item for item in items}
    blv = [_blv_row(judgment, by_item, names) for judgment in judgments if judgment.phase == NO_IMAGE]
    sighted = list(_sighted_rows(judgments, by_item, names))
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for item in items:
        _copy(item, images / names[item.image])
    _write(folder / "blv_ratings.csv", BLV_COLUMNS, blv)
    _write(folder / "sighted_ratings.csv", SIGHTED_COLUMNS, sighted)
    return Exported(folder, len(blv), len(sighted), len(set(names.values())))


def image_names(items: Iterable[StudyItem]) -> dict[Path, str]:
    """A file name for each image: its own, unless another image has it too or it is reserved."""
    images = {item.image: item.image_hash for item in items}
    stems = Counter(image.stem.casefold() for image in images)
    names = {}
    for image in images:
        own = stems[image.stem.casefold()] == 1 and image.stem.casefold() not in _RESERVED
        mark = hashlib.sha256(str(image).encode()).hexdigest()[:8]
        names[image] = image.name if own else f"{image.stem}-{mark}{image.suffix}"
    return names


def _common(judgment: Judgment, item: StudyItem, names: Mapping[Path, str]) -> dict[str, object]:
    name = names[item.image]
    return {
        "context": item.title,
        "img_id": Path(name).stem,
        "img_file": name,
        "description": item.description,
        "article_text": item.text,
        "participant": judgment.pseudonym,
        "anon_worker_id": judgment.pseudonym,
        "trial_number": judgment.position,
    }


def _blv_row(
    judgment: Judgment, items: Mapping[str, StudyItem], names: Mapping[Path, str]
) -> dict[str, object]:
    return _common(judgment, items[judgment.item], names) | _answers(judgment.ratings, "")


def _sighted_rows(
    judgments: Sequence[Judgment], items: Mapping[str, StudyItem], names: Mapping[Path, str]
) -> Iterable[dict[str, object]]:
    """One row for both phases of an annotator's item; the second is blank where it is not reached."""
    rows: dict[tuple[str, str], dict[str, object]] = {}
    for judgment in judgments:
        if judgment.phase in (BEFORE, AFTER):
            key = (judgment.pseudonym, judgment.item)
            row = rows.setdefault(key, _common(judgment, items[judgment.item], names))
            row |= _answers(judgment.ratings, ".preimg" if judgment.phase == BEFORE else ".postimg")
    return rows.values()


def _answers(ratings: Ratings, suffix: str) -> dict[str, object]:
    return {question.column + suffix: getattr(ratings, question.name) for question in QUESTIONS}


def _write(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)


def _copy(item: StudyItem, target: Path) -> None:
    if not item.image.is_file():
        raise DataError(f"{item.image}: the image of {item.item!r} is gone; serve the study again to find it")
    shutil.copyfile(item.image, target)
