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
    """How much one word moved its text's values; ``text`` is ``[start:end]`` of the explained text.

    tokens: how many of the model's tokens it has; 0 for a word that the model does not
    see (cut off, or dropped in cleaning), whose numbers are then all 0.
    value: part of the cosine. through: what of it flows through the purpose subspace;
    around: the rest; both None for a model without such a subspace. purpose: part of the
    log-odds of being a description, None without a read-out. leave_one_out,
    leave_one_out_purpose: what cosine and log-odds lose when the word's tokens are left out.
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

    difference: value of the text minus that of the text without words. delta: sum of the
    parts minus the difference. steps: nodes of the integral. converged: whether
    ``|delta|`` is at most max(1 % of ``|difference|``, 1e-3).
    """

    difference: float
    delta: float
    steps: int
    converged: bool


@dataclass(frozen=True)
class PurposePlace:
    """Where a text lies in the purpose subspace, along the read-out.

    log_odds: of being a description; probability: the same as 0..1 (for a text in windows,
    the mean over them). block, k: the site. above_descriptions, above_captions: per cent of
    reference descriptions and captions with lower log-odds, ties half, and their
    quantiles for a plot; None where the model keeps no reference.
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

    source: the text whose purpose it takes on, with its ``source_probability`` of being a
    description. score, cosine: of the explained text then. change: of the cosine.
    """

    source: str
    source_probability: float | None
    score: float
    cosine: float
    change: float


@dataclass(frozen=True)
class OcclusionMap:
    """What the cosine loses when a part of the image is covered, by cell of a grid.

    values: rows from top to bottom, of cells from left to right. box: the part of the
    image that the model sees, as left, top, right and bottom in fractions of its width and
    height; it reaches beyond 0..1 where the model pads. note: what the map is good for.
    """

    values: tuple[tuple[float, ...], ...]
    box: tuple[float, float, float, float]
    note: str = OCCLUSION_NOTE


@dataclass(frozen=True)
class Explanation:
    """One text's score with one image, and why.

    words: every word of the text in order. convergence: of the parts of the cosine;
    purpose_convergence: of those of the log-odds. What the model has no purpose subspace
    or read-out for, and what was not asked for, is None.
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
        explained = asdict(self)
        score = explained.pop("score")
        text = explained.pop("text")
        return {"text": text} | score | explained
