"""Does a model's probability that a text is a description mean what it says?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from descscore.data.pairs import Pair
from descscore.eval.pairs.preference import image_owner
from descscore.eval.statistics.proportions import cluster_mean
from descscore.eval.statistics.reliability_curve import Bin, brier_score, log_losses, reliability_curve
from descscore.scorer import DescScorer

GUESSING = math.log(2)
"""Log-loss of always saying one half: half of the texts are descriptions."""


@dataclass(frozen=True)
class ProbabilityRow:
    """One model's probabilities on the descriptions and captions of one data set.

    log_loss: mean, in nats, with its 95 % interval (over whole images); guessing: that
    of always saying one half. brier: mean squared error, 0..1. texts: how many, half
    of them descriptions. bins: the reliability curve.
    """

    model: str
    log_loss: float
    low: float | None
    high: float | None
    guessing: float
    brier: float
    texts: int
    images: int
    bins: tuple[Bin, ...]


def probability_row(scorer: DescScorer, pairs: Sequence[Pair], name: str) -> ProbabilityRow | None:
    """Measure ``description_probability`` on all texts of ``pairs``; None for a model without a read-out."""
    texts = [pair.description for pair in pairs] + [pair.caption for pair in pairs]
    probabilities = scorer.encoder.texts(texts, scorer.text_policy).probabilities
    if probabilities is None:
        return None
    chance = probabilities.double().cpu().numpy()
    labels = np.repeat([1.0, 0.0], len(pairs))
    owner = np.tile(image_owner(pairs), 2)
    loss = cluster_mean(log_losses(labels, chance), owner, null=GUESSING)
    return ProbabilityRow(
        model=name,
        log_loss=float(log_losses(labels, chance).mean()),
        low=loss.low,
        high=loss.high,
        guessing=GUESSING,
        brier=brier_score(labels, chance),
        texts=len(texts),
        images=len(np.unique(owner)),
        bins=tuple(reliability_curve(labels, chance, owner)),
    )
