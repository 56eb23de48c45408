"""Annotators and their judgments, kept in SQLite.

Every write is one transaction, and a method that returns has its result on the disk.
Each call opens its own connection, so that a store may be used from any thread or process.
"""

from __future__ import annotations

import hashlib
import logging
import random
import re
import secrets
import sqlite3
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from descscore.errors import StorageError, UsageError
from descscore.study.items import StudyItem, enter_items, entered_items
from descscore.study.questions import BEFORE, PHASES, SCREEN_READER_USE, VISION_GROUPS
from descscore.study.schema import connection, create, transaction

# Who judges: what they say of themselves, and the codes by which they come back.


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


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ratings:
    """Answers 1 to 5; imaginability is None after the image, where it is not asked."""

    overall: int
    imaginability: int | None
    relevance: int
    irrelevance: int


@dataclass(frozen=True)
class Judgment:
    """One annotator's answers to one item in one phase. position: 1-based place in their order."""

    pseudonym: str
    vision: str
    item: str
    phase: str
    position: int
    ratings: Ratings


class JudgmentStore:
    """The database of one study at ``path``; see :meth:`for_study` to make it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def for_study(cls, path: Path, items: Sequence[StudyItem]) -> JudgmentStore:
        """The store of a study with these items, made where there is none.

        Images may have moved. Raises :class:`StorageError` where it was made for other
        items: judgments of a description that has changed since would be of no use.
        """
        if not path.parent.is_dir():
            raise StorageError(f"{path}: there is no folder {path.parent}")
        create(path)
        with transaction(path) as database:
            enter_items(database, items, path)
        return cls(path)

    def items(self) -> tuple[StudyItem, ...]:
        """The study's items in the order of its table."""
        with connection(self.path) as database:
            return entered_items(database)

    def register(
        self, profile: Profile, account: str | None = None, code: str | None = None
    ) -> tuple[Annotator, str | None]:
        """Enter an annotator with a random order of all items; their resume code, None for an account.

        account: who has logged in. code: a resume code of :func:`new_code` that the form was
        given, by default a new one; it is the only way back to these judgments (the store keeps
        its hash). Whoever has registered with that account or code is returned as they are: a
        form that is sent twice makes one annotator. Raises :class:`PseudonymTaken`.
        """
        code = None if account else code if code and is_code(code) else new_code()
        name = profile.pseudonym.strip()
        hashed = code_hash(code) if code else None
        values = (
            *(name, pseudonym_key(name), profile.vision, profile.screen_reader),
            *(account, hashed, profile.consent, _now()),
        )
        with transaction(self.path) as database:
            known = _find(database, "account", account) or _find(database, "code_hash", hashed)
            if known:
                return known, code
            try:
                number = database.execute(_INSERT_ANNOTATOR, values).lastrowid
            except sqlite3.IntegrityError:
                raise PseudonymTaken(f"pseudonym {profile.pseudonym!r}: is taken in this study") from None
            _shuffle_items(database, number)
        return Annotator(number or 0, name, profile.vision), code

    def by_code(self, code: str) -> Annotator | None:
        """Whose resume code this is; blanks, hyphens and capitals do not matter."""
        with connection(self.path) as database:
            return _find(database, "code_hash", code_hash(code))

    def by_account(self, account: str) -> Annotator | None:
        """The annotator that this account registered."""
        with connection(self.path) as database:
            return _find(database, "account", account)

    def by_pseudonym(self, pseudonym: str) -> Annotator | None:
        """The annotator of this name; capitals do not matter."""
        with connection(self.path) as database:
            return _find(database, "pseudonym_key", pseudonym_key(pseudonym))

    def order(self, annotator: Annotator) -> tuple[str, ...]:
        """The annotator's items in their own order."""
        with connection(self.path) as database:
            rows = database.execute(
                "SELECT item FROM orders WHERE annotator = ? ORDER BY position", (annotator.number,)
            ).fetchall()
        return tuple(item for (item,) in rows)

    def save(self, annotator: Annotator, item: str, phase: str, ratings: Ratings) -> bool:
        """Keep the answers to one item in one phase, in place of earlier ones.

        False where there are answers from before the image already: these stay, as the image
        has been shown since. Raises :class:`UsageError` where the annotator is gone or the item
        is not theirs.
        """
        if phase not in PHASES:
            raise UsageError(f"phase {phase!r}: choose one of {', '.join(PHASES)}")
        now = _now()
        try:
            with transaction(self.path) as database:
                key = (annotator.number, item, phase)
                return database.execute(_SAVE, key + astuple(ratings) + (now, now)).rowcount > 0
        except sqlite3.IntegrityError as error:
            raise UsageError(
                f"{annotator.pseudonym}: no judgment of {item!r} {ratings} {phase} can be kept ({error})"
            ) from None

    def ratings(self, annotator: Annotator) -> Mapping[tuple[str, str], Ratings]:
        """All answers of one annotator by (item, phase)."""
        with connection(self.path) as database:
            rows = database.execute(
                f"SELECT item, phase, {_ANSWERS} FROM judgments WHERE annotator = ?", (annotator.number,)
            ).fetchall()
        return {(row[0], row[1]): Ratings(*row[2:]) for row in rows}

    def delete(self, annotator: Annotator) -> int:
        """Remove an annotator with their order and all judgments, and say how many those were.

        Deleted rows are overwritten in the file, and the write-ahead log is emptied where
        nobody is reading, so that nothing of them stays behind.
        """
        with transaction(self.path) as database:
            (count,) = database.execute(
                "SELECT count(*) FROM judgments WHERE annotator = ?", (annotator.number,)
            ).fetchone()
            database.execute("DELETE FROM annotators WHERE id = ?", (annotator.number,))
        self._empty_log()
        return int(count)

    def _empty_log(self) -> None:
        try:
            with connection(self.path) as database:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except StorageError as error:  # the rows are deleted all the same; a later checkpoint does it
            _log.warning("%s", error)

    def judgments(self) -> list[Judgment]:
        """All judgments, by annotator in order of their registration, then in their own order."""
        with connection(self.path) as database:
            rows = database.execute(_ALL_JUDGMENTS).fetchall()
        return [_judgment(*row) for row in rows]


