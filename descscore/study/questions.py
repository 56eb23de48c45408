"""The questions that annotators answer, and who answers them when.

Wording and ends of the scales are those of Kreiss et al., Context Matters for Image
Descriptions for Accessibility (EMNLP 2022), so that answers can be compared with theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

SCALE = (1, 2, 3, 4, 5)
"""All questions are answered on this scale; 5 is the good end of each."""

NO_IMAGE, BEFORE, AFTER = "none", "before", "after"
PHASES = (NO_IMAGE, BEFORE, AFTER)
"""When an item is judged: never with its image, or before and then after the image is shown."""

BLIND, LOW_VISION, SIGHTED = "blind", "low_vision", "sighted"
VISION_GROUPS = {
    BLIND: "I am blind",
    LOW_VISION: "I have low vision",
    SIGHTED: "I am sighted",
}

SCREEN_READER_USE = {
    "always": "Always or nearly always",
    "often": "Often",
    "sometimes": "Sometimes",
    "rarely": "Rarely",
    "never": "Never",
}


@dataclass(frozen=True)
class Question:
    """One question. low, high: the wording of 1 and of 5. column: its name in the published files."""

    name: str
    text: str
    low: str
    high: str
    column: str


QUESTIONS = (
    Question(
        "imaginability",
        "How well can you imagine this image in your mind?",
        "Not well",
        "Very well",
        "q_reconstructivity",
    ),
    Question(
        "relevance",
        "How well does the description capture the relevant aspects of the image?",
        "Not well",
        "Very well",
        "q_relevance",
    ),
    Question(
        "irrelevance",
        "Does the description mention too much irrelevant information for accessibility needs?",
        "Too much",
        "Not too much",
        "q_irrelevance",
    ),
    Question(
        "overall",
        "For accessibility, how good is the description overall?",
        "Not good",
        "Very good",
        "q_overall",
    ),
)
"""In the order in which they are asked, the overall judgment last."""


def phases_of(vision: str) -> tuple[str, ...]:
    """In which phases somebody of this vision group judges each item."""
    return (BEFORE, AFTER) if vision == SIGHTED else (NO_IMAGE,)


def questions_of(phase: str) -> tuple[Question, ...]:
    """The questions of a phase: imagining an image is not asked once it has been seen."""
    return tuple(q for q in QUESTIONS if phase != AFTER or q.name != "imaginability")
