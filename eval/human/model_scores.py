"""A model's scores of the rated descriptions with their images."""

from __future__ import annotations

from pathlib import Path

from descscore.errors import DataError
from descscore.eval.csv_tables import named
from descscore.eval.human.ratings import Item
from descscore.eval.score_tables import Joined
from descscore.eval.statistics.correlation import numbers
from descscore.scorer import DescScorer


def model_scores(items: tuple[Item, ...], model: str) -> Joined:
    """The raw cosine of each item's text with its image, under the model of that name.

    Raises :class:`DataError` that names the items whose image is not there.
    """
    item_images(items)  # before a model is loaded
    return scorer_scores(items, DescScorer.from_pretrained(model), model)


def scorer_scores(items: tuple[Item, ...], scorer: DescScorer, name: str) -> Joined:
    """As :func:`model_scores`, with a model already loaded."""
    results = scorer.score_batch(item_images(items), [item.text for item in items])
    return Joined(name, numbers(name, [result.cosine for result in results]), (), scorer.signature)


def item_images(items: tuple[Item, ...]) -> list[Path]:
    """The image of each item; :class:`DataError` where one is not known or missing."""
    missing = [item.key for item in items if item.image is None]
    if missing:
        raise DataError(
            f"a model needs images, and there is none for {len(missing)} of {len(items)} rated texts "
            f"({named(missing)}); score them elsewhere and give the scores as a CSV file"
        )
    return [item.image for item in items if item.image is not None]
