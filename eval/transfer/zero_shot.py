"""Zero-shot classification with one prompt a class: accuracy and macro-F1.

As in Zur et al. 2024 (arXiv 2406.09458): the class whose prompt has the highest cosine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from descscore.errors import DataError, UsageError
from descscore.eval.statistics.proportions import proportion
from descscore.eval.transfer.benchmarks import LabelledImages
from descscore.eval.transfer.image_features import image_features
from descscore.scorer import DescScorer

Array: TypeAlias = "np.ndarray[Any, Any]"

DEFAULT_PROMPT = "a photo of a {}"


@dataclass(frozen=True)
class ZeroShot:
    """accuracy with its 95 % interval, macro_f1: 0..1. n: images, classes: how many, prompt: the template."""

    accuracy: float
    low: float | None
    high: float | None
    macro_f1: float
    n: int
    classes: int
    prompt: str


def check_prompt(prompt: str) -> str:
    """``prompt`` itself, or a :class:`UsageError` unless it has exactly one place for the class name."""
    if prompt.count("{}") != 1:
        raise UsageError(f"prompt {prompt!r}: needs exactly one '{{}}', the place of the class name")
    return prompt


def predict(scorer: DescScorer, data: LabelledImages, prompt: str = DEFAULT_PROMPT) -> Array:
    """The class of each image, ``(n,)`` indices into ``data.names``."""
    texts = [check_prompt(prompt).format(name) for name in data.names]
    prompts = scorer.encoder.texts(texts, scorer.text_policy).features
    found: Array = (image_features(scorer, data.images) @ prompts.T).argmax(1).cpu().numpy()
    return found


def zero_shot(scorer: DescScorer, data: LabelledImages, prompt: str = DEFAULT_PROMPT) -> ZeroShot:
    """Classify all images. Raises :class:`DataError` for no images, :class:`UsageError` for a bad prompt."""
    if not len(data.labels):
        raise DataError("zero-shot: no images")
    labels = np.asarray(data.labels)
    predicted = predict(scorer, data, prompt)
    found = proportion((predicted == labels).astype(float), null=1 / max(2, len(data.names)))
    return ZeroShot(
        float((predicted == labels).mean()),
        found.low,
        found.high,
        macro_f1(labels, predicted),
        len(labels),
        len(data.names),
        prompt,
    )


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
