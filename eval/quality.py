"""What a model can do at all: retrieval, zero-shot classes, and grounding in the image.

These are the figures of a model card. They say whether a score depends on the image; whether it
prefers descriptions is another question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from scipy import stats

from descscore.eval.captions import captioned_photos
from descscore.eval.features import image_features, text_features
from descscore.eval.formatting import markdown_table
from descscore.eval.ratings import read_rows
from descscore.eval.statistics.proportions import proportion
from descscore.eval.statistics.retrieval import OTHERS, grounding_by_photo, grounding_sampled, recall_at_k
from descscore.eval.zero_shot import PROMPTS, LabelledImages, existing, read_labelled, zero_shot
from descscore.images import ImageSource
from descscore.scorer import DescScorer
from descscore.tables.open import DataOptions, load_pairs
from descscore.tables.rows import find_image

Array: TypeAlias = "np.ndarray[Any, Any]"

NOTES = (
    "recall@k: share of images (texts) with a right text (image) among the k of highest cosine; it ranks "
    "within one gallery and has no interval.",
    "zero-shot accuracy: share of images whose class has the prompt of highest cosine, with the prompt "
    f"{PROMPTS[0]!r} unless a mean is named.",
    "grounding: how often a description scores higher with its own photo than with another.",
)


@dataclass(frozen=True)
class Figure:
    """One measured figure: ``value`` and its 95 % interval in 0..1, over ``n`` items of one ``unit``.

    chance: what guessing would reach. Intervals resample whole images, since texts of
    one image are not independent (:func:`descscore.eval.statistics.proportions.proportion`);
    None for recall, which is a rank statistic of one gallery.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    n: int
    unit: str
    chance: float


@dataclass(frozen=True)
class TextsOfImages:
    """Images and texts; ``owner[j]`` is the index of the image that ``texts[j]`` belongs to."""

    images: Sequence[ImageSource]
    texts: Sequence[str]
    owner: Sequence[int]


def read_flickr8k(data: Path, split: str = "test") -> TextsOfImages:
    """Flickr8k photos with five captions each (Hodosh et al. 2013)."""
    photos = list(captioned_photos(existing(data / "flickr8k" / f"{split}.parquet")))
    texts, owner = zip(*[(text, i) for i, (*_, own) in enumerate(photos) for text in own], strict=True)
    return TextsOfImages([image for _, image, _ in photos], texts, owner)


def read_concadia_descriptions(data: Path) -> TextsOfImages:
    """The descriptions of the 300 published Concadia images, in the file's order."""
    pairs = load_pairs(existing(data / "concadia"), DataOptions(keep_equal=True)).split("test")
    images = [pair.image.read() for pair in pairs]
    return TextsOfImages(images, [pair.description for pair in pairs], range(len(pairs)))


def read_kreiss2022_descriptions(data: Path) -> TextsOfImages:
    """All descriptions of Kreiss et al. 2022 with their 18 photos, each description once."""
    folder = existing(data / "kreiss2022")
    path = existing(folder / "descriptions.csv")
    rows = {
        row.cells["description"]: row.cells["img_file"]
        for row in read_rows(path, ("description", "img_file"))
    }
    names = sorted(set(rows.values()))
    images = [existing(Path(find_image(str(folder / "images"), name))) for name in names]
    return TextsOfImages(images, list(rows), [names.index(name) for name in rows.values()])


def measure(scorer: DescScorer, data: Path) -> list[Figure]:
    """All figures of one model on the data folder. Raises :class:`DataError` for a missing file."""
    caltech = read_labelled(data / "caltech101" / "test.parquet")
    tiny = read_labelled(data / "tiny_imagenet" / "val.parquet")
    return [
        *retrieval_figures(scorer, data),
        *_zero_shot(scorer, caltech, "Caltech-101 zero-shot accuracy (unseen pictures)"),
        *_zero_shot(scorer, tiny, "Tiny ImageNet val accuracy (seen classes)"),
        *concadia_figures(scorer, data),
        *kreiss_figures(scorer, data),
    ]


