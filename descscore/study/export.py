"""Export a study's judgments as files in the format of Kreiss et al. (2022).

``blv_ratings.csv`` holds the judgments of blind and low-vision people. ``sighted_ratings.csv`` holds
those of sighted people, before and after they saw the image. The folder ``images`` holds the photos.
``descscore eval human --data`` reads this folder.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from descscore.errors import DataError
from descscore.files import atomic_write, check_place
from descscore.study.items import StudyItem
from descscore.study.judgments import Judgment, JudgmentStore
from descscore.study.questions import AFTER, BEFORE, NO_IMAGE, Question
from descscore.tables.cells import to_csv_cell

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
"""The published columns, in order. What a study does not ask is blank, such as ``q_imgfit`` (does the image
fit?). The columns of a study's own questions follow, and last ``item``, its name in the study's table."""

_RESERVED = frozenset({"guitar", "640px-parc_agen"})
"""Images of the published study's attention checks. Programs that read its files skip these names."""


@dataclass(frozen=True)
class Exported:
    """An export's folder, the rows of its two tables, and the number of its images."""

    folder: Path
    blv: int
    sighted: int
    images: int


def export_judgments(store: JudgmentStore, folder: Path) -> Exported:
    """Write both tables and the images into ``folder``, which is created if it is missing.

    Each file is replaced in one step, so no reader sees half a file. Only its owner can read it.

    Raises:
        DataError: There are no judgments, an image is gone or has changed, or a file cannot be written or
            another user could replace it.
    """
    judgments, items = store.judgments(), store.items()
    if not judgments:
        raise DataError(f"{store.path}: holds no judgments yet")
    names, questions = image_names(items), store.questions()
    by_item = {item.item: item for item in items}
    blv: dict[tuple[str, str], dict[str, object]] = {}
    sighted: dict[tuple[str, str], dict[str, object]] = {}
    for judgment in judgments:  # a sighted annotator's judgments before and after share a row
        table = blv if judgment.phase == NO_IMAGE else sighted
        key = (judgment.pseudonym, judgment.item)
        row = table.setdefault(key, _about(judgment, by_item[judgment.item], names))
        row |= _answers(judgment, questions)
    images = folder / "images"
    for private in (folder, images):
        check_place(private)
        private.mkdir(0o700, parents=True, exist_ok=True)
        check_place(private / "any file")
    for item in items:
        _copy(item, images / names[item.image])
    own = [question.column for question in questions]
    own_twice = [q.column + when for q in questions for when in (".preimg", ".postimg")[: 1 + q.again]]
    _write(folder / "blv_ratings.csv", _with(BLV_COLUMNS, own), blv.values())
    _write(folder / "sighted_ratings.csv", _with(SIGHTED_COLUMNS, own_twice), sighted.values())
    return Exported(folder, len(blv), len(sighted), len(set(names.values())))


def image_names(items: Iterable[StudyItem]) -> dict[Path, str]:
    """A file name for each image: its own, unless that name is reserved or two images share it."""
    images = dict.fromkeys(item.image for item in items)
    stems = Counter(image.stem.casefold() for image in images)
    names = {}
    for image in images:
        usable = stems[image.stem.casefold()] == 1 and image.stem.casefold() not in _RESERVED
        digest = hashlib.sha256(str(image).encode()).hexdigest()[:8]
        names[image] = image.name if usable else f"{image.stem}-{digest}{image.suffix}"
    return names


def _about(judgment: Judgment, item: StudyItem, names: Mapping[Path, str]) -> dict[str, object]:
    """The cells of a row that do not depend on the answers."""
    name = names[item.image]
    return {
        "item": item.item,
        "context": item.title,
        "img_id": Path(name).stem,
        "img_file": name,
        "description": item.description,
        "article_text": item.text,
        "participant": judgment.pseudonym,
        "anon_worker_id": judgment.pseudonym,
        "trial_number": judgment.position,
    }


def _answers(judgment: Judgment, questions: Sequence[Question]) -> dict[str, object]:
    suffix = {NO_IMAGE: "", BEFORE: ".preimg", AFTER: ".postimg"}[judgment.phase]
    return {question.column + suffix: judgment.ratings.get(question.name, "") for question in questions}


def _with(published: Sequence[str], own: Sequence[str]) -> list[str]:
    return [*dict.fromkeys((*published, *own, "item"))]


def _write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    with (
        atomic_write(path, mode=0o600) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(
            {name: to_csv_cell(value) if isinstance(value, str) else value for name, value in row.items()}
            for row in rows
        )


def _copy(item: StudyItem, target: Path) -> None:
    if not item.image.is_file():
        raise DataError(
            f"{item.image}: the image of {item.item!r} is gone; if it moved, serve the study anew"
        )
    with atomic_write(target, 0o600) as temporary:
        shutil.copyfile(item.image, temporary)
        if hashlib.sha256(temporary.read_bytes()).hexdigest() != item.image_hash:
            raise DataError(f"{item.image}: the image of {item.item!r} has changed since the study began")
