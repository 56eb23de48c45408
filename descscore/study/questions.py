"""The questions of a study, and the order of an annotator's steps.

The questions and the ends of their scales have the wording of Kreiss et al., Context Matters for Image
Descriptions for Accessibility (EMNLP 2022), so that answers can be compared with theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

RATING_SCALE = (1, 2, 3, 4, 5)
"""All questions are answered on this scale; 5 is the good end of each."""

NO_IMAGE, BEFORE, AFTER = "none", "before", "after"
"""Phases, in which an item is judged: without ever showing its image, before showing it, and after."""

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
    """A question of the study."""

    name: str
    text: str
    low: str
    """Meaning of the answer 1."""
    high: str
    """Meaning of the answer 5."""
    column: str
    """The question's column in the published files."""


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
"""The questions in the order in which they are asked, the overall judgment last."""


def phases_of(vision: str) -> tuple[str, ...]:
    """The phases in which an annotator of this vision group judges each item."""
    return (BEFORE, AFTER) if vision == SIGHTED else (NO_IMAGE,)


def questions_of(phase: str) -> tuple[Question, ...]:
    """The questions of a phase; after the image, imagining it is not asked."""
    return tuple(q for q in QUESTIONS if phase != AFTER or q.name != "imaginability")


@dataclass(frozen=True)
class Step:
    """One form to fill in: an item in a phase."""

    item: str
    phase: str
    place: int
    """The item's place in the annotator's order, from 1."""


@dataclass(frozen=True)
class Progress:
    """An annotator's progress: a state machine without pages, database or clock."""

    steps: tuple[Step, ...]
    """The annotator's steps in order."""
    done: frozenset[int]
    """Numbers, from 0, of the steps that have answers."""

    @classmethod
    def of(cls, vision: str, order: Sequence[str], judged: Collection[tuple[str, str]]) -> Progress:
        """The progress of an annotator.

        Args:
            vision: the annotator's vision group.
            order: the items in the annotator's order.
            judged: all (item, phase) with answers.
        """
        steps = tuple(
            Step(item, phase, place)
            for place, item in enumerate(order, start=1)
            for phase in phases_of(vision)
        )
        done = {number for number, step in enumerate(steps) if (step.item, step.phase) in judged}
        return cls(steps, frozenset(done))

    @property
    def next(self) -> int | None:
        """The first step without answers; None if all have answers."""
        return next((number for number in range(len(self.steps)) if number not in self.done), None)

    @property
    def finished_items(self) -> int:
        """Number of items with answers in all their phases."""
        open_items = {step.item for number, step in enumerate(self.steps) if number not in self.done}
        return len({step.item for step in self.steps}) - len(open_items)

    def is_fixed(self, number: int) -> bool:
        """Whether a step's answers can no longer change.

        Answers from before the image are fixed when they are saved, because then the image is shown.
        """
        return self.steps[number].phase == BEFORE and number in self.done

    def may_answer(self, number: int) -> bool:
        """Whether a step may be answered now: it is the next one, or its answers may still change."""
        if not 0 <= number < len(self.steps):
            return False
        return number == self.next or (number in self.done and not self.is_fixed(number))

    def previous(self, number: int) -> int | None:
        """The nearest earlier step whose answers may change, or None."""
        return next((n for n in reversed(range(number)) if n in self.done and self.may_answer(n)), None)
