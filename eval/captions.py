"""A model against people's judgments of whether a Flickr8k caption fits a photo.

Three experts graded 5,822 pairs of photo and caption from 1 to 4, and CrowdFlower workers answered yes
or no for about 47,000 pairs (Hodosh, Young and Hockenmaier 2013). Kendall's tau compares a metric with
them, as in papers since CLIPScore (Hessel et al. 2021): tau-c over all three expert grades, without a
photo's own captions; and tau-b over the share of yes, with the own captions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from descscore.errors import DataError
from descscore.eval.features import pair_cosines
from descscore.eval.formatting import text_table
from descscore.eval.ratings import digest, find_folder, parquet_rows
from descscore.eval.statistics.correlation import Array, Correlation, Numbers, kendall, numbers
from descscore.images import ImageSource
from descscore.scorer import DescScorer
from descscore.tables.cells import named
from descscore.tables.reader import Columns

PUBLISHED = {
    "CLIP-S": (51.2, 34.4),
    "RefCLIP-S": (53.0, 36.4),
    "PAC-S": (54.3, 36.0),
    "Polos": (56.4, 37.8),
}
"""tau-c x 100 on the expert and tau-b x 100 on the CrowdFlower ratings, as those papers report them."""

NOTES = (
    "captions add to an image and descriptions stand in for it: this measures how well a model tells right "
    "captions from wrong ones, not how good descriptions are.",
    "expert: tau-c over all three ratings of a pair, a photo's own captions left out; crowdflower: tau-b "
    "over the share of yes, own captions kept.",
    "published: as reported by the papers, x 100.",
)

LEGEND = (
    "tau: Kendall's, how far two orders agree: 1 where they are the same, 0 by chance, -1 where one is the "
    "other reversed; b and c are its forms with ties. RefCLIP-S also uses a photo's other captions."
)
"""What the columns of :func:`caption_lines` mean."""

CAPTIONS_EACH = 5
"""Captions of a photo; ids are ``name#0`` to ``name#4``."""

SPLITS = ("test.parquet", "val.parquet", "train.parquet")


@dataclass(frozen=True)
class RatedPairs:
    """Pairs of photo name and caption id with their ratings."""

    pairs: tuple[tuple[str, str], ...]
    """Photo name and caption id."""
    ratings: Array
    """``(n, 3)`` grades 1..4 of the experts, or ``(n, 1)`` shares of yes, 0..1."""
    left_out: int
    """Number of pairs left out because the caption is the photo's own."""
    source: str
    """File name and digest."""


@dataclass(frozen=True)
class Photos:
    """Photos by name, and captions by id (``name#0`` to ``name#4``)."""

    images: dict[str, ImageSource]
    captions: dict[str, str]


def expert_tau(scores: Numbers, ratings: Array) -> Correlation:
    """Kendall's tau-c of ``(n,)`` scores with ``(n, 3)`` grades: each pair counts once for each rater.

    Raises :class:`DataError` if the lengths differ or a score is not a number.
    """
    values = numbers("scores", scores)
    if ratings.ndim != 2 or len(ratings) != len(values):
        raise DataError(f"{len(values)} scores but ratings of shape {ratings.shape}: give one row per score")
    return kendall(np.repeat(values, ratings.shape[1]), ratings.ravel(), variant="c")


def read_expert(path: Path) -> RatedPairs:
    """``ExpertAnnotations.txt``: photo, caption id and three grades, 1 to 4, by tabs; own captions left out.

    Raises :class:`DataError` that names the line.
    """
    pairs, ratings = _read_pairs(path, lambda cells: [_grade(cell) for cell in cells])
    other = np.array([_photo_of(caption) != photo for photo, caption in pairs], dtype=bool)
    kept = tuple(pair for pair, keep in zip(pairs, other, strict=True) if keep)
    return RatedPairs(kept, ratings[other], int((~other).sum()), f"{path.name}#{digest(path)}")


def read_crowd(path: Path) -> RatedPairs:
    """``CrowdFlowerAnnotations.txt``: photo, caption id, share of yes, yes and no by tabs; all kept.

    Raises :class:`DataError` that names the line.
    """
    pairs, shares = _read_pairs(path, _share)
    return RatedPairs(pairs, shares, 0, f"{path.name}#{digest(path)}")


