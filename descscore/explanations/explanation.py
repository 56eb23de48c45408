"""What an explanation of a score holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from descscore.records import Score

OCCLUSION_NOTE = (
    "an aid for the eye, not evidence: it shows what covering a part of the image does to the cosine, "
    "and a cover is itself something new to see"
)


@dataclass(frozen=True)
class WordParts:
    """How much one word moved its text's values.

    Attributes:
        text: the word.
        start: place of its first character in the explained text.
        end: place after its last character.
        tokens: how many of the model's tokens it has; 0 for a word that the model does not see
            (cut off, or dropped in cleaning), whose numbers are then all 0.
        value: its part of the cosine.
        through: the share of ``value`` that flows through the purpose subspace; None for a model
            without one.
        around: the rest of ``value``; None for a model without a purpose subspace.
        purpose: its part of the log-odds of being a description; None without a read-out.
        leave_one_out: what the cosine loses when the word's tokens are left out.
        leave_one_out_purpose: what the log-odds lose then; None without a read-out.
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
        steps: nodes of the integral.
        converged: whether ``|delta|`` is at most max(1 % of ``|difference|``, 1e-3).
    """

    difference: float
    delta: float
    steps: int
    converged: bool


@dataclass(frozen=True)
class PurposePlace:
    """Where a text lies in the purpose subspace, along the read-out.

    Attributes:
        log_odds: of being a description.
        probability: the same as 0..1; for a text in windows, the mean over them.
        block: the text block after which the model keeps the purpose, 0-based.
        k: dimensions of the subspace.
        above_descriptions: per cent of reference descriptions with lower log-odds, ties half;
            None where the model keeps no reference.
        above_captions: the same for reference captions.
        descriptions: ascending quantiles of the log-odds of reference descriptions; None where
            the model keeps no reference.
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
    """The text with the purpose of another text, by interchange in the subspace.

    Attributes:
        source: the other text.
        source_probability: that the other text is a description, 0..1; None without a read-out.
        score: score of the explained text with that purpose, 0..2.5.
        cosine: its cosine, -1..1.
        change: its cosine minus the cosine with its own purpose.
    """

    source: str
    source_probability: float | None
    score: float
    cosine: float
    change: float


@dataclass(frozen=True)
class OcclusionMap:
    """What the cosine loses when a part of the image is covered, by cell of a grid.

    Attributes:
        values: rows from top to bottom, of cells from left to right.
        box: the part of the image that the model sees: left, top, right and bottom in fractions
            of its width and height. It reaches beyond 0..1 where the model pads.
        note: what the map is good for.
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
        purpose_convergence: whether their parts of the log-odds add up; None without a read-out.
        purpose: where the text lies along the read-out; None without one.
        counterfactual: the text with another purpose; None where no ``source`` was given.
        occlusion: a map of the image; None where it was not asked for.
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
        """Plain JSON types: the fields of the score, then what explains it."""
        fields = asdict(self)
        return {"text": fields.pop("text")} | fields.pop("score") | fields
