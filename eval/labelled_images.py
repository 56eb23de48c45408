"""Labelled images for zero-shot classification: a folder, a Parquet table, or a known hub data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from descscore.errors import DataError
from descscore.eval.benchmarks import LabelledImages, class_index, read_labelled
from descscore.eval.zero_shot import DEFAULT_PROMPT

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class HubSet:
    """A classification set on the hub. prompt: the paper's (Zur et al. 2024)."""

    name: str
    split: str
    label: str
    prompt: str


HUB_SETS = {
    "cifar100": HubSet("uoft-cs/cifar100", "test", "fine_label", "a photo of a {}"),
    "food101": HubSet("ethz/food101", "validation", "label", "A picture of {}"),
    "imagenet": HubSet("ILSVRC/imagenet-1k", "validation", "label", "A picture of {}"),
}


@dataclass(frozen=True)
class Source:
    """Labelled images and the prompt to use where none is given."""

    images: LabelledImages
    prompt: str


def read_labelled_source(source: str) -> Source:
    """Read a folder of class folders, a Parquet table, or one of :data:`HUB_SETS`.

    Raises :class:`DataError` naming what was asked for and what is known.
    """
    path = Path(source)
    if path.is_dir():
        return Source(read_class_folders(path), DEFAULT_PROMPT)
    if path.suffix == ".parquet":
        return Source(read_labelled(path), DEFAULT_PROMPT)
    if source in HUB_SETS:
        return Source(_read_hub(HUB_SETS[source]), HUB_SETS[source].prompt)
    raise DataError(f"{source}: neither a folder, a .parquet table, nor a known set ({', '.join(HUB_SETS)})")


def read_class_folders(root: Path) -> LabelledImages:
    """A folder with one folder of images a class; the folder's name, underscores as spaces, is the class."""
    files = sorted(p for p in root.glob("*/*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{root}: no images in folders named after their class")
    names = [path.parent.name.replace("_", " ") for path in files]
    place = class_index(names)
    return LabelledImages(files, [place[name] for name in names], list(place))


def _read_hub(source: HubSet) -> LabelledImages:
    from datasets import load_dataset

    try:
        data: Any = load_dataset(source.name, split=source.split)
    except Exception as error:
        raise DataError(f"{source.name}: cannot be loaded from the hub or its cache ({error})") from error
    return hub_images(data, source)


def hub_images(data: Any, source: HubSet) -> LabelledImages:
    """Images and labels of a loaded data set whose label feature knows its class names."""
    feature = data.features.get(source.label)
    names = getattr(feature, "names", None)
    if not names:
        raise DataError(f"{source.name}: column {source.label!r} does not name its classes")
    column = next((c for c in ("img", "image", "webp", "jpg", "png") if c in data.features), None)
    if column is None:
        raise DataError(f"{source.name}: no image column among {', '.join(data.features)}")
    clean = [name.split(",")[0].replace("_", " ") for name in names]
    return LabelledImages(HubImages(data, column), list(data[source.label]), clean)


class HubImages:
    """A data set's images as a sequence, decoded when asked for."""

    def __init__(self, data: Any, column: str) -> None:
        self._data, self._column = data, column

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._data[index][self._column]
