"""Can a score be gamed? How often a hostile text scores over the image's real description.

The hostile texts are those of :mod:`descscore.eval.attacks`. Only the other image's description depends on
the other pairs. Beside them stand figures of what a score must keep: a final full stop changes nothing, an
empty phrase is no description, and right texts score over those of other images (:class:`SanityFigure`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from descscore.errors import DataError
from descscore.eval.attacks import ATTACKS, PHRASES, UNTRAINED, Attack, Target
from descscore.eval.features import image_features, image_owner, matched_cosines
from descscore.eval.formatting import WINS, Columns, row_lines
from descscore.eval.statistics.correlation import Array
from descscore.eval.statistics.proportions import cluster_mean, proportion
from descscore.scorer import DescScorer
from descscore.tables.rows import FileImage, PreferencePair

_NAME_ENDINGS = {".jpg", ".jpeg", ".png", ".gif", ".svg", ".webp", ".bmp", ".tif", ".tiff", ".avif"}
"""Endings of the names that images have in data sets, also of kinds that nothing here can read."""


def targets(pairs: Sequence[PreferencePair], owner: Array, seed: int = 0) -> list[Target]:
    """What to attack, one a pair. owner: ``(n,)``, which image each pair shows."""
    others = other_image(owner, seed)
    bare = [without_stop(pair.description) for pair in pairs]
    return [
        Target(text, file_name(pair), None if j is None else bare[j], seed)
        for text, pair, j in zip(bare, pairs, others, strict=True)
    ]


def without_stop(text: str) -> str:
    """``text`` without a final full stop; an ellipsis stays, and so does a text of stops alone."""
    bare = text.rstrip()
    return bare[:-1] if bare.endswith(".") and not bare.endswith("..") and len(bare) > 1 else text


def file_name(pair: PreferencePair) -> str | None:
    """The image's file name without folders, None where the data do not give it."""
    if isinstance(pair.image, FileImage):
        return pair.image.path.name
    return Path(pair.id).name if Path(pair.id).suffix.lower() in _NAME_ENDINGS else None


def other_image(owner: Array, seed: int = 0) -> list[int | None]:
    """For each of ``(n,)`` pairs a pair of another image, each taken once; None where none is left.

    Pairs stand in a ring, those of one image together and the images in random order, and each
    takes the one a whole image on. None occurs only where one image has over half of the pairs.
    """
    images, place, counts = np.unique(owner, return_inverse=True, return_counts=True)
    ring = np.argsort(np.random.default_rng(seed).permutation(len(images))[place], kind="stable")
    taken = np.empty(len(ring), int)
    taken[ring] = np.roll(ring, -int(counts.max()))
    return [int(j) if owner[j] != owner[i] else None for i, j in enumerate(taken)]


Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
_Made: TypeAlias = "Sequence[str | None]"
"""One hostile text for each pair; None where none can be made."""

KINDS = ("descriptions", "captions")
LESS_BASE = ", less its base's"
"""End of the name of a figure that is a difference from the untuned base, paired by image."""

_NAMES = tuple(attack.name for attack in ATTACKS)
_PARTS = ("descriptions", "with a stop", "captions", *_NAMES)
"""The texts of each pair, in the order in which they are encoded."""
_JUDGED = {
    **{kind: kind for kind in KINDS},
    "shuffled words": "descriptions with their words shuffled",
    "nouns": "lists of a description's nouns",
}
"""The texts whose mean probability is measured, in words."""


@dataclass(frozen=True)
class SanityRow:
    """How often one attack wins."""

    metric: str
    attack: str
    what: str
    """The hostile text in words."""
    value: float | None
    """Share of pairs, 0..1, whose hostile text has a higher raw cosine with the image than the description; a
    tie is no win. None where all pairs are left out."""
    low: float | None
    """Lower end of the 95 % interval over whole images; None where there are too few images."""
    high: float | None
    """Its upper end."""
    ties: int
    n: int
    """Pairs."""
    left_out: int
    """Pairs for which no such text can be made, or only the description itself."""