def retrieval_figures(scorer: DescScorer, data: Path) -> list[Figure]:
    """Recall of Flickr8k's test split. Raises as :func:`measure`."""
    source = read_flickr8k(data)
    images, texts = image_features(scorer, source.images), text_features(scorer, source.texts)
    recall = recall_at_k(images, texts, torch.tensor(list(source.owner), device=images.device))
    figures = []
    for name, value in recall.items():
        way, k = name.split("@")
        to_text = way == "image_to_text"
        n, unit = (len(images), "image") if to_text else (len(texts), "text")
        chance = _chance_of_recall(int(k), len(images), len(texts), to_text)
        label = f"Flickr8k test {way.replace('_', ' ')} recall@{k}"
        figures.append(Figure(label, value, None, None, n, unit, chance))
    return figures


def _chance_of_recall(k: int, images: int, texts: int, to_text: bool) -> float:
    """Chance that a random order puts a right item among the first ``k``."""
    if not to_text:
        return min(1.0, k / images)
    per_image = texts // images
    return float(1 - stats.hypergeom.pmf(0, texts, per_image, k))


def _zero_shot(scorer: DescScorer, data: LabelledImages, name: str) -> list[Figure]:
    """With the first prompt, and the mean over all."""
    first, *_, mean = zero_shot(scorer, data, PROMPTS)
    return [
        Figure(label, row.accuracy, row.low, row.high, row.n, "image", 1 / row.classes)
        for label, row in ((name, first), (f"{name}, {mean.prompt}", mean))
    ]


def concadia_figures(scorer: DescScorer, data: Path) -> list[Figure]:
    """Grounding on the Concadia pairs. Raises as :func:`measure`."""
    source = read_concadia_descriptions(data)
    images, texts = image_features(scorer, source.images), text_features(scorer, source.texts)
    wins = grounding_sampled(images, texts).cpu().numpy()
    name = f"Concadia grounding ({OTHERS} random other images, seed 0)"
    return [_grounding(name, wins, np.arange(len(wins)))]


def kreiss_figures(scorer: DescScorer, data: Path) -> list[Figure]:
    """Grounding on the photos of Kreiss et al. 2022. Raises as :func:`measure`."""
    source = read_kreiss2022_descriptions(data)
    ratings = read_rows(existing(data / "kreiss2022" / "blv_ratings.csv"), ("description",))
    rated = {row.cells["description"] for row in ratings}
    images, texts = image_features(scorer, source.images), text_features(scorer, source.texts)
    owner = torch.tensor(list(source.owner), device=images.device)
    wins = grounding_by_photo(texts @ images.T, owner).cpu().numpy()
    photo, name = np.asarray(source.owner), f"Kreiss 2022 grounding (all {len(images) - 1} other photos; "
    keep = np.array([text in rated for text in source.texts])
    return [
        _grounding(f"{name}all descriptions)", wins, photo),
        _grounding(f"{name}those rated by BLV readers)", wins[keep], photo[keep]),
    ]


def _grounding(name: str, wins: Array, images: Array) -> Figure:
    """The mean of descriptions' ``wins`` ``(n,)``; ``images`` ``(n,)`` tells whose descriptions they are."""
    estimate = proportion(wins, images)
    return Figure(name, float(wins.mean()), estimate.low, estimate.high, len(wins), "description", 0.5)


def to_markdown(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table, in per cent."""
    cells = [
        (
            figure.name,
            f"{100 * figure.value:.1f} %",
            "" if figure.low is None else f"{100 * figure.low:.1f} to {100 * (figure.high or 0):.1f}",
            f"{figure.n} {figure.unit}s",
            f"{100 * figure.chance:.1f} %",
        )
        for figure in figures
    ]
    return markdown_table(("measure", "value", "95 % interval", "n", "chance"), cells).rstrip()
