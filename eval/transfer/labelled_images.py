"""Labelled images for zero-shot classification: a folder, a Parquet table, or a known hub data set.

Names, splits, columns and class files of the hub sets are those that the sets' pages on the hub
show. Loading them is tested on local copies in that layout and on caches as ``datasets`` and the
hub client leave them, not against the hub itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from descscore.errors import DataError
from descscore.eval.transfer.benchmarks import LabelledImages, class_index, read_labelled
from descscore.eval.transfer.zero_shot import DEFAULT_PROMPT
from descscore.images import ImageSource

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
IMAGE_COLUMNS = ("img", "image", "webp", "jpg", "png")


@dataclass(frozen=True)
class HubSet:
    """A classification set on the hub.

    label: column of class numbers. prompt: the paper's (Zur et al. 2024). class_file: file of the
    set with the name of class i in line i, for a label column that does not name its classes.
    """

    name: str
    split: str
    label: str
    prompt: str
    class_file: str | None = None


HUB_SETS = {
    "cifar100": HubSet("uoft-cs/cifar100", "test", "fine_label", "a photo of a {}"),
    "food101": HubSet("ethz/food101", "validation", "label", "A picture of {}"),
    "imagenet": HubSet("ILSVRC/imagenet-1k", "validation", "label", "A picture of {}"),
    # Several copies of Country211 exist; this one holds no training images (6 GB), and its class
    # file has the country names of CLIP's own evaluation instead of ISO codes.
    "country211": HubSet(
        "djghosh/wds_country211_test", "test", "cls", "A picture of the country of {}", "classnames.txt"
    ),
    "rendered-sst2": HubSet("nateraw/rendered-sst2", "test", "label", "A picture of text with {} sentiment"),
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
    """A set from the hub or its cache. The small class file comes first, lest images are fetched in vain."""
    from datasets import load_dataset
    from huggingface_hub import hf_hub_download

    file = None
    try:
        if source.class_file:
            file = Path(hf_hub_download(source.name, source.class_file, repo_type="dataset"))
        data: Any = load_dataset(source.name, split=source.split)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{source.name}: cannot be loaded from the hub or its cache ({reason})") from error
    return hub_images(data, source, read_class_names(file) if file else None)


def read_class_names(path: Path) -> list[str]:
    """One class a line, as they stand; :class:`DataError` for a file without names or with a blank line."""
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    if not names or "" in names:
        blank = names.index("") + 1 if names else 1
        raise DataError(f"{path} line {blank}: blank, expected one class name a line")
    return names


def hub_images(data: Any, source: HubSet, names: Sequence[str] | None = None) -> LabelledImages:
    """Images and labels of a loaded data set. names: of its classes, by default those of its label feature.

    Raises :class:`DataError` where neither names the classes, where there is no
    image column, and for a label that is no class.
    """
    names = _feature_names(data, source) if names is None else names
    column = next((c for c in IMAGE_COLUMNS if c in data.features), None)
    if column is None:
        raise DataError(f"{source.name}: no image column among {', '.join(data.features)}")
    if source.label not in data.features:
        raise DataError(f"{source.name}: no column {source.label!r} among {', '.join(data.features)}")
    labels = list(data[source.label])
    for row, label in enumerate(labels, start=1):
        if not isinstance(label, int) or not 0 <= label < len(names):
            raise DataError(f"{source.name} row {row}: label {label!r} is none of its {len(names)} classes")
    return LabelledImages(HubImages(data, column), labels, list(names))


def _feature_names(data: Any, source: HubSet) -> list[str]:
    """Class names of a label feature: the first of several synonyms, underscores as spaces."""
    names = getattr(data.features.get(source.label), "names", None)
    if not names:
        raise DataError(f"{source.name}: column {source.label!r} does not name its classes")
    return [name.split(",")[0].replace("_", " ") for name in names]


class HubImages(Sequence[ImageSource]):
    """A data set's images as a sequence, decoded when asked for."""

    def __init__(self, data: Any, column: str) -> None:
        self._data, self._column = data, column

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._data[index][self._column]