def read_photos(folder: Path, pairs: Collection[tuple[str, str]]) -> Photos:
    """The photos and captions of ``pairs`` from the Parquet files (columns ``image, filename, captions``).

    Files are opened until all are found. Raises :class:`DataError` that names what is missing.
    """
    wanted = {name for pair in pairs for name in pair}
    read = Photos({}, {})
    files = [folder / name for name in SPLITS if (folder / name).is_file()]
    for path in files:
        if not wanted - read.images.keys() - read.captions.keys():
            break
        for name, image, texts in captioned_photos(path, "filename"):
            if name in wanted:
                read.images[name] = image
            captions = {f"{name}#{i}": text for i, text in enumerate(texts)}
            read.captions.update({key: text for key, text in captions.items() if key in wanted})
    missing = sorted(wanted - read.images.keys() - read.captions.keys())
    if missing:
        where = ", ".join(path.name for path in files) or "no Parquet file"
        raise DataError(f"{folder}: {named(missing)} not found ({where})")
    return read


def captioned_photos(path: Path, name: str | None = None) -> Iterator[tuple[str, ImageSource, list[str]]]:
    """Name, image and captions of each photo in a Parquet file. Raises :class:`DataError` that names it.

    name: the column of names; without one, the names are numbers from 1.
    """
    for row in parquet_rows(path, Columns(id=name, image="image", references="captions")):
        if row.image is None or not isinstance(row.references, list):
            raise DataError(f"{path}: row {row.number} has no photo or no list of captions")
        yield row.id, row.image, row.references


def _read_pairs(
    path: Path, rating: Callable[[list[str]], list[float]]
) -> tuple[tuple[tuple[str, str], ...], Array]:
    """Pairs and ratings of a tab-separated file of five columns; a pair may occur once.

    The files have no line with the columns' names, so the reader of CSV files cannot read them.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from None
    ratings: dict[tuple[str, str], list[float]] = {}
    for number, line in enumerate(lines, 1):
        cells = line.split("\t")
        if len(cells) != 5:
            raise DataError(f"{path}: line {number} has {len(cells)} columns by tabs, not 5")
        pair = (cells[0], cells[1])
        if pair in ratings:
            raise DataError(f"{path}: line {number}: {named(pair)} occurs a second time")
        try:
            ratings[pair] = rating(cells[2:])
        except ValueError as error:
            raise DataError(f"{path}: line {number}: {error}") from None
    if not ratings:
        raise DataError(f"{path}: holds no rows")
    return tuple(ratings), np.array(list(ratings.values()), dtype=np.float64)


def _grade(cell: str) -> float:
    if cell not in ("1", "2", "3", "4"):
        raise ValueError(f"{cell[:20]!r} is not a grade from 1 to 4")
    return float(cell)


def _share(cells: list[str]) -> list[float]:
    share = float(cells[0])
    if not 0 <= share <= 1:
        raise ValueError(f"share of yes {cells[0]!r} is not within 0 and 1")
    return [share]


def _photo_of(caption: str) -> str:
    return caption.rpartition("#")[0]


@dataclass(frozen=True)
class CaptionJudgments:
    """Both kinds of ratings, with the rated photos and captions."""

    expert: RatedPairs
    crowd: RatedPairs
    photos: Photos

    @property
    def source(self) -> str:
        """Files and digests, for signatures."""
        return f"{self.expert.source}|{self.crowd.source}"


@dataclass(frozen=True)
class TauRow:
    """A model's agreement with one set of ratings.

    There is no p-value: the ratings of one pair, and the pairs of one photo, are not independent.
    """

    set: str
    """Name of the set of ratings."""
    statistic: str
    """``tau-b`` or ``tau-c``."""
    tau: float | None
    """Kendall's tau, -1..1; None if it is not defined."""
    reason: str | None
    """Why it is not defined."""
    pairs: int
    """Number of pairs of photo and caption."""
    ratings: int
    """Number of ratings; a pair may have several."""
    left_out: int
    """Number of pairs left out because the caption is the photo's own."""


