"""Zero-shot classification with one prompt for each class, and the labelled images that it runs on.

As in Zur et al. 2024 (arXiv 2406.09458), the class of an image is the one whose prompt has the
highest cosine. Labelled images come from a folder, a Parquet table, or a known hub data set. Names,
splits, columns and class files of the hub sets are those that the sets' pages on the hub show.
Loading them is tested on local copies in that layout and on caches as ``datasets`` and the hub
client leave them, not against the hub itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from descscore.errors import DataError, UsageError, is_blank
from descscore.eval.features import image_features, text_features
from descscore.eval.formatting import Columns, row_lines, share, share_interval
from descscore.eval.ratings import parquet_rows
from descscore.eval.statistics.proportions import proportion
from descscore.formats import IMAGE_SUFFIXES
from descscore.images import ImageSource
from descscore.scorer import DescScorer
from descscore.tables.reader import Columns as TableColumns

Array: TypeAlias = "np.ndarray[Any, Any]"

DEFAULT_PROMPT = "a photo of a {}"
PROMPTS = (DEFAULT_PROMPT, "{}", "A picture of {}", "A photo of the {}.", "An image that shows a {}.")
"""Different wordings: an accuracy that holds for one of them alone says little about a model."""

NOTES = (
    "accuracy: share of images whose own class wins. macro-F1: the mean over classes of F1, which weighs "
    "each class alike and counts both images missed and images wrongly taken in.",
)


@dataclass(frozen=True)
class LabelledImages:
    """Images of one class each: ``labels[i]`` is an index into ``names``."""

    images: Sequence[ImageSource]
    labels: Sequence[int]
    names: Sequence[str]
    prompt: str = DEFAULT_PROMPT
    """What to use if no prompt is given."""

    @classmethod
    def of(cls, images: Sequence[ImageSource], classes: Sequence[str]) -> LabelledImages:
        """Images with the name of the class of each; the names then stand in alphabetical order."""
        place = {name: i for i, name in enumerate(sorted(set(classes)))}
        return cls(images, [place[name] for name in classes], list(place))


@dataclass(frozen=True)
class ZeroShot:
    """Result of classifying a set of images."""

    accuracy: float
    """Share of images whose own class wins, 0..1."""
    low: float | None
    """Lower end of its 95 % interval."""
    high: float | None
    """Its upper end."""
    macro_f1: float
    """Mean of the classes' F1, 0..1."""
    n: int
    """Number of images."""
    classes: int
    """Number of classes."""
    prompt: str
    """Template of the prompts, or of how many prompts it is the mean."""


def check_prompt(prompt: str) -> str:
    """``prompt`` itself, or a :class:`UsageError` unless it has exactly one place for the class name."""
    if prompt.count("{}") != 1:
        raise UsageError(f"prompt {prompt!r}: needs exactly one '{{}}', the place of the class name")
    return prompt


def predict(scorer: DescScorer, data: LabelledImages, prompts: Sequence[str]) -> Array:
    """The class of each image by each prompt, ``(prompts, n)`` indices into ``data.names``."""
    texts = [check_prompt(prompt).format(name) for prompt in prompts for name in data.names]
    features = text_features(scorer, texts)  # before the images: a bad prompt ends at once
    cosines = image_features(scorer, data.images) @ features.T
    by_prompt = cosines.reshape(len(cosines), len(prompts), len(data.names))
    classes: Array = by_prompt.argmax(2).T.cpu().numpy()
    return classes


def zero_shot(
    scorer: DescScorer, data: LabelledImages, prompts: Sequence[str] = (DEFAULT_PROMPT,)
) -> list[ZeroShot]:
    """Classify all images by each prompt: a row a prompt, and for several prompts one of their means.

    Raises :class:`DataError` for no images, :class:`UsageError` for a bad prompt.
    """
    if not len(data.labels):
        raise DataError("zero-shot: no images")
    labels = np.asarray(data.labels)
    predicted = predict(scorer, data, prompts)
    hits, f1 = (predicted == labels).astype(float), [macro_f1(labels, row) for row in predicted]
    results = list(zip(prompts, hits, f1, strict=True))
    if len(prompts) > 1:
        results.append((f"mean of {len(prompts)} prompts", hits.mean(0), float(np.mean(f1))))
    return [_result(data, *result) for result in results]


