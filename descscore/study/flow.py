"""Which step of a study comes when: a state machine without pages, database or clock."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from descscore.study.questions import BEFORE, phases_of


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
