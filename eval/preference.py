"""The published CLIPScore of the 300 Concadia pairs (Kreiss et al. 2022), joined with the pairs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from descscore.errors import DataError
from descscore.eval.ratings import named, read_rows, text_key
from descscore.eval.statistics.correlation import Array
from descscore.eval.statistics.proportions import (
    Bin,
    brier_score,
    cluster_mean,
    log_losses,
    proportion,
    reliability_curve,
)
from descscore.eval.statistics.retrieval import grounding_over_texts
from descscore.eval.zero_shot import image_features
from descscore.scorer import DescScorer
from descscore.tables.rows import PreferencePair

# How often a score prefers the description to the caption, and to other images' descriptions.
#
# The first alone can be had by a text-only style classifier, the second by any
# image-text matcher; a score that stands in for alt text quality needs both.


OTHERS = 20
SEED = 0
QUARTILES = 4


@dataclass(frozen=True)
class PreferenceRow:
    """One share of wins. metric: model or baseline. question: ``caption`` (description over
    caption) or ``other`` (over other images' descriptions). subset: all, or a quartile by the
    description's length. value with its 95 % interval (over whole images), 0..1; ties
    count against. n: pairs.
    """

    metric: str
    question: str
    subset: str
    value: float
    low: float | None
    high: float | None
    ties: int
    n: int


@dataclass(frozen=True)
class PairScores:
    """What one metric says of n pairs.

    description, caption: ``(n,)`` scores. over_others: ``(n,)`` shares of other images'
    descriptions that the right one beats; None for a metric that sees no image.
    """

    metric: str
    description: Array
    caption: Array
    over_others: Array | None


def model_pair_scores(scorer: DescScorer, pairs: Sequence[PreferencePair], name: str) -> PairScores:
    """Raw cosines of each image with its description and caption, and grounding against 20 other images."""
    images = image_features(scorer, [pair.image.read() for pair in pairs])
    # One call for both, so that equal texts have one feature and tie to the last bit.
    texts = [pair.description for pair in pairs] + [pair.caption for pair in pairs]
    features = scorer.encoder.texts(texts, scorer.text_policy).features
    description, caption = torch.split(features, len(pairs))
    cosines = [(images.double() * text.double()).sum(1).cpu().numpy() for text in (description, caption)]
    others = grounding_over_texts(images, description, OTHERS, SEED).cpu().numpy() if len(pairs) > 1 else None
    return PairScores(name, cosines[0], cosines[1], others)


def length_pair_scores(pairs: Sequence[PreferencePair]) -> PairScores:
    """The rule "longer wins", by characters."""
    lengths = [np.array([len(getattr(p, kind)) for p in pairs], float) for kind in ("description", "caption")]
    return PairScores("longer wins", lengths[0], lengths[1], None)


def ngram_pair_scores(train: Sequence[PreferencePair], pairs: Sequence[PreferencePair]) -> PairScores:
    """A text-only classifier of descriptions and captions: word 1- and 2-grams, logistic regression.

    It never sees an image, so what it reaches is what style alone gives away.
    Raises :class:`DataError` where scikit-learn is missing.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    except ImportError:
        raise DataError("the n-gram baseline needs scikit-learn: pip install scikit-learn") from None
    texts = [p.description for p in train] + [p.caption for p in train]
    kinds = [1] * len(train) + [0] * len(train)
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        LogisticRegression(C=10, max_iter=1000),
    )
    model.fit(texts, kinds)
    found = [
        model.decision_function([getattr(p, kind) for p in pairs]) for kind in ("description", "caption")
    ]
    return PairScores("text-only n-grams", found[0], found[1], None)


def image_owner(pairs: Sequence[PreferencePair]) -> Array:
    """Which image each pair shows, by content: ``(n,)`` ints, equal for the same bytes."""
    place: dict[bytes, int] = {}
    digests = [hashlib.sha256(pair.image.read()).digest() for pair in pairs]
    return np.array([place.setdefault(digest, len(place)) for digest in digests])