@dataclass(frozen=True)
class SanityFigure:
    """One figure of what a score must keep."""

    metric: str
    figure: str
    """What is measured, in words."""
    value: float
    """A share or probability in 0..1, a difference of two shares, or a change of cosine."""
    low: float | None
    """Lower end of the 95 % interval, over whole images or over phrases; None without one."""
    high: float | None
    """Its upper end."""
    n: int
    """Number of pairs or phrases."""


@dataclass(frozen=True)
class Sanity:
    """What one model does on one set of pairs."""

    rows: list[SanityRow]
    """One an attack of :data:`descscore.eval.attacks.ATTACKS`, in that order."""
    figures: list[SanityFigure]
    """First those of the final full stop, then of the probability if the model has one, then grounding if
    there are two images. For a tuned model, grounding less that of its base follows, paired by image."""


def sanity(scorer: DescScorer, pairs: Sequence[PreferencePair], name: str) -> Sanity:
    """All attacks and figures. name: the metric's.

    Raises :class:`DataError` for no pairs, and :class:`descscore.errors.InputError` where an
    image or text cannot be scored.
    """
    if not pairs:
        raise DataError("sanity: no pairs")
    owner = image_owner(pairs)
    attacked = targets(pairs, owner)
    made = [[attack.text(target) for target in attacked] for attack in ATTACKS]
    images = image_features(scorer, [pair.image.read() for pair in pairs])
    bare = [target.description for target in attacked]
    # One call for all texts, so that those equal to the model have one feature and tie to the last bit.
    parts = [bare, [f"{text}." for text in bare], [pair.caption for pair in pairs]]
    parts += [[text or own for text, own in zip(part, bare, strict=True)] for part in made]
    encoded = scorer.encoder.texts([text for part in parts for text in part], scorer.text_policy)
    honest, stopped, captions, *hostile = encoded.features.reshape(len(parts), len(pairs), -1).unbind()
    untuned = encoded.base_features.reshape(len(parts), len(pairs), -1)
    right = matched_cosines(images, honest)
    attacks = zip(ATTACKS, made, (matched_cosines(images, part) for part in hostile), strict=True)
    rows = [_row(name, attack, right, cosines, _kept(part), owner) for attack, part, cosines in attacks]
    moves, what = np.abs(right - matched_cosines(images, stopped)), "a final full stop moves the cosine"
    figures = [
        _mean_figure(name, f"{what}: mean", moves, owner, bounded=False),
        SanityFigure(name, f"{what}: largest", float(moves.max()), None, None, len(moves)),
    ]
    if encoded.probabilities is not None:
        by_part = encoded.probabilities.double().cpu().numpy().reshape(len(parts), len(pairs))
        figures += _probability_figures(scorer, name, dict(zip(_PARTS, by_part, strict=True)), made, owner)
    if len(np.unique(owner)) > 1:
        wins = _grounding(images, (honest, captions), owner)
        figures += _grounding_figures(name, wins, owner)
        if scorer.model.tuned:
            before = _grounding(images, (untuned[0], untuned[2]), owner)
            gains = {f"{what}{LESS_BASE}": wins[what] - before[what] for what in wins}
            figures += _grounding_figures(name, gains, owner, bounded=False)
    return Sanity(rows, figures)


def _probability_figures(
    scorer: DescScorer, metric: str, by_part: dict[str, Array], made: Sequence[_Made], owner: Array
) -> list[SanityFigure]:
    """Mean probabilities of empty phrases, and of the texts of each pair: ``(n,)`` each."""
    phrases = [attack.make(Target("")) or "" for attack in PHRASES] + list(UNTRAINED)
    empty = scorer.encoder.texts(phrases, scorer.text_policy).probabilities
    assert empty is not None  # the model has a read-out
    everyone = np.ones(len(owner), bool)
    groups: dict[str, tuple[Array, Array]] = {
        "empty phrases": (empty.double().cpu().numpy(), np.arange(len(phrases), dtype=float))
    }
    for part, what in _JUDGED.items():
        keep = everyone if part in KINDS else _kept(made[_NAMES.index(part)])
        if keep.any():
            groups[what] = (by_part[part][keep], owner[keep])
    return [
        _mean_figure(metric, f"description_probability of {what}: mean", values, clusters)
        for what, (values, clusters) in groups.items()
    ]


