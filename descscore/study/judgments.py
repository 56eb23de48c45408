"""Store annotators and their judgments in SQLite.

Every write is one transaction. When a method returns, its result is on the disk. Each call opens its own
connection, so a store may be used from any thread or process.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
import secrets
import sqlite3
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeAlias

from descscore.errors import StorageError, UsageError
from descscore.study.database import connection, create, transaction
from descscore.study.items import StudyItem, enter_items, entered_items
from descscore.study.questions import (
    BEFORE,
    QUESTIONS,
    SCREEN_READER_USE,
    VISION_GROUPS,
    Question,
    questions_of,
)

_log = logging.getLogger(__name__)


class PseudonymTaken(UsageError):
    """Another annotator of this study has this pseudonym."""


@dataclass(frozen=True)
class Profile:
    """An annotator's answers about themselves. Raises :class:`UsageError` for a wrong value."""

    pseudonym: str
    vision: str
    """A key of :data:`descscore.study.questions.VISION_GROUPS`."""
    screen_reader: str
    """A key of :data:`descscore.study.questions.SCREEN_READER_USE`."""
    consent: str
    """The text that the annotator agreed to."""

    def __post_init__(self) -> None:
        if not self.pseudonym.strip():
            raise UsageError("pseudonym: is blank")
        for field, known in (("vision", VISION_GROUPS), ("screen_reader", SCREEN_READER_USE)):
            value = getattr(self, field)
            if value not in known:
                raise UsageError(f"{field} {value!r}: choose one of {', '.join(known)}")


@dataclass(frozen=True)
class Annotator:
    """A person who judges descriptions."""

    number: int
    """Never used for another annotator, not even after deletion."""
    pseudonym: str
    vision: str


Ratings: TypeAlias = "Mapping[str, int]"
"""Answers from 1 to the question's highest, by the question's name."""


@dataclass(frozen=True)
class Judgment:
    """One annotator's answers to one item in one phase."""

    pseudonym: str
    vision: str
    item: str
    phase: str
    """``none``, ``before`` or ``after`` (see :mod:`descscore.study.questions`)."""
    position: int
    """The item's place in the annotator's order, from 1."""
    ratings: Ratings