def preference_rows(scores: PairScores, pairs: Sequence[PreferencePair], owner: Array) -> list[PreferenceRow]:
    """Shares of wins: over the caption (all, and by length quartile), and over other images' descriptions.

    owner: ``(n,)`` from :func:`image_owner`, the same for every metric.
    """
    hits, ties = scores.description > scores.caption, scores.description == scores.caption
    rows = [_row(scores.metric, "caption", "all", hits.astype(float), ties, owner)]
    for label, keep in _quartiles(np.array([len(p.description) for p in pairs])):
        rows.append(_row(scores.metric, "caption", label, hits[keep].astype(float), ties[keep], owner[keep]))
    if scores.over_others is not None:
        none = np.zeros(len(pairs), bool)
        rows.append(_row(scores.metric, "other", "all", scores.over_others, none, owner))
    return rows


def _quartiles(lengths: Array) -> list[tuple[str, Array]]:
    """Masks of the quartiles by description length, named by their ends in characters."""
    ends = np.quantile(lengths, [0.25, 0.5, 0.75])
    place = np.searchsorted(ends, lengths, side="left")
    found = []
    for quartile in range(QUARTILES):
        keep = place == quartile
        if keep.any():
            found.append((f"{lengths[keep].min()} to {lengths[keep].max()} characters", keep))
    return found


def _row(metric: str, question: str, subset: str, wins: Array, ties: Array, owner: Array) -> PreferenceRow:
    # Wilson's interval takes each value for one trial; a share of 20 wins varies less than that.
    single = len(np.unique(owner)) == len(owner) and bool(np.isin(wins, (0, 1)).all())
    found = proportion(wins, None if single else owner)
    return PreferenceRow(
        metric, question, subset, float(wins.mean()), found.low, found.high, int(ties.sum()), len(wins)
    )


_FORMAT = "{:<24} {:<18} {:<24} {:>5} {:>7}  {:<16} {:>5}"


def preference_lines(rows: Sequence[PreferenceRow]) -> list[str]:
    """The rows as lines of text, in per cent."""
    head = _FORMAT.format("metric", "description over", "pairs", "n", "wins", "95 % interval", "ties")
    lines = [head, "-" * len(head)]
    for row in rows:
        over = {"caption": "its caption", "other": f"{OTHERS} others'"}[row.question]
        between = "-" if row.low is None else f"{100 * row.low:.1f} to {100 * (row.high or 0):.1f}"
        wins = f"{100 * row.value:.1f}%"
        lines.append(_FORMAT.format(row.metric, over, row.subset, row.n, wins, between, row.ties))
    return lines


def to_json(rows: Sequence[PreferenceRow], signatures: Sequence[str]) -> dict[str, Any]:
    """Rows and signatures as plain JSON types."""
    return {"rows": [asdict(row) for row in rows], "signatures": list(signatures)}


# Does a model's probability that a text is a description mean what it says?


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


def probability_row(scorer: DescScorer, pairs: Sequence[PreferencePair], name: str) -> ProbabilityRow | None:
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


FILES = {
    "description": "published_clipscore_concadia_descriptions.csv",
    "caption": "published_clipscore_concadia_captions.csv",
}
NAME = "CLIPScore"


def published_pair_scores(folder: Path, pairs: Sequence[PreferencePair]) -> PairScores:
    """CLIPScore of OpenAI's ViT-B/32, computed with the prefix "A photo depicts".

    folder: holds :data:`FILES`. There are no scores of other images' descriptions.
    Raises :class:`DataError` that names pairs without a score or with another text.
    """
    description, caption = (_scores(folder / file, pairs, kind) for kind, file in FILES.items())
    return PairScores(NAME, description, caption, None)


def _scores(path: Path, pairs: Sequence[PreferencePair], kind: str) -> Array:
    """The score of each pair's text of that kind: ``(n,)``."""
    known: dict[tuple[str, str], float] = {}
    for row in read_rows(path, ("imgstem_version", "texts", "clipscore")):
        value = row.number("clipscore")
        if value is None:
            raise DataError(f"{row.place}: clipscore is blank")
        known[row["imgstem_version"], text_key(row["texts"])] = value
    keys = [(Path(pair.id).stem, text_key(getattr(pair, kind))) for pair in pairs]
    missing = [stem for stem, text in keys if (stem, text) not in known]
    if missing:
        raise DataError(
            f"{path}: no score of the {kind} of {len(missing)} of {len(pairs)} pairs, {named(missing)}"
        )
    return np.array([known[key] for key in keys])
