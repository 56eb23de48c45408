"""How often a score prefers the description to the caption, and to other images' descriptions.

A classifier of style can do the first without the image; any matcher of images and texts can do the
second. A score that measures the quality of alt text needs both.

Also here: whether a model's probability that a text is a description means what it says, and the
published CLIPScore of the 300 Concadia pairs (Kreiss et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from descscore.errors import DataError
from descscore.eval.features import image_features, image_owner, matched_cosines
from descscore.eval.formatting import WINS, Columns, counted, row_lines
from descscore.eval.ratings import number_in, place, read_rows, text_key
from descscore.eval.statistics.correlation import Array
from descscore.eval.statistics.proportions import (
    Bin,
    brier_score,
    cluster_mean,
    log_losses,
    proportion,
    reliability_curve,
)
from descscore.eval.statistics.retrieval import count_others, grounding_over_texts
from descscore.scorer import DescScorer
from descscore.tables.cells import named
from descscore.tables.rows import PreferencePair

QUARTILES = 4

LENGTH, NGRAMS = "longer wins", "text-only n-grams"
"""Names of the two baselines, which do not see the image."""


@dataclass(frozen=True)
class PreferenceRow:
    """One share of wins."""

    metric: str
    """Model or baseline."""
    question: str
    """``caption`` (description over caption) or ``other`` (over other images' descriptions)."""
    subset: str
    """All, or a quartile by the description's length."""
    value: float
    """Share of pairs, 0..1, that the description wins; a tie is not a win."""
    low: float | None
    """Lower end of the 95 % interval over whole images."""
    high: float | None
    """Its upper end."""
    ties: int
    n: int
    """Pairs."""
    others: int | None
    """How many descriptions of other images each is compared with; None for ``caption``."""


@dataclass(frozen=True)
class PairScores:
    """One metric's scores of n pairs."""

    metric: str
    description: Array
    """Scores of the descriptions, ``(n,)``."""
    caption: Array
    """Scores of the captions, ``(n,)``."""
    over_others: Array | None
    """Shares of other images' descriptions that the right one beats, ``(n,)``; None for a metric that
    sees no image."""


def model_pair_scores(
    scorer: DescScorer, pairs: Sequence[PreferencePair], owner: Array, name: str
) -> PairScores:
    """Raw cosines of each image with its description and caption, and grounding against other images.

    owner: ``(n,)`` from :func:`image_owner`. Descriptions of one image are no rivals.
    """
    images = image_features(scorer, [pair.image.read() for pair in pairs])
    # One call for both, so that equal texts have one feature and tie to the last bit.
    texts = [pair.description for pair in pairs] + [pair.caption for pair in pairs]
    features = scorer.encoder.texts(texts, scorer.text_policy).features
    description, caption = torch.split(features, len(pairs))
    wins = grounding_over_texts(images, description, owner).cpu().numpy() if count_others(owner) else None
    return PairScores(name, matched_cosines(images, description), matched_cosines(images, caption), wins)


def length_pair_scores(pairs: Sequence[PreferencePair]) -> PairScores:
    """The rule "longer wins", by characters."""
    lengths = [np.array([len(getattr(p, kind)) for p in pairs], float) for kind in ("description", "caption")]
    return PairScores(LENGTH, lengths[0], lengths[1], None)


def ngram_pair_scores(train: Sequence[PreferencePair], pairs: Sequence[PreferencePair]) -> PairScores:
    """A text-only classifier of descriptions and captions: word 1- and 2-grams, logistic regression.

    It never sees an image, so its result shows how much style alone reveals.
    Raises :class:`DataError` if scikit-learn is missing.
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
    decisions = [
        model.decision_function([getattr(p, kind) for p in pairs]) for kind in ("description", "caption")
    ]
    return PairScores(NGRAMS, decisions[0], decisions[1], None)


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
    quartiles = []
    for quartile in range(QUARTILES):
        keep = place == quartile
        if keep.any():
            quartiles.append((f"{lengths[keep].min()} to {lengths[keep].max()} characters", keep))
    return quartiles


def _row(metric: str, question: str, subset: str, wins: Array, ties: Array, owner: Array) -> PreferenceRow:
    # Wilson's interval takes each value for one trial; a share of 20 wins varies less than that.
    single = len(np.unique(owner)) == len(owner) and bool(np.isin(wins, (0, 1)).all())
    estimate = proportion(wins, None if single else owner)
    return PreferenceRow(
        metric,
        question,
        subset,
        float(wins.mean()),
        estimate.low,
        estimate.high,
        int(ties.sum()),
        len(wins),
        count_others(owner) if question == "other" else None,
    )


_COLUMNS: Columns = {
    "metric": "metric",
    "description over": lambda row: (
        "its caption" if row.question == "caption" else f"other images' ({row.others})"
    ),
    "pairs": "subset",
    **WINS,
}


def preference_lines(rows: Sequence[PreferenceRow]) -> list[str]:
    """The rows as a table of text, in per cent, and what its columns mean."""
    notes = [
        "wins: share of pairs whose description has the higher score; a tie is not a win. Chance is 50 %."
    ]
    for count in dict.fromkeys(row.others for row in rows if row.others is not None):
        notes.append(
            f"other images' ({count}): {counted(count, 'description')} of other images. A text-only "
            "style classifier beats captions, and any image-text matcher beats these; a score of "
            "description quality must do both."
        )
    metrics = {row.metric for row in rows}
    if LENGTH in metrics:
        notes.append(f"{LENGTH}: prefers the longer text. It does not see the image.")
    if NGRAMS in metrics:
        notes.append(f"{NGRAMS}: a classifier of single words and word pairs. It does not see the image.")
    return [*row_lines(rows, _COLUMNS, names=3), "", *notes]


GUESSING = math.log(2)
"""Log-loss of always saying one half: half of the texts are descriptions."""


@dataclass(frozen=True)
class ProbabilityRow:
    """One model's probabilities on the descriptions and captions of one data set."""

    model: str
    log_loss: float
    """Mean, in nats."""
    low: float | None
    """Lower end of its 95 % interval over whole images."""
    high: float | None
    """Its upper end."""
    guessing: float
    """The log-loss of always saying one half."""
    brier: float
    """Mean squared error, 0..1."""
    texts: int
    """How many; half of them are descriptions."""
    images: int
    bins: tuple[Bin, ...]
    """The reliability curve."""


def probability_row(scorer: DescScorer, pairs: Sequence[PreferencePair], name: str) -> ProbabilityRow | None:
    """Measure ``description_probability`` on all texts of ``pairs``; None for a model without a read-out."""
    texts = [pair.description for pair in pairs] + [pair.caption for pair in pairs]
    probabilities = scorer.encoder.texts(texts, scorer.text_policy).probabilities
    if probabilities is None:
        return None
    chance = probabilities.double().cpu().numpy()
    labels = np.repeat([1.0, 0.0], len(pairs))
    owner = np.tile(image_owner(pairs), 2)
    loss = cluster_mean(log_losses(labels, chance), owner)
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


PUBLISHED_FILES = {
    "description": "published_clipscore_concadia_descriptions.csv",
    "caption": "published_clipscore_concadia_captions.csv",
}


def published_pair_scores(folder: Path, pairs: Sequence[PreferencePair]) -> PairScores:
    """CLIPScore of OpenAI's ViT-B/32, computed with the prefix "A photo depicts".

    folder: holds :data:`PUBLISHED_FILES`. There are no scores of other images' descriptions.
    Raises :class:`DataError` that names pairs without a score or with another text.
    """
    description, caption = (
        _published_scores(folder / file, pairs, kind) for kind, file in PUBLISHED_FILES.items()
    )
    return PairScores("CLIPScore", description, caption, None)


def _published_scores(path: Path, pairs: Sequence[PreferencePair], kind: str) -> Array:
    """The score of each pair's text of that kind: ``(n,)``."""
    known: dict[tuple[str, str], float] = {}
    for row in read_rows(path, ("imgstem_version", "texts", "clipscore")):
        value = number_in(row, "clipscore")
        if value is None:
            raise DataError(f"{place(row)}: clipscore is blank")
        known[row.cells["imgstem_version"], text_key(row.cells["texts"])] = value
    keys = [(Path(pair.id).stem, text_key(getattr(pair, kind))) for pair in pairs]
    missing = [stem for stem, text in keys if (stem, text) not in known]
    if missing:
        raise DataError(
            f"{path}: no score of the {kind} of {len(missing)} of {len(pairs)} pairs, {named(missing)}"
        )
    return np.array([known[key] for key in keys])