class JudgmentStore:
    """The database of one study at ``path``; :meth:`for_study` creates it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def for_study(
        cls, path: Path, items: Sequence[StudyItem], questions: Sequence[Question] = QUESTIONS
    ) -> JudgmentStore:
        """The store of a study with these items and questions, created if it is missing.

        Image files may have moved. Raises :class:`StorageError` if the store was created for other
        items or questions, because judgments of a changed description would be useless.
        """
        if not path.parent.is_dir():
            raise StorageError(f"{path}: there is no folder {path.parent}")
        create(path)
        with transaction(path) as database:
            is_new = not entered_items(database)
            enter_items(database, items, path)
            if is_new:
                rows = [(json.dumps(asdict(question)),) for question in questions]
                database.executemany("INSERT INTO questions (question) VALUES (?)", rows)
            elif _questions(database) != tuple(questions):
                raise StorageError(f"{path}: made for other questions; a study keeps its questions")
        return cls(path)

    def questions(self) -> tuple[Question, ...]:
        """The study's questions in their order."""
        with connection(self.path) as database:
            return _questions(database)

    def items(self) -> tuple[StudyItem, ...]:
        """The study's items in the order of its table."""
        with connection(self.path) as database:
            return entered_items(database)

    def register(
        self, profile: Profile, account: str | None = None, code: str | None = None
    ) -> tuple[Annotator, str | None]:
        """Add an annotator, with a random order of all items.

        If an annotator has already registered with this account or code, that annotator is returned
        unchanged. So a form that is sent twice adds one annotator.

        Args:
            profile: the annotator's answers about themselves.
            account: the account that is logged in; None without accounts.
            code: a resume code of :func:`new_code`; None creates a new one. The store keeps only its hash,
                so nobody can recover a lost code.

        Returns:
            The annotator, and their resume code (None with an account).

        Raises:
            PseudonymTaken: another annotator has this pseudonym.
        """
        if account:
            code = None
        elif not _CODE.fullmatch(_plain(code or "")):
            code = new_code()
        name = profile.pseudonym.strip()
        hashed_code = code_hash(code) if code else None
        values = (
            *(name, pseudonym_key(name), profile.vision, profile.screen_reader),
            *(account, hashed_code, profile.consent, _now()),
        )
        with transaction(self.path) as database:
            registered = _find(database, "account", account) or _find(database, "code_hash", hashed_code)
            if registered:
                return registered, code
            try:
                number = database.execute(_INSERT_ANNOTATOR, values).lastrowid
            except sqlite3.IntegrityError:
                raise PseudonymTaken(f"pseudonym {profile.pseudonym!r}: is taken in this study") from None
            _shuffle_items(database, number)
        return Annotator(number or 0, name, profile.vision), code

    def by_code(self, code: str) -> Annotator | None:
        """The annotator with this resume code; blanks, hyphens and capitals do not matter."""
        with connection(self.path) as database:
            return _find(database, "code_hash", code_hash(code))

    def by_account(self, account: str) -> Annotator | None:
        """The annotator who registered with this account."""
        with connection(self.path) as database:
            return _find(database, "account", account)

    def by_pseudonym(self, pseudonym: str) -> Annotator | None:
        """The annotator with this pseudonym; capitals do not matter."""
        with connection(self.path) as database:
            return _find(database, "pseudonym_key", pseudonym_key(pseudonym))

    def order(self, annotator: Annotator) -> tuple[str, ...]:
        """The annotator's items in their own order."""
        query = "SELECT item FROM orders WHERE annotator = ? ORDER BY position"
        return tuple(item for (item,) in self._rows(query, annotator.number))

    def save(self, annotator: Annotator, item: str, phase: str, ratings: Ratings) -> bool:
        """Save the answers to one item in one phase, replacing earlier ones.

        Returns:
            Whether the answers were saved. Earlier answers from before the image are never replaced,
            because the annotator has seen the image since.

        Raises:
            UsageError: the annotator is deleted, the item is not theirs, or an answer is not allowed.
        """
        now = _now()
        _check_answers(annotator, questions_of(phase, self.questions()), ratings)
        try:
            with transaction(self.path) as database:
                key = (annotator.number, item, phase)
                return database.execute(_SAVE, (*key, json.dumps(dict(ratings)), now, now)).rowcount > 0
        except sqlite3.IntegrityError as error:
            raise UsageError(
                f"{annotator.pseudonym}: no judgment of {item!r} {ratings} {phase} can be kept ({error})"
            ) from None

    def ratings(self, annotator: Annotator) -> Mapping[tuple[str, str], Ratings]:
        """All answers of one annotator by (item, phase)."""
        query = "SELECT item, phase, answers FROM judgments WHERE annotator = ?"
        rows = self._rows(query, annotator.number)
        return {(item, phase): json.loads(answers) for item, phase, answers in rows}

    def delete(self, annotator: Annotator) -> int:
        """Delete an annotator with their order and all judgments.

        Deleted rows are overwritten in the file. The write-ahead log is emptied too, unless another
        process is reading. So no deleted data remains.

        Returns:
            The number of deleted judgments.
        """
        with transaction(self.path) as database:
            (count,) = database.execute(
                "SELECT count(*) FROM judgments WHERE annotator = ?", (annotator.number,)
            ).fetchone()
            database.execute("DELETE FROM annotators WHERE id = ?", (annotator.number,))
        try:
            with connection(self.path) as database:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except StorageError as error:  # the rows are deleted; a later checkpoint empties the log
            _log.warning("%s", error)
        return int(count)

    def judgments(self) -> list[Judgment]:
        """All judgments: annotators in order of registration, their judgments in their own order."""
        return [
            Judgment(pseudonym, vision, item, phase, position, json.loads(answers))
            for pseudonym, vision, item, phase, position, answers in self._rows(_ALL_JUDGMENTS)
        ]

    def _rows(self, query: str, *values: object) -> list[Any]:
        with connection(self.path) as database:
            return database.execute(query, values).fetchall()


