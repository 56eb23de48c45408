"""What a model can do at all: retrieval, zero-shot classes, and grounding in the image.

These are the figures of a model card. They say whether a score has a hold on the
image; whether it prefers descriptions is another question.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import click
import numpy as np
import torch
from scipy import stats
from torch import Tensor

from descscore.eval.options import data_option
from descscore.eval.statistics.proportions import proportion
from descscore.eval.statistics.retrieval import grounding_by_photo, grounding_sampled, recall_at_k
from descscore.eval.zero_shot import (
    LabelledImages,
    TextsOfImages,
    existing,
    image_features,
    read_concadia_descriptions,
    read_flickr8k,
    read_kreiss2022_descriptions,
    read_labelled,
    zero_shot,
)
from descscore.scorer import DescScorer

Array: TypeAlias = "np.ndarray[Any, Any]"

OTHERS = 20
SEED = 0


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


def measure(scorer: DescScorer, data: Path) -> list[Figure]:
    """All figures of one model on the data folder. Raises :class:`DataError` for a missing file."""
    caltech = read_labelled(data / "caltech101" / "test.parquet")
    tiny = read_labelled(data / "tiny_imagenet" / "val.parquet")
    return [
        *retrieval_figures(scorer, data),
        _zero_shot(scorer, caltech, "Caltech-101 zero-shot accuracy (unseen pictures)"),
        _zero_shot(scorer, tiny, "Tiny ImageNet val accuracy (seen classes)"),
        *concadia_figures(scorer, data),
        *kreiss_figures(scorer, data),
    ]


def retrieval_figures(scorer: DescScorer, data: Path) -> list[Figure]:
    """Recall of Flickr8k's test split. Raises as :func:`measure`."""
    return _retrieval(scorer, read_flickr8k(data))


def concadia_figures(scorer: DescScorer, data: Path) -> list[Figure]:
    """Grounding on the Concadia pairs. Raises as :func:`measure`."""
    return [_grounding_sampled(scorer, read_concadia_descriptions(data))]


def kreiss_figures(scorer: DescScorer, data: Path) -> list[Figure]:
    """Grounding on the photos of Kreiss et al. 2022. Raises as :func:`measure`."""
    return _grounding_photos(scorer, read_kreiss2022_descriptions(data), _rated(data))


def _text_features(scorer: DescScorer, texts: Sequence[str]) -> Tensor:
    return scorer.encoder.texts(texts, scorer.text_policy).features


def _retrieval(scorer: DescScorer, data: TextsOfImages) -> list[Figure]:
    images, texts = image_features(scorer, data.images), _text_features(scorer, data.texts)
    recall = recall_at_k(images, texts, torch.tensor(list(data.owner), device=images.device))
    figures = []
    for name, value in recall.items():
        way, k = name.split("@")
        to_text = way == "image_to_text"
        n = len(images) if to_text else len(texts)
        chance = _chance_of_recall(int(k), len(images), len(texts), to_text)
        label = f"Flickr8k test {way.replace('_', ' ')} recall@{k}"
        figures.append(Figure(label, value, None, None, n, "image" if to_text else "text", chance))
    return figures


def _chance_of_recall(k: int, images: int, texts: int, to_text: bool) -> float:
    """Chance that a random order puts a right item among the first ``k``."""
    if not to_text:
        return min(1.0, k / images)
    per_image = texts // images
    return float(1 - stats.hypergeom.pmf(0, texts, per_image, k))


def _zero_shot(scorer: DescScorer, data: LabelledImages, name: str) -> Figure:
    found = zero_shot(scorer, data)
    return Figure(name, found.accuracy, found.low, found.high, found.n, "image", 1 / found.classes)


def _grounding_sampled(scorer: DescScorer, data: TextsOfImages) -> Figure:
    images, texts = image_features(scorer, data.images), _text_features(scorer, data.texts)
    wins = grounding_sampled(images, texts, OTHERS, SEED).cpu().numpy()
    name = f"Concadia grounding ({OTHERS} random other images, seed {SEED})"
    return _figure(name, wins, np.arange(len(wins)), "description", 0.5)


def _grounding_photos(scorer: DescScorer, data: TextsOfImages, rated: set[str]) -> list[Figure]:
    images, texts = image_features(scorer, data.images), _text_features(scorer, data.texts)
    owner = torch.tensor(list(data.owner), device=images.device)
    wins = grounding_by_photo(texts @ images.T, owner).cpu().numpy()
    photo, others = np.asarray(data.owner), len(images) - 1
    rated_by_blv = np.array([text in rated for text in data.texts])
    subsets = (
        ("all descriptions", np.ones(len(wins), bool)),
        ("those rated by BLV readers", rated_by_blv),
    )
    return [
        _figure(
            f"Kreiss 2022 grounding (all {others} other photos; {label})",
            wins[keep],
            photo[keep],
            "description",
            0.5,
        )
        for label, keep in subsets
    ]


def _rated(data: Path) -> set[str]:
    with existing(data / "kreiss2022" / "blv_ratings.csv").open(encoding="utf-8", newline="") as file:
        return {row["description"] for row in csv.DictReader(file)}


def _figure(name: str, values: Array, images: Array | None, unit: str, chance: float) -> Figure:
    """The mean of ``values`` ``(n,)``; ``images`` ``(n,)`` tells whose they are (None: each its own)."""
    found = proportion(values, images, null=chance)
    return Figure(name, float(values.mean()), found.low, found.high, len(values), unit, chance)


def to_markdown(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table, in per cent."""
    lines = ["| measure | value | 95 % interval | n | chance |", "|---|---|---|---|---|"]
    for figure in figures:
        between = "" if figure.low is None else f"{100 * figure.low:.1f} to {100 * (figure.high or 0):.1f}"
        lines.append(
            f"| {figure.name} | {100 * figure.value:.1f} % | {between} | {figure.n} {figure.unit}s | "
            f"{100 * figure.chance:.1f} % |"
        )
    return "\n".join(lines)


def to_json(figures: Sequence[Figure], signature: str) -> dict[str, Any]:
    """The figures and the model's signature as plain JSON types."""
    return {"signature": signature, "figures": [asdict(figure) for figure in figures]}


@click.command()
@data_option("The data folder")
@click.option("--model", default="base", show_default=True, help="Bundled name, folder, or open_clip model.")
@click.option("--device", help="Torch device; by default a GPU where there is one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def quality(data: Path, model: str, device: str | None, as_json: bool) -> None:
    """Retrieval, zero-shot classes and grounding: the figures of a model card."""
    scorer = DescScorer.from_pretrained(model, device=device)
    figures = measure(scorer, data)
    if as_json:
        click.echo(json.dumps(to_json(figures, scorer.signature), indent=2))
        return
    click.echo(to_markdown(figures))
    click.echo(scorer.signature)
