"""The questions of a study, from a file or those of Kreiss et al., and the order of an annotator's steps.

By default the questions and the ends of their scales have the wording of Kreiss et al., Context Matters for
Image Descriptions for Accessibility (EMNLP 2022), so that answers can be compared with theirs. A study may
have its own, in a JSON file beside its items: for ``items.csv`` it is ``items.questions.json``. It holds an
object with the list ``questions``; their keys are those of :class:`Question`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from descscore.errors import DataError, is_blank

NO_IMAGE, BEFORE, AFTER = "none", "before", "after"
"""Phases, in which an item is judged: without ever showing its image, before showing it, and after."""

SIGHTED = "sighted"
VISION_GROUPS = {"blind": "I am blind", "low_vision": "I have low vision", SIGHTED: "I am sighted"}

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

MOST_VALUES = 11
"""Most answers of a question: 0 to 10 in other scales, here 1 to 11."""

_NEEDED = ("name", "text")
_KEYS = (*_NEEDED, "low", "high", "values", "labels", "again", "column")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_COLUMN = re.compile(r"q_[A-Za-z0-9_]{1,40}")
_TAKEN = frozenset({"annotator", "step", "code", "action", "sure", "consent", "progress"})
"""Names of other fields of the page."""


def questions_path(items: Path) -> Path:
    """Where the questions of a study stand: beside its items."""
    return items.with_name(f"{items.stem}.questions.json")


def read_questions(items: Path) -> tuple[Question, ...]:
    """The questions of the study with these items; those of Kreiss et al. without a file.

    Raises:
        DataError: The file cannot be read, or a question is wrong. The message names file, question and key.
    """
    path = questions_path(items)
    if not path.exists():
        return QUESTIONS
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error})") from None
    listed = data.get("questions") if isinstance(data, dict) else None
    if not isinstance(listed, list) or not listed:
        raise DataError(f"{path}: must hold an object whose 'questions' is a list of at least one question")
    for key in data:
        if key != "questions":
            raise DataError(f"{path}: key {key!r} is unknown; the only key is 'questions'")
    questions = tuple(_Entry(path, number, entry).question() for number, entry in enumerate(listed, start=1))
    _check_together(path, questions)
    return questions


class _Entry:
    """One question of the file; errors name it."""

    def __init__(self, path: Path, number: int, entry: Any) -> None:
        self._place = f"{path}: question {number}"
        if not isinstance(entry, dict):
            raise DataError(f"{self._place}: must be an object")
        if isinstance(entry.get("name"), str):
            self._place += f" ({entry['name'][:40]!r})"
        for key in entry:
            if key not in _KEYS:
                raise DataError(f"{self._place}: key {key!r} is unknown; the keys are {', '.join(_KEYS)}")
        for key in _NEEDED:
            if key not in entry:
                raise DataError(f"{self._place}: key {key!r} is missing")
        self._entry: Mapping[str, Any] = entry

    def question(self) -> Question:
        """The question. Raises :class:`DataError`."""
        name = self._matching("name", None, _NAME, "a small letter, then small letters, digits and _")
        if name in _TAKEN:
            raise self._wrong("name", f"may not be {name!r}, which the page uses itself")
        column = self._matching("column", f"q_{name}", _COLUMN, "'q_', then letters, digits and _")
        labels = self._labels()
        low, high = (labels[0], labels[-1]) if labels else (self._text("low"), self._text("high"))
        again = self._entry.get("again", True)
        if not isinstance(again, bool):
            raise self._wrong("again", "must be true or false")
        values = len(labels) or self._values()
        return Question(name, self._text("text"), low, high, column, values, again, labels)

    def _wrong(self, key: str, reason: str) -> DataError:
        return DataError(f"{self._place}: {key!r} {reason}")

    def _text(self, key: str) -> str:
        value = self._entry.get(key)
        if not isinstance(value, str) or is_blank(value):
            raise self._wrong(key, "must be a text that is not blank")
        return value.strip()

    def _matching(self, key: str, default: str | None, pattern: re.Pattern[str], meaning: str) -> str:
        value = self._entry.get(key, default)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise self._wrong(key, f"must be {meaning}, at most 40 characters")
        return value

    def _values(self) -> int:
        value = self._entry.get("values", 5)
        if type(value) is not int or not 2 <= value <= MOST_VALUES:
            raise self._wrong("values", f"must be a whole number from 2 to {MOST_VALUES}")
        return value

    def _labels(self) -> tuple[str, ...]:
        labels = self._entry.get("labels")
        if labels is None:
            return ()
        for key in ("low", "high", "values"):
            if key in self._entry:
                raise self._wrong(key, "may not stand beside 'labels', which says it already")
        fits = isinstance(labels, list) and 2 <= len(labels) <= MOST_VALUES
        if not fits or not all(isinstance(label, str) and not is_blank(label) for label in labels):
            raise self._wrong("labels", f"must be a list of 2 to {MOST_VALUES} texts, one for each answer")
        return tuple(label.strip() for label in labels)


def _check_together(path: Path, questions: Sequence[Question]) -> None:
    for key in ("name", "column"):
        seen: dict[str, int] = {}
        for number, question in enumerate(questions, start=1):
            value = getattr(question, key)
            if seen.setdefault(value, number) != number:
                place = f"{path}: question {number} ({question.name!r})"
                raise DataError(f"{place}: {key!r} is {value!r}, as in question {seen[value]}")
    if not any(question.again for question in questions):
        raise DataError(
            f"{path}: 'again' is false in every question; sighted annotators need one after the image"
        )


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

    def may_answer(self, number: int) -> bool:
        """Whether a step may be answered now: it is the next one, or its answers may still change.

        Answers from before the image are fixed when they are saved, because then the image is shown.
        """
        if not 0 <= number < len(self.steps):
            return False
        return number == self.next or (number in self.done and self.steps[number].phase != BEFORE)

    def previous(self, number: int) -> int | None:
        """The nearest earlier step whose answers may change, or None."""
        return next((n for n in reversed(range(number)) if n in self.done and self.may_answer(n)), None)
