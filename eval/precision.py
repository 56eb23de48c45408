"""How far cosines in reduced precision are from those in float32: the same pairs under the same model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image

from descscore.errors import DataError
from descscore.eval.features import pair_cosines
from descscore.eval.formatting import UNDEFINED, Columns, row_lines
from descscore.eval.sample_inputs import caption
from descscore.eval.statistics.correlation import Array, spearman
from descscore.images import ImageSource, load_image
from descscore.models import LoadedModel
from descscore.scorer import DescScorer
from descscore.tables.rows import PreferencePair

MEAN_GOAL, RANK_GOAL = 1e-3, 0.999
"""Largest mean difference and smallest rank correlation at which a precision counts as close."""

TEXTS_PER_IMAGE = 4
MADE_SIZE = (320, 240)


@dataclass(frozen=True)
class Sample:
    """Pairs to score, by keys of their images and texts."""

    images: dict[str, ImageSource]
    texts: dict[str, str]
    pairs: list[tuple[str, str]]


@dataclass(frozen=True)
class Closeness:
    """Cosines in ``precision`` against those in float32. mean, largest: absolute differences.
    spearman: None if it is not defined.
    """

    precision: str
    pairs: int
    mean: float
    largest: float
    spearman: float | None

    @property
    def close(self) -> bool:
        """Whether both goals are met."""
        return self.mean <= MEAN_GOAL and self.spearman is not None and self.spearman >= RANK_GOAL


def compare_precisions(
    model: LoadedModel, sample: Sample, precisions: Sequence[str] = ("bf16", "fp16")
) -> list[Closeness]:
    """Compare each of ``precisions`` with float32. model: in float32; it is copied for the others."""
    exact = _cosines(DescScorer(model), sample)
    return [
        closeness(name, exact, _cosines(DescScorer(model, precision=name), sample)) for name in precisions
    ]


def closeness(precision: str, exact: Array, reduced: Array) -> Closeness:
    """Cosines ``(n,)`` in float32 and in ``precision``, of the same pairs."""
    difference = np.abs(reduced - exact)
    rank = spearman(exact, reduced).value
    return Closeness(precision, len(exact), float(difference.mean()), float(difference.max()), rank)


def published_sample(pairs: Sequence[PreferencePair], count: int) -> Sample:
    """``count`` pairs of a data set: each image with its description, its caption, and the next
    images' descriptions and captions. Raises :class:`DataError` if that gives too few.
    """
    if TEXTS_PER_IMAGE * len(pairs) < count:
        raise DataError(f"{len(pairs)} images give {TEXTS_PER_IMAGE * len(pairs)} pairs, not {count}")
    texts = {f"{kind} {i}": getattr(pair, kind) for i, pair in enumerate(pairs) for kind in _KINDS}
    chosen = list(islice(_around(len(pairs)), count))
    used = {image for image, _ in chosen}
    images = {name: load_image(pairs[int(name)].image.read()) for name in sorted(used, key=int)}
    return Sample(dict(images), texts, chosen)


_KINDS = ("description", "caption")


def _around(count: int) -> Iterator[tuple[str, str]]:
    """Own description and caption of all images first, then those of the image after each."""
    for shift in range(TEXTS_PER_IMAGE // len(_KINDS)):
        for i in range(count):
            for kind in _KINDS:
                yield str(i), f"{kind} {(i + shift) % count}"


def made_sample(count: int) -> Sample:
    """``count`` pairs of made-up pictures and captions, all of them different."""
    number = -(-count // TEXTS_PER_IMAGE)
    images: dict[str, ImageSource] = {str(i): _picture(i) for i in range(number)}
    texts = {str(i): caption(i) for i in range(count)}
    return Sample(images, texts, [(str(i // TEXTS_PER_IMAGE), str(i)) for i in range(count)])


def _picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(MADE_SIZE, Image.Resampling.BICUBIC)


def _cosines(scorer: DescScorer, sample: Sample) -> Array:
    return pair_cosines(scorer, sample.images, sample.texts, sample.pairs)


_COLUMNS: Columns = {
    "precision": "precision",
    "pairs": lambda row: f"{row.pairs:,}",
    "mean difference": lambda row: f"{row.mean:.2e}",
    "largest": lambda row: f"{row.largest:.2e}",
    "Spearman": lambda row: UNDEFINED if row.spearman is None else f"{row.spearman:.6f}",
    "goals": lambda row: "met" if row.close else "missed",
}


def precision_lines(rows: Sequence[Closeness]) -> list[str]:
    """The rows as a table of text, what its columns mean, and the goals."""
    return [
        *row_lines(rows, _COLUMNS),
        "",
        "difference: absolute, of a pair's cosine from that in float32. Spearman: correlation of the ranks "
        "of both; 1 is the same order.",
        f"goals: mean at most {MEAN_GOAL:g}, Spearman at least {RANK_GOAL:g}",
    ]