def _mean_figure(
    metric: str, figure: str, values: Array, clusters: Array, bounded: bool = True
) -> SanityFigure:
    """The mean of ``(n,)``. bounded: whether all values lie in 0..1, and so the interval must too."""
    mean = proportion(values, clusters) if bounded else cluster_mean(values, clusters)
    return SanityFigure(metric, figure, float(values.mean()), mean.low, mean.high, len(values))


def _grounding(images: Tensor, kinds: tuple[Tensor, Tensor], owner: Array) -> dict[str, Array]:
    """Shares of other images' texts that each right text beats, ``(n,)``, by the figure's name.

    kinds: the descriptions and the captions, ``(n, embed_dim)`` each. Each kind meets both kinds.
    """
    # All cosines by one kind of product, so that equal texts tie to the last bit.
    cosines = [
        np.stack([matched_cosines(images, text.expand_as(images)) for text in kind], 1) for kind in kinds
    ]
    others = owner[:, None] != owner[None, :]
    wins = {}
    for own, right in zip(KINDS, cosines, strict=True):
        for other, rivals in zip(KINDS, cosines, strict=True):
            beaten = (right.diagonal()[:, None] > rivals) & others
            wins[f"{own} over other images' {other}"] = beaten.sum(1) / others.sum(1)
    return wins


def _grounding_figures(
    metric: str, wins: dict[str, Array], owner: Array, bounded: bool = True
) -> list[SanityFigure]:
    return [_mean_figure(metric, figure, values, owner, bounded) for figure, values in wins.items()]


def _kept(texts: _Made) -> Mask:
    return np.array([text is not None for text in texts])


def _row(metric: str, attack: Attack, honest: Array, hostile: Array, keep: Mask, owner: Array) -> SanityRow:
    wins, ties = (hostile > honest)[keep], int((hostile == honest)[keep].sum())
    left_out, owner = int((~keep).sum()), owner[keep]
    if not len(wins):
        return SanityRow(metric, attack.name, attack.what, None, None, None, 0, 0, left_out)
    single = len(np.unique(owner)) == len(owner)
    estimate = proportion(wins.astype(float), None if single else owner)
    value = float(wins.mean())
    return SanityRow(
        metric, attack.name, attack.what, value, estimate.low, estimate.high, ties, len(wins), left_out
    )


NOTES = (
    "wins: share of pairs whose hostile text has a higher cosine with the image than the description "
    "without its final full stop; a tie is no win.",
    "left out: pairs for which no such text can be made. The hostile texts:",
)


_COLUMNS: Columns = {"metric": "metric", "hostile text": "attack", **WINS, "left out": "left_out"}


_FIGURES: Columns = {
    "metric": "metric",
    "what a score must keep": "figure",
    "n": "n",
    "value": lambda row: f"{row.value:.3f}",
    "95 % interval": lambda row: "-" if row.low is None else f"{row.low:.3f} to {row.high:.3f}",
}


def sanity_lines(rows: Sequence[SanityRow], figures: Sequence[SanityFigure] = ()) -> list[str]:
    """The rows and figures as tables of text, and what the columns and attacks are."""
    attacks = {row.attack: row.what for row in rows}
    meanings = (f"{name}: {what}" for name, what in attacks.items())
    kept = [*row_lines(figures, _FIGURES, names=2), ""] if figures else []
    return [*row_lines(rows, _COLUMNS, names=2), "", *kept, *NOTES, *meanings]
