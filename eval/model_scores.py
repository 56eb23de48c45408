"""A model's scores of the rated descriptions with their images and the articles around them."""

from __future__ import annotations

from pathlib import Path

from descscore.errors import DataError
from descscore.eval.human import Joined
from descscore.eval.ratings import Item, named
from descscore.eval.statistics.correlation import numbers
from descscore.records import Score
from descscore.scorer import DescScorer

# A model's scores of the rated descriptions with their images.


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


PREFIX = "A photo depicts "
"""What Kreiss et al. 2022 put before a description, and Hessel et al. 2021 before every text."""

VARIANTS = ("", " (context)", " (prefix)", " (prefix, context)")
"""What the four metrics' names have after the model's."""


def context_metrics(items: tuple[Item, ...], scorer: DescScorer, name: str) -> list[Joined]:
    """Four metrics: the cosine and the contextual score, each without and with the prefix.

    Raises :class:`DataError` that names the items without image or context.
    """
    found: list[Joined] = []
    for prefix in ("", PREFIX):
        results = contextual_results(items, scorer, prefix)
        cosines, contextual = zip(*((r.cosine, r.contextual_score) for r in results), strict=True)
        for values, signature in ((cosines, scorer.signature), (contextual, results[0].signature)):
            called = name + VARIANTS[len(found)]
            found.append(Joined(called, numbers(called, values), (), f"{signature}{_shown(prefix)}"))
    return found


def contextual_results(items: tuple[Item, ...], scorer: DescScorer, prefix: str = "") -> list[Score]:
    """Results of the items' texts, with ``prefix`` before each, in their contexts."""
    texts, contexts = [prefix + item.text for item in items], [item.context for item in items]
    results = scorer.score_batch(item_images(items), texts, contexts=contexts)
    pairs = zip(items, results, strict=True)
    missing = [item.key for item, result in pairs if result.contextual_score is None]
    if missing:
        raise DataError(f"no context for {len(missing)} of {len(items)} rated texts ({named(missing)})")
    return results


def _shown(prefix: str) -> str:
    return f"|prefix:{prefix.strip()}" if prefix else ""
