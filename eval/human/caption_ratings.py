"""People's judgments of whether a Flickr8k caption fits a photo (Hodosh, Young and Hockenmaier 2013).

Three experts gave 5,822 pairs of photo and caption 1 to 4; CrowdFlower workers said
yes or no to some 47,000. Metrics are compared with them by Kendall's tau: by tau-c
over all three expert ratings without a photo's own captions, and by tau-b over
the share of yes with them, as papers since CLIPScore (Hessel et al. 2021) do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from descscore.errors import DataError
from descscore.eval.csv_tables import digest, named
from descscore.eval.statistics.correlation import Array, Correlation, Numbers, kendall, numbers

PUBLISHED = {
    "CLIP-S": (51.2, 34.4),
    "RefCLIP-S": (53.0, 36.4),
    "PAC-S": (54.3, 36.0),
    "Polos": (56.4, 37.8),
}
"""tau-c x 100 on the expert and tau-b x 100 on the CrowdFlower ratings, as those papers report them."""

NOTES = (
    "captions add to an image and descriptions stand in for it: this measures how well a model tells right "
    "captions from wrong ones, not how well descriptions serve.",
    "expert: tau-c over all three ratings of a pair, a photo's own captions left out; crowdflower: tau-b "
    "over the share of yes, own captions kept.",
    "published: as reported by the papers, x 100.",
)

CAPTIONS_EACH = 5
"""Captions of a photo; ids are ``name#0`` to ``name#4``."""

SPLITS = ("test.parquet", "val.parquet", "train.parquet")


@dataclass(frozen=True)
class RatedPairs:
    """Pairs of photo name and caption id with their ratings.

    ratings: ``(n, 3)`` grades 1..4 of the experts, or ``(n, 1)`` shares of yes, 0..1.
    left_out: pairs of a photo with its own caption that are not among them. source:
    file and digest.
    """

    pairs: tuple[tuple[str, str], ...]
    ratings: Array
    left_out: int
    source: str


@dataclass(frozen=True)
class Photos:
    """Photos, as the bytes of their files by name, and captions by id (``name#0`` to ``name#4``)."""

    images: dict[str, bytes]
    captions: dict[str, str]


def expert_tau(scores: Numbers, ratings: Array) -> Correlation:
    """Kendall's tau-c of ``(n,)`` scores with ``(n, 3)`` grades: each pair counts once a rater.

    Raises :class:`DataError` where the lengths differ or a score is not a number.
    """
    values = numbers("scores", scores)
    if ratings.ndim != 2 or len(ratings) != len(values):
        raise DataError(f"{len(values)} scores but ratings of shape {ratings.shape}: a row a score is needed")
    return kendall(np.repeat(values, ratings.shape[1]), ratings.ravel(), variant="c")


def crowd_tau(scores: Numbers, shares: Numbers) -> Correlation:
    """Kendall's tau-b of ``(n,)`` scores with ``(n,)`` shares of yes; raises as :func:`expert_tau`."""
    return kendall(scores, shares, variant="b")


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
    photos, captions = {photo for photo, _ in pairs}, {caption for _, caption in pairs}
    found = Photos({}, {})
    files = [folder / name for name in SPLITS if (folder / name).is_file()]
    for path in files:
        if photos - found.images.keys() or captions - found.captions.keys():
            _add_photos(path, photos, captions, found)
    missing = sorted((photos - found.images.keys()) | (captions - found.captions.keys()))
    if missing:
        where = ", ".join(path.name for path in files) or "no Parquet file"
        raise DataError(f"{folder}: {named(missing)} not found ({where})")
    return found


def _add_photos(path: Path, photos: set[str], captions: set[str], found: Photos) -> None:
    try:
        for batch in pq.ParquetFile(path).iter_batches(64, columns=["filename", "captions", "image"]):
            for row in batch.to_pylist():
                name = row["filename"]
                if name in photos:
                    found.images[name] = row["image"]["bytes"]
                texts = {f"{name}#{i}": text for i, text in enumerate(row["captions"])}
                found.captions.update({key: text for key, text in texts.items() if key in captions})
    except (OSError, pa.ArrowException, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a table of photos with captions ({error})") from None


def _read_pairs(
    path: Path, rating: Callable[[list[str]], list[float]]
) -> tuple[tuple[tuple[str, str], ...], Array]:
    """Pairs and ratings of a tab-separated file of five columns; a pair may occur once."""
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
