"""What a result means in plain words: a verdict in one or two sentences, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from descscore.explanations.explanation import Explanation, effect_levels
from descscore.records import BANDS, Comparison, Score, share

SHORT_TOKENS = 14
"""Longest text, in tokens, that may be too general; about ten words."""

MINUS = "\N{MINUS SIGN}"
_LEVELS = 4
_SIGNS = ("", "+", "+", "++", "++")


@dataclass(frozen=True)
class MarkedWord:
    """A word of the description, with its effects."""

    text: str
    value: float
    """Part of the cosine."""
    purpose: float | None
    """Part of the log-odds of being a description; None without a read-out."""
    is_read: bool
    """Whether the model reads the word; it does not read words that are cut off."""
    level: int
    """0 to 4: the word's effect on the cosine compared with the other words' effects."""

    @property
    def direction(self) -> str:
        """The direction of the word's effect on the cosine, in words."""
        if not self.is_read:
            return "not read"
        return "none" if not self.level else "raises" if self.value > 0 else "lowers"

    @property
    def follows_blank(self) -> bool:
        """Whether a blank comes before the word: it is more than a punctuation mark."""
        return any(letter.isalnum() for letter in self.text)

    @property
    def sign(self) -> str:
        """One or two plus or minus signs; blank for hardly an effect, and for punctuation."""
        marks = _SIGNS[self.level] if self.is_read and self.follows_blank else ""
        return marks if self.value > 0 else marks.replace("+", MINUS)


def marked_words(explanation: Explanation) -> tuple[MarkedWord, ...]:
    """The effect of each word on the cosine."""
    words = explanation.words
    return tuple(
        MarkedWord(word.text, word.value, word.purpose, word.tokens > 0, level)
        for word, level in zip(words, effect_levels(words, _LEVELS), strict=True)
    )


@dataclass(frozen=True)
class Result:
    """All values in the result."""

    description: str
    score: Score
    caption: str | None
    comparison: Comparison | None
    ranked: tuple[tuple[str, Score], ...]
    """Description and drafts with their scores, best first; empty without drafts."""
    words: tuple[MarkedWord, ...]
    """The description's words; empty if it is too long, and for a model that cannot be explained."""
    too_long: bool
    """Whether the description is too long to explain its words."""

    @property
    def place(self) -> int:
        """The description's place among the drafts, from 1; 0 without drafts."""
        return [text for text, _ in self.ranked].index(self.description) + 1 if self.ranked else 0

    def to_dict(self) -> dict[str, Any]:
        """The scores as plain JSON types: the description's, and with a caption or drafts also theirs."""
        return {
            **self.score.to_dict(),
            "verdict": verdict(self),
            "advice": list(advice(self)),
            "comparison": self.comparison.to_dict() if self.comparison else None,
            "drafts": [{"text": text, **score.to_dict()} for text, score in self.ranked],
        }


def fit(score: Score) -> str:
    """How well a text fits the picture, in one sentence."""
    if score.percentile is None:
        return f"Score {score.score:.2f} on a scale from 0 to 2.5."
    if score.percentile <= 0:
        return "Fits the picture worse than all comparison descriptions."
    return f"Fits the picture better than {share(score.percentile)} of comparison descriptions."


def headline(score: Score) -> str:
    """How well the description fits the picture, and how it reads."""
    reads = ""
    if score.description_probability is not None:
        reads = f" Reads like a {'description' if score.description_probability >= 0.5 else 'caption'}."
    cut = " The text was cut: its end was not read." if score.truncated else ""
    return fit(score) + reads + cut


def comparisons(result: Result) -> str:
    """How the description stands against the caption and the other drafts; blank without them."""
    parts = []
    if result.comparison:
        parts.append(_compared(result.comparison))
    if result.ranked:
        parts.append(f"Among {len(result.ranked)} drafts it is number {result.place}.")
    return " ".join(parts)


def verdict(result: Result) -> str:
    """The result in plain words, for the live region and for programs."""
    return f"{headline(result.score)} {comparisons(result)}".strip()


def _compared(comparison: Comparison) -> str:
    if comparison.preferred == "tie":
        return "Description and caption fit equally well."
    other = "caption" if comparison.description_preferred else "description"
    return f"The {comparison.preferred} fits better than the {other}."


def advice(result: Result) -> tuple[str, ...]:
    """What the writer can do next; at least one sentence."""
    score, found = result.score, []
    if score.truncated:
        found.append("Shorten the text, or put what matters first: its end was not read.")
    if score.description_probability is not None and score.description_probability < 0.5:
        found.append(
            "It reads like a caption. Say what can be seen, and leave out names, dates and background "
            "that the picture does not show."
        )
    if score.band is not None and score.band != BANDS[-1]:
        found.append(_closer(result))
    if result.place > 1:
        found.append(f"Another draft fits better: “{result.ranked[0][0]}”")
    if result.comparison and result.comparison.preferred == "caption":
        found.append("The caption fits better. Which things does it name that the description leaves out?")
    return tuple(found) or (_NOTHING,)


_NOTHING = (
    "Nothing stands out. Read the text once more as if you could not see the picture. The model checks "
    "no facts, reads no text in pictures, and knows no names."
)


def _closer(result: Result) -> str:
    if result.score.band == BANDS[0]:
        return (
            "It may name something that the picture does not show. If it is right, say more: who or what is "
            "there, how it looks, what happens, and where."
        )
    if result.score.tokens <= SHORT_TOKENS:
        return "It may be too general. Say who or what is there, how it looks, what happens, and where."
    if any(word.direction == "lowers" for word in result.words):
        return "Something may not fit the picture. Look first at the words with a minus below."
    return "Something may not fit the picture. Is everything that the text names there to be seen?"
