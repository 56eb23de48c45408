"""Who judges: what they say of themselves, and the codes by which they come back."""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from dataclasses import dataclass

from descscore.errors import UsageError
from descscore.study.questions import SCREEN_READER_USE, VISION_GROUPS

_CODE_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that look or sound alike when written down
_CODE_LENGTH = 16
_CODE = re.compile(rf"[{_CODE_LETTERS}]{{{_CODE_LENGTH}}}")
_LONGEST_PSEUDONYM = 40


class PseudonymTaken(UsageError):
    """Somebody in this study already has that pseudonym."""


@dataclass(frozen=True)
class Profile:
    """What an annotator says at the start.

    vision: a key of :data:`descscore.study.questions.VISION_GROUPS`; screen_reader: one of
    :data:`descscore.study.questions.SCREEN_READER_USE`. consent: the text they agreed to.
    """

    pseudonym: str
    vision: str
    screen_reader: str
    consent: str

    def __post_init__(self) -> None:
        if not self.pseudonym.strip():
            raise UsageError("pseudonym: is blank")
        if self.vision not in VISION_GROUPS:
            raise UsageError(f"vision {self.vision!r}: choose one of {', '.join(VISION_GROUPS)}")
        if self.screen_reader not in SCREEN_READER_USE:
            raise UsageError(
                f"screen_reader {self.screen_reader!r}: choose one of {', '.join(SCREEN_READER_USE)}"
            )


@dataclass(frozen=True)
class Annotator:
    """Somebody who judges; ``number`` is never given to another, not even after deletion."""

    number: int
    pseudonym: str
    vision: str


def tidy_pseudonym(text: str) -> str | None:
    """``text`` as a pseudonym, with blanks made one each; None for what cannot be one.

    1 to 40 letters (with their marks, as many scripts have them), digits, blanks, full stops,
    hyphens and underscores, the first a letter or a digit: no formula in a spreadsheet starts so.
    """
    name = unicodedata.normalize("NFC", " ".join(text.split()))
    kinds = [unicodedata.category(letter)[0] for letter in name]
    if not name or len(name) > _LONGEST_PSEUDONYM or kinds[0] not in "LN":
        return None
    fine = all(kind in "LMN" or letter in " .-_" for kind, letter in zip(kinds, name, strict=True))
    return name if fine else None


def pseudonym_key(pseudonym: str) -> str:
    """What makes two pseudonyms the same: capitals, widths and blanks do not tell them apart."""
    return " ".join(unicodedata.normalize("NFKC", pseudonym).casefold().split())


def new_code() -> str:
    """A random resume code in four groups, to be written down: 79 bits."""
    letters = "".join(secrets.choice(_CODE_LETTERS) for _ in range(_CODE_LENGTH))
    return "-".join(letters[at : at + 4] for at in range(0, _CODE_LENGTH, 4))


def is_code(text: str) -> bool:
    """Whether ``text`` looks like a code of :func:`new_code`."""
    return bool(_CODE.fullmatch(_plain(text)))


def code_hash(code: str) -> str:
    """SHA-256 of a code, in hex; blanks, hyphens and capitals do not matter."""
    return hashlib.sha256(_plain(code).encode()).hexdigest()


def _plain(code: str) -> str:
    return "".join(letter for letter in code.lower() if letter.isalnum())