def read_caption_judgments(data: Path, references: bool = False) -> CaptionJudgments:
    """Read the folder flickr8k, or the folder that holds it.

    Args:
        data: The folder.
        references: Whether to read all captions of the photos that experts judged, too.

    Raises:
        DataError: A file is missing or wrong.
    """
    folder = find_folder(data, "flickr8k", "ExpertAnnotations.txt")
    expert = read_expert(folder / "ExpertAnnotations.txt")
    crowd = read_crowd(folder / "CrowdFlowerAnnotations.txt")
    own = tuple((photo, name) for photo, _ in expert.pairs for name in own_captions(photo))
    needed = expert.pairs + crowd.pairs + (tuple(dict.fromkeys(own)) if references else ())
    return CaptionJudgments(expert, crowd, read_photos(folder, needed))


def own_captions(photo: str) -> list[str]:
    """The ids of a photo's own captions."""
    return [f"{photo}#{number}" for number in range(CAPTIONS_EACH)]


def tau_rows(scorer: DescScorer, judgments: CaptionJudgments) -> list[TauRow]:
    """tau-c with the expert ratings and tau-b with the CrowdFlower ones."""
    expert, crowd, photos = judgments.expert, judgments.crowd, judgments.photos
    cosines = pair_cosines(scorer, photos.images, photos.captions, expert.pairs + crowd.pairs)
    own, others = cosines[: len(expert.pairs)], cosines[len(expert.pairs) :]
    return [
        _row("expert", "tau-c", expert_tau(own, expert.ratings), expert),
        _row("crowdflower", "tau-b", kendall(others, crowd.ratings[:, 0]), crowd),
    ]


def reference_tau_row(scorer: DescScorer, judgments: CaptionJudgments) -> TauRow:
    """tau-c of the reference score with the expert ratings, a photo's own captions as references."""
    expert, photos = judgments.expert, judgments.photos
    results = scorer.score_batch(
        [photos.images[photo] for photo, _ in expert.pairs],
        [photos.captions[caption] for _, caption in expert.pairs],
        references=[[photos.captions[name] for name in own_captions(photo)] for photo, _ in expert.pairs],
    )
    scores = [result.reference_score or 0.0 for result in results]
    return _row("expert, with references", "tau-c", expert_tau(scores, expert.ratings), expert)


def _row(name: str, statistic: str, tau: Correlation, rated: RatedPairs) -> TauRow:
    return TauRow(name, statistic, tau.value, tau.reason, len(rated.pairs), tau.n, rated.left_out)


def caption_result(data: Path, model: str, references: bool = False) -> dict[str, Any]:
    """The command's output: ``{model, rows, published, notes, signature}``.

    Raises :class:`descscore.errors.DataError` on missing or wrong files.
    """
    judgments = read_caption_judgments(data, references)
    scorer = DescScorer.from_pretrained(model)
    rows = tau_rows(scorer, judgments)
    if references:
        rows.append(reference_tau_row(scorer, judgments))
    return {
        "model": model,
        "rows": [asdict(row) for row in rows],
        "published": published_taus(),
        "notes": list(NOTES),
        "signature": f"{judgments.source}|{scorer.signature}",
    }


def published_taus() -> list[dict[str, Any]]:
    """:data:`PUBLISHED` as plain JSON types."""
    return [{"metric": name, "expert": e, "crowdflower": c} for name, (e, c) in PUBLISHED.items()]


def caption_lines(result: dict[str, Any]) -> list[str]:
    """The contents of :func:`caption_result` as lines of text."""
    own = ["-" if row["tau"] is None else f"{100 * row['tau']:+.1f}" for row in result["rows"]]
    cells = [(result["model"], *own[:2], "measured here")]
    cells += [("+ references", tau, "", "measured here") for tau in own[2:]]
    cells += [
        (row["metric"], f"{row['expert']:+.1f}", f"{row['crowdflower']:+.1f}", "published")
        for row in result["published"]
    ]
    lines = text_table(("metric", "expert tau-c", "crowd tau-b", "x 100"), cells).splitlines()
    for row in result["rows"]:
        reason = f"; not defined: {row['reason']}" if row["reason"] else ""
        lines.append(
            f"{row['set']}: {row['pairs']} pairs, {row['ratings']} ratings, "
            f"{row['left_out']} own captions left out{reason}"
        )
    return [*lines, *(f"note: {note}" for note in (LEGEND, *result["notes"])), result["signature"]]
