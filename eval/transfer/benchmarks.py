"""Read the measuring data: images with their texts, labels or owners, from the data folder.

Nothing here is for training. Every reader raises :class:`DataError` naming the
file that is missing.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from descscore.data.datasets import DataOptions, load_pairs
from descscore.errors import DataError
from descscore.images import ImageSource


@dataclass(frozen=True)
class TextsOfImages:
    """Images and texts; ``owner[j]`` is the index of the image that ``texts[j]`` belongs to."""

    images: Sequence[ImageSource]
    texts: Sequence[str]
    owner: Sequence[int]


@dataclass(frozen=True)
class LabelledImages:
    """Images of one class each: ``labels[i]`` is an index into ``names``."""

    images: Sequence[ImageSource]
    labels: Sequence[int]
    names: Sequence[str]


def existing(path: Path) -> Path:
    """``path`` itself, or a :class:`DataError` that names it."""
    if not path.exists():
        raise DataError(f"{path}: no such file; --data or DESCSCORE_DATA must name the data folder")
    return path


def read_flickr8k(data: Path, split: str = "test") -> TextsOfImages:
    """Flickr8k photos with five captions each (Hodosh et al. 2013)."""
    table = pq.read_table(existing(data / "flickr8k" / f"{split}.parquet"))
    captions = table["captions"].to_pylist()
    owner = [i for i, own in enumerate(captions) for _ in own]
    return TextsOfImages(_bytes(table), [text for own in captions for text in own], owner)


def read_labelled(path: Path) -> LabelledImages:
    """A Parquet table with ``image`` and ``label``; class names in alphabetical order."""
    table = pq.read_table(existing(path))
    labels = table["label"].to_pylist()
    place = class_index(labels)
    return LabelledImages(_bytes(table), [place[label] for label in labels], list(place))


def class_index(labels: Sequence[str]) -> dict[str, int]:
    """The classes among ``labels`` in alphabetical order, with their index."""
    return {name: i for i, name in enumerate(sorted(set(labels)))}


def read_concadia_descriptions(data: Path) -> TextsOfImages:
    """The descriptions of the 300 published Concadia images, in the file's order."""
    pairs = load_pairs(existing(data / "concadia"), DataOptions(keep_equal=True)).split("test")
    images = [pair.image.read() for pair in pairs]
    return TextsOfImages(images, [pair.description for pair in pairs], range(len(pairs)))


def read_kreiss2022_descriptions(data: Path) -> TextsOfImages:
    """All descriptions of Kreiss et al. 2022 with their 18 photos, each description once."""
    folder = existing(data / "kreiss2022")
    with existing(folder / "descriptions.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["description"]: row["img_file"] for row in csv.DictReader(file)}
    names = sorted(set(rows.values()))
    images = [existing(folder / "images" / name) for name in names]
    return TextsOfImages(images, list(rows), [names.index(name) for name in rows.values()])


def _bytes(table: pq.Table) -> list[bytes]:
    return [cell.as_py() for cell in table["image"].combine_chunks().field("bytes")]