def _result(data: LabelledImages, prompt: str, hits: Array, f1: float) -> ZeroShot:
    """hits: ``(n,)``, each 0..1."""
    estimate = proportion(hits)
    value = float(hits.mean())
    return ZeroShot(value, estimate.low, estimate.high, f1, len(hits), len(data.names), prompt)


def macro_f1(labels: Array, predicted: Array) -> float:
    """Unweighted mean of the F1 of each class that occurs in either: ``(n,)`` ints twice -> 0..1.

    F1 of a class is 2·TP / (2·TP + FP + FN), as scikit-learn's ``f1_score(average="macro")``.
    """
    scores = []
    for name in np.union1d(labels, predicted):
        right = np.sum((labels == name) & (predicted == name))
        wrong = np.sum((labels == name) != (predicted == name))
        scores.append(2 * right / (2 * right + wrong))
    return float(np.mean(scores))


_COLUMNS: Columns = {
    "prompt": "prompt",
    "accuracy": lambda row: share(row.accuracy),
    "95 % interval": lambda row: share_interval(row.low, row.high),
    "macro-F1": lambda row: share(row.macro_f1),
    "images": "n",
    "classes": "classes",
}


def zero_shot_lines(rows: Sequence[ZeroShot]) -> list[str]:
    """The rows as a table of text, in per cent, and what its columns mean."""
    return [*row_lines(rows, _COLUMNS), "", *NOTES]


def existing(path: Path) -> Path:
    """``path`` itself, or a :class:`DataError` that names it."""
    if not path.exists():
        raise DataError(f"{path}: no such file; --data or DESCSCORE_DATA must name the data folder")
    return path


def read_labelled(path: Path) -> LabelledImages:
    """A Parquet table with ``image`` and ``label``; class names in alphabetical order."""
    rows = list(parquet_rows(existing(path), TableColumns(image="image", text="label")))
    return LabelledImages.of(
        [row.image for row in rows if row.image is not None], [str(row.text) for row in rows]
    )


IMAGE_COLUMNS = ("img", "image", "webp", "jpg", "png")


@dataclass(frozen=True)
class HubSet:
    """A classification set on the hub."""

    name: str
    split: str
    label: str
    """Column of class numbers."""
    prompt: str
    """The paper's (Zur et al. 2024)."""
    class_file: str | None = None
    """The set's file with the name of class i in line i; needed where the label column names no classes."""


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


def read_labelled_source(source: str) -> LabelledImages:
    """Read a folder of class folders, a Parquet table, or one of :data:`HUB_SETS`.

    Raises :class:`DataError` naming what was asked for and what is known.
    """
    path = Path(source)
    if path.is_dir():
        return read_class_folders(path)
    if path.suffix == ".parquet":
        return read_labelled(path)
    if source in HUB_SETS:
        return _read_hub(HUB_SETS[source])
    raise DataError(f"{source}: neither a folder, a .parquet table, nor a known set ({', '.join(HUB_SETS)})")


def read_class_folders(root: Path) -> LabelledImages:
    """A folder with a folder of images for each class, named after it; underscores stand for spaces."""
    files = sorted(p for p in root.glob("*/*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise DataError(f"{root}: no images in folders named after their class")
    return LabelledImages.of(files, [path.parent.name.replace("_", " ") for path in files])


def _read_hub(source: HubSet) -> LabelledImages:
    """A set from the hub or its cache. The small class file comes first: if it fails, no image is fetched."""
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
    """Class names, one in each line. Raises :class:`DataError` for an empty file or a blank line."""
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    blank = next((number for number, name in enumerate(names or [""], start=1) if is_blank(name)), None)
    if blank is not None:
        raise DataError(f"{path} line {blank}: blank, expected one class name in each line")
    return names


def hub_images(data: Any, source: HubSet, names: Sequence[str] | None = None) -> LabelledImages:
    """Images and labels of a loaded data set. names: of its classes, by default those of its label feature.

    Raises :class:`DataError` if neither names the classes, if there is no
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
    return LabelledImages(HubImages(data, column), labels, list(names), source.prompt)


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
