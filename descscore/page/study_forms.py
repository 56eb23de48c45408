"""What the forms of a study hold: checked, and turned into answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

from descscore.page.reply import FieldError
from descscore.study.annotators import Profile, tidy_pseudonym
from descscore.study.judgments import Ratings
from descscore.study.questions import SCALE, SCREEN_READER_USE, VISION_GROUPS, questions_of

Fields: TypeAlias = Mapping[str, str]
"""The text fields of a form by name; whatever a browser sends."""


def profile_errors(fields: Fields) -> tuple[FieldError, ...]:
    """What is wrong with the form about oneself."""
    errors = []
    if fields.get("consent") != "yes":
        errors.append(FieldError("", "You have not agreed to take part. Start again from the first page."))
    if tidy_pseudonym(fields.get("pseudonym", "")) is None:
        message = (
            "Enter a pseudonym: up to 40 letters, digits, blanks, full stops or hyphens, "
            "starting with a letter or digit."
        )
        errors.append(FieldError("pseudonym", message))
    if fields.get("vision") not in VISION_GROUPS:
        errors.append(FieldError("vision", "Choose the answer that fits your vision best."))
    if fields.get("screen_reader") not in SCREEN_READER_USE:
        errors.append(FieldError("screen_reader", "Choose how often you use a screen reader."))
    return tuple(errors)


def profile_of(fields: Fields, consent: str) -> Profile:
    """The profile in a form without errors. consent: the text that was agreed to."""
    name = tidy_pseudonym(fields["pseudonym"])
    return Profile(name or "", fields["vision"], fields["screen_reader"], consent)


def answer_errors(phase: str, fields: Fields) -> tuple[FieldError, ...]:
    """Which questions of a phase lack an answer."""
    allowed = {str(value) for value in SCALE}
    return tuple(
        FieldError(question.name, f"Choose an answer from 1 to 5: {question.text}")
        for question in questions_of(phase)
        if fields.get(question.name) not in allowed
    )


def ratings_of(phase: str, fields: Fields) -> Ratings:
    """The answers in a form without errors."""
    asked = {question.name: int(fields[question.name]) for question in questions_of(phase)}
    return Ratings(**({"imaginability": None} | asked))  # type: ignore[arg-type]


def step_of(fields: Fields) -> int:
    """The number of the step that a form belongs to, -1 where it says none."""
    text = fields.get("step", "")
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text) else -1
