"""The data classes of an explanation."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from descscore.errors import shown
from descscore.explanations.occlusion import OcclusionMap
from descscore.records import Score, html_table


@dataclass(frozen=True)
class WordParts:
    """The effects of one word on its text's values."""

    text: str
    """The word."""
    start: int
    """Position of its first character in the explained text."""
    end: int
    """Position after its last character."""
    tokens: int
    """Number of its tokens. 0 for a word that the model does not see (cut off, or dropped in cleaning); all
    its numbers are then 0."""
    value: float
    """Its part of the cosine."""
    through: float | None
    """The part of ``value`` that flows through the purpose subspace; may have the other sign. None for a
    model without one."""
    around: float | None
    """The rest of ``value``; None for a model without a purpose subspace."""
    purpose: float | None
    """Its part of the log-odds of being a description; None without a read-out."""
    leave_one_out: float
    """Loss of cosine without the word's tokens."""
    leave_one_out_purpose: float | None
    """Loss of log-odds without them; None without a read-out."""


@dataclass(frozen=True)
class Convergence:
    """Whether the words' parts add up."""

    difference: float
    """Value of the text minus that of the text without words."""
    delta: float
    """Sum of the parts minus the difference."""
    steps: int
    """Number of nodes of the integral."""
    converged: bool
    """Whether ``|delta|`` is at most max(1 % of ``|difference|``, 1e-3)."""


@dataclass(frozen=True)
class TextPurpose:
    """The purpose read-out of a text."""

    log_odds: float
    """Log-odds of being a description."""
    probability: float
    """Probability of being a description, 0..1; the mean over a text's windows."""
    block: int
    """The text block (0-based) after which the purpose is read."""
    k: int
    """Dimensions of the subspace."""


@dataclass(frozen=True)
class Counterfactual:
    """The explained text with the purpose of another text, by interchange in the subspace."""

    source: str
    """The other text."""
    source_probability: float | None
    """Probability that the other text is a description, 0..1; None without a read-out."""
    score: float
    """Score of the explained text with the other purpose, 0..2.5."""
    cosine: float
    """Its cosine with the other purpose, -1..1."""
    change: float
    """This cosine minus the cosine with its own purpose."""


@dataclass(frozen=True, repr=False)
class Explanation:
    """One text's score with one image, and why."""

    text: str
    """The explained text."""
    score: Score
    """The score, as :class:`descscore.DescScorer` gives it."""
    words: tuple[WordParts, ...]
    """Every word of the text in order."""
    convergence: Convergence
    """Whether the words' parts of the cosine add up."""
    purpose_convergence: Convergence | None
    """Whether the words' parts of the log-odds add up; None without a read-out."""
    purpose: TextPurpose | None
    """The text's purpose read-out; None without one."""
    counterfactual: Counterfactual | None = None
    """The text with another purpose; None without a ``source``."""
    occlusion: OcclusionMap | None = None
    """The occlusion map of the image; None unless it was wanted."""

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 18 else self.text[:17] + "\u2026"
        raised = shown(", ".join(word.text for word in strongest_words(self.words)[0]))
        effect = f"raised most by {raised}" if raised else "raised by no word"
        return f"Explanation({text!r}, score {self.score.score:.3f}, {len(self.words)} words; {effect})"

    def _repr_html_(self) -> str:
        columns = {"Cosine": "value", "Purpose": "purpose", "Cosine, word left out": "leave_one_out"}
        columns = {k: v for k, v in columns.items() if any(getattr(w, v) is not None for w in self.words)}
        rows = [
            (
                word.text,
                *(f"{getattr(word, key):+.4f}" if word.tokens else "not seen" for key in columns.values()),
            )
            for word in self.words
        ]
        return html_table(repr(self), ("Word", *columns), rows)

    def to_dict(self) -> dict[str, Any]:
        """The explanation as plain JSON types: the text, the fields of the score, then all other fields."""
        fields = asdict(self)
        return {"text": fields.pop("text")} | fields.pop("score") | fields


def strongest_words(
    words: Sequence[WordParts], key: str = "value", count: int = 3
) -> tuple[list[WordParts], list[WordParts]]:
    """The words that raise ``key`` most, and those that lower it most, strongest first. No signs."""
    real = [word for word in words if word.tokens and not _is_sign(word.text)]
    ordered = sorted(real, key=lambda word: -getattr(word, key))
    up = [word for word in ordered if getattr(word, key) > 0]
    down = [word for word in reversed(ordered) if getattr(word, key) < 0]
    return up[:count], down[:count]


def _is_sign(word: str) -> bool:
    """Whether a word is punctuation, or signs as of mathematics; an emoji is a word."""
    kinds = {unicodedata.category(character) for character in word}
    return all(kind.startswith("P") or kind in ("Sm", "Sk", "Sc") for kind in kinds)


def effect_levels(words: Sequence[WordParts], most: int) -> list[int]:
    """The strength of each word's effect on the cosine, from 0 to ``most`` for the strongest one."""
    largest = max((abs(word.value) for word in words), default=0.0) or 1.0
    return [round(abs(word.value) / largest * most) for word in words]