_INSERT_ANNOTATOR = """
INSERT INTO annotators
    (pseudonym, pseudonym_key, vision, screen_reader, account, code_hash, consent_text, consented_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_SAVE = f"""
INSERT INTO judgments (annotator, item, phase, answers, first_saved, last_saved)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (annotator, item, phase) DO UPDATE SET
    answers = excluded.answers,
    last_saved = excluded.last_saved
WHERE phase <> '{BEFORE}'
"""
_ALL_JUDGMENTS = """
SELECT pseudonym, vision, judgments.item, phase, orders.position + 1, answers
FROM judgments
JOIN annotators ON annotators.id = judgments.annotator
JOIN orders ON orders.annotator = judgments.annotator AND orders.item = judgments.item
ORDER BY annotators.id, orders.position, phase
"""


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _questions(database: sqlite3.Connection) -> tuple[Question, ...]:
    """The stored questions. Studies of older versions stored none, and asked those of Kreiss et al."""
    rows = database.execute("SELECT question FROM questions ORDER BY position").fetchall()
    stored = [json.loads(row) for (row,) in rows]
    return tuple(Question(**fields | {"labels": tuple(fields["labels"])}) for fields in stored) or QUESTIONS


def _check_answers(annotator: Annotator, asked: Sequence[Question], ratings: Ratings) -> None:
    names = [question.name for question in asked]
    if sorted(ratings) != sorted(names):
        raise UsageError(f"{annotator.pseudonym}: answers to {sorted(ratings)}, but asked is {sorted(names)}")
    for question in asked:
        value = ratings[question.name]
        if value not in range(1, question.values + 1):
            raise UsageError(
                f"{annotator.pseudonym}: {question.name} is {value!r}, not 1 to {question.values}"
            )


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


_CODE_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # without letters that are easily confused
_CODE_LENGTH = 16
_CODE = re.compile(rf"[{_CODE_LETTERS}]{{{_CODE_LENGTH}}}")
_LONGEST_PSEUDONYM = 40


def tidy_pseudonym(text: str) -> str | None:
    """``text`` as a pseudonym, with single blanks; None if it cannot be one.

    A pseudonym has 1 to 40 characters: letters (with the marks of their script), digits, blanks, full
    stops, hyphens and underscores. It starts with a letter or digit, because a spreadsheet would take
    other beginnings for a formula.
    """
    name = unicodedata.normalize("NFC", " ".join(text.split()))
    kinds = [unicodedata.category(letter)[0] for letter in name]
    if not name or len(name) > _LONGEST_PSEUDONYM or kinds[0] not in "LN":
        return None
    allowed = all(kind in "LMN" or letter in " .-_" for kind, letter in zip(kinds, name, strict=True))
    return name if allowed else None


def pseudonym_key(pseudonym: str) -> str:
    """A key that is equal for pseudonyms that differ only in capitals, widths or blanks."""
    return " ".join(unicodedata.normalize("NFKC", pseudonym).casefold().split())


def new_code() -> str:
    """A random resume code of 79 bits, in four groups that are easy to write down."""
    letters = "".join(secrets.choice(_CODE_LETTERS) for _ in range(_CODE_LENGTH))
    return "-".join(letters[at : at + 4] for at in range(0, _CODE_LENGTH, 4))


def code_hash(code: str) -> str:
    """SHA-256 of a code, in hex; blanks, hyphens and capitals do not matter."""
    return hashlib.sha256(_plain(code).encode()).hexdigest()


def _plain(code: str) -> str:
    return "".join(letter for letter in code.lower() if letter.isalnum())
