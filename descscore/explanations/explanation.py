"""The data classes of an explanation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from descscore.records import Score

OCCLUSION_NOTE = (
    "an aid for the eye, not evidence: it shows how covers change the cosine, and a cover is itself a new "
    "thing in the image"
)


@dataclass(frozen=True)
class WordParts:
    """The effects of one word on its text's values.

    Attributes:
        text: the word.
        start: position of its first character in the explained text.
        end: position after its last character.
        tokens: number of its tokens. 0 for a word that the model does not see (cut off, or dropped in
            cleaning); all its numbers are then 0.
        value: its part of the cosine.
        through: the share of ``value`` that flows through the purpose subspace; None for a model
            without one.
        around: the rest of ``value``; None for a model without a purpose subspace.
        purpose: its part of the log-odds of being a description; None without a read-out.
        leave_one_out: loss of cosine without the word's tokens.
        leave_one_out_purpose: loss of log-odds without them; None without a read-out.
    """

    text: str
    start: int
    end: int
    tokens: int
    value: float
    through: float | None
    around: float | None
    purpose: float | None
    leave_one_out: float
    leave_one_out_purpose: float | None


@dataclass(frozen=True)
class Convergence:
    """Whether the words' parts add up.

    Attributes:
        difference: value of the text minus that of the text without words.
        delta: sum of the parts minus the difference.
        steps: number of nodes of the integral.
        converged: whether ``|delta|`` is at most max(1 % of ``|difference|``, 1e-3).
    """

    difference: float
    delta: float
    steps: int
    converged: bool


@dataclass(frozen=True)
class PurposePlace:
    """The purpose read-out of a text, compared with reference texts.

    Attributes:
        log_odds: log-odds of being a description.
        probability: probability of being a description, 0..1; the mean over a text's windows.
        block: the text block (0-based) after which the purpose is read.
        k: dimensions of the subspace.
        above_descriptions: per cent of reference descriptions with lower log-odds, ties half;
            None for a model without reference texts.
        above_captions: the same for reference captions.
        descriptions: ascending quantiles of the log-odds of reference descriptions; None for a model
            without reference texts.
        captions: the same for reference captions.
    """

    log_odds: float
    probability: float
    block: int
    k: int
    above_descriptions: float | None
    above_captions: float | None
    descriptions: tuple[float, ...] | None
    captions: tuple[float, ...] | None


@dataclass(frozen=True)
class Counterfactual:
    """The explained text with the purpose of another text, by interchange in the subspace.

    Attributes:
        source: the other text.
        source_probability: probability that the other text is a description, 0..1; None without a
            read-out.
        score: score of the explained text with the other purpose, 0..2.5.
        cosine: its cosine with the other purpose, -1..1.
        change: this cosine minus the cosine with its own purpose.
    """

    source: str
    source_probability: float | None
    score: float
    cosine: float
    change: float


@dataclass(frozen=True)
class OcclusionMap:
    """The loss of cosine when a part of the image is covered, by cell of a grid.

    Attributes:
        values: rows of cells; rows from top to bottom, cells from left to right.
        box: the part of the image that the model sees: left, top, right and bottom in fractions
            of the image's width and height. It reaches beyond 0..1 if the model pads.
        note: a warning about the use of the map.
    """

    values: tuple[tuple[float, ...], ...]
    box: tuple[float, float, float, float]
    note: str = OCCLUSION_NOTE


@dataclass(frozen=True)
class Explanation:
    """One text's score with one image, and why.

    Attributes:
        text: the explained text.
        score: the score, as :class:`descscore.DescScorer` gives it.
        words: every word of the text in order.
        convergence: whether the words' parts of the cosine add up.
        purpose_convergence: whether the words' parts of the log-odds add up; None without a read-out.
        purpose: the text's purpose read-out; None without one.
        counterfactual: the text with another purpose; None without a ``source``.
        occlusion: the occlusion map of the image; None unless it was wanted.
    """

    text: str
    score: Score
    words: tuple[WordParts, ...]
    convergence: Convergence
    purpose_convergence: Convergence | None
    purpose: PurposePlace | None
    counterfactual: Counterfactual | None = None
    occlusion: OcclusionMap | None = None

    def to_dict(self) -> dict[str, Any]:
        """The explanation as plain JSON types: the text, the fields of the score, then all other fields."""
        fields = asdict(self)
        return {"text": fields.pop("text")} | fields.pop("score") | fields


def effect_levels(words: Sequence[WordParts], most: int) -> list[int]:
    """The strength of each word's effect on the cosine, from 0 to ``most`` for the strongest one."""
    largest = max((abs(word.value) for word in words), default=0.0) or 1.0
    return [round(abs(word.value) / largest * most) for word in words]