_ANSWERS = "overall, imaginability, relevance, irrelevance"
_INSERT_ANNOTATOR = """
INSERT INTO annotators
    (pseudonym, pseudonym_key, vision, screen_reader, account, code_hash, consent_text, consented_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_SAVE = f"""
INSERT INTO judgments (annotator, item, phase, {_ANSWERS}, first_saved, last_saved)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (annotator, item, phase) DO UPDATE SET
    overall = excluded.overall,
    imaginability = excluded.imaginability,
    relevance = excluded.relevance,
    irrelevance = excluded.irrelevance,
    last_saved = excluded.last_saved
WHERE phase <> '{BEFORE}'
"""
_ALL_JUDGMENTS = f"""
SELECT pseudonym, vision, judgments.item, phase, orders.position + 1, {_ANSWERS}
FROM judgments
JOIN annotators ON annotators.id = judgments.annotator
JOIN orders ON orders.annotator = judgments.annotator AND orders.item = judgments.item
ORDER BY annotators.id, orders.position, phase
"""


def _judgment(pseudonym: str, vision: str, item: str, phase: str, position: int, *answers: Any) -> Judgment:
    return Judgment(pseudonym, vision, item, phase, position, Ratings(*answers))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _find(database: sqlite3.Connection, column: str, value: str | None) -> Annotator | None:
    row = database.execute(
        f"SELECT id, pseudonym, vision FROM annotators WHERE {column} = ?", (value,)
    ).fetchone()
    return Annotator(*row) if row else None


def _shuffle_items(database: sqlite3.Connection, annotator: int | None) -> None:
    items = [item for (item,) in database.execute("SELECT item FROM items ORDER BY position")]
    random.SystemRandom().shuffle(items)
    rows = [(annotator, position, item) for position, item in enumerate(items)]
    database.executemany("INSERT INTO orders (annotator, position, item) VALUES (?, ?, ?)", rows)
