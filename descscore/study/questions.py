"""Which step of a study comes when: a state machine without pages, database or clock."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

# The questions that annotators answer, and who answers them when.
#
# Wording and ends of the scales are those of Kreiss et al., Context Matters for Image
# Descriptions for Accessibility (EMNLP 2022), so that answers can be compared with theirs.


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


@dataclass(frozen=True)
class Step:
    """One form to fill in: an item in a phase. place: of the item in the annotator's order, from 1."""

    item: str
    phase: str
    place: int


@dataclass(frozen=True)
class Progress:
    """An annotator's steps in their order, and the numbers (0-based) of those that are done."""

    steps: tuple[Step, ...]
    done: frozenset[int]

    @classmethod
    def of(cls, vision: str, order: Sequence[str], judged: Collection[tuple[str, str]]) -> Progress:
        """Steps of a vision group through ``order``. judged: the (item, phase) that have answers."""
        steps = tuple(
            Step(item, phase, place)
            for place, item in enumerate(order, start=1)
            for phase in phases_of(vision)
        )
        done = {number for number, step in enumerate(steps) if (step.item, step.phase) in judged}
        return cls(steps, frozenset(done))

    @property
    def next(self) -> int | None:
        """The first step without answers, None where all have some."""
        return next((number for number in range(len(self.steps)) if number not in self.done), None)

    @property
    def finished_items(self) -> int:
        """How many items have answers in all their phases."""
        open_items = {step.item for number, step in enumerate(self.steps) if number not in self.done}
        return len({step.item for step in self.steps}) - len(open_items)

    def is_fixed(self, number: int) -> bool:
        """Whether a step's answers can no longer change: they were to be given without the image.

        Once they are saved, the image is shown.
        """
        return self.steps[number].phase == BEFORE and number in self.done

    def may_answer(self, number: int) -> bool:
        """Whether a step may be answered, or answered anew: no step is left out, no fixed one changed."""
        if not 0 <= number < len(self.steps):
            return False
        return number == self.next or (number in self.done and not self.is_fixed(number))

    def previous(self, number: int) -> int | None:
        """The nearest earlier step whose answers may change, None where there is none."""
        return next((n for n in reversed(range(number)) if n in self.done and self.may_answer(n)), None)
