"""The questions of a study, and the order of an annotator's steps.

By default the questions and the ends of their scales have the wording of Kreiss et al., Context Matters for
Image Descriptions for Accessibility (EMNLP 2022), so that answers can be compared with theirs. A study may
have others (:mod:`descscore.study.question_file`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

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
    """Meaning of the lowest answer, 1."""
    high: str
    """Meaning of the highest answer."""
    column: str
    """The question's column in the exported files."""
    values: int = 5
    """Number of answers: they are 1 to this."""
    again: bool = True
    """Whether sighted annotators answer it again after the image."""
    labels: tuple[str, ...] = ()
    """Meaning of every answer; empty if only the ends have one."""

    @property
    def options(self) -> tuple[tuple[int, str], ...]:
        """The answers with what the page calls them."""
        names = dict(enumerate(self.labels, start=1)) or {1: self.low, self.values: self.high}
        scale = range(1, self.values + 1)
        return tuple((value, f"{value}, {names[value]}" if value in names else str(value)) for value in scale)


QUESTIONS = (
    Question(
        "imaginability",
        "How well can you imagine this image in your mind?",
        "Not well",
        "Very well",
        "q_reconstructivity",
        again=False,
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
"""The questions of Kreiss et al. in the order in which they are asked, the overall judgment last. On their
scale of 1 to 5, 5 is the good end of each."""


def phases_of(vision: str) -> tuple[str, ...]:
    """The phases in which an annotator of this vision group judges each item."""
    return (BEFORE, AFTER) if vision == SIGHTED else (NO_IMAGE,)


def questions_of(phase: str, questions: Sequence[Question] = QUESTIONS) -> tuple[Question, ...]:
    """The questions of a phase; after the image, some are not asked again."""
    return tuple(question for question in questions if phase != AFTER or question.again)


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
