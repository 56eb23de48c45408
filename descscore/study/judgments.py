"""Annotators and their judgments, kept in SQLite.

Every write is one transaction, and a method that returns has its result on the disk.
Each call opens its own connection, so that a store may be used from any thread or process.
"""

from __future__ import annotations

import hashlib
import random
import secrets
import sqlite3
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from descscore.errors import StorageError, UsageError
from descscore.study.items import StudyItem
from descscore.study.questions import PHASES, SCREEN_READER_USE, VISION_GROUPS
from descscore.study.schema import connection, create, transaction

_CODE_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that look or sound alike when written down
_CODE_LENGTH = 16


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
        rows = [_item_row(position, item) for position, item in enumerate(items)]
        with transaction(path) as database:
            found = database.execute(f"SELECT {_ITEM_COLUMNS} FROM items ORDER BY position").fetchall()
            if not found:
                database.executemany(f"INSERT INTO items ({_ITEM_COLUMNS}) VALUES (?,?,?,?,?,?,?)", rows)
            else:
                _check_same(path, found, rows)
                places = [(row[2], row[1]) for row in rows]
                database.executemany("UPDATE items SET image = ? WHERE item = ?", places)
        return cls(path)

    def items(self) -> tuple[StudyItem, ...]:
        """The study's items in the order of its table."""
        with connection(self.path) as database:
            rows = database.execute(f"SELECT {_ITEM_COLUMNS} FROM items ORDER BY position").fetchall()
        return tuple(StudyItem(row[1], Path(row[2]), *row[3:]) for row in rows)

    def register(self, profile: Profile, account: str | None = None) -> tuple[Annotator, str | None]:
        """Enter an annotator with a random order of all items.

        account: who has logged in; without accounts a resume code is made and returned,
        which is the only way back to these judgments (the store keeps its hash).
        Raises :class:`PseudonymTaken`.
        """
        code = None if account else new_code()
        now = _now()
        with transaction(self.path) as database:
            if account and _find(database, "account", account):
                raise UsageError(f"account {account!r}: has registered in this study already")
            values = (profile.pseudonym.strip(), _key(profile.pseudonym), profile.vision)
            more = (profile.screen_reader, account, code and _hash(code), profile.consent, now)
            try:
                number = database.execute(_INSERT_ANNOTATOR, values + more).lastrowid
            except sqlite3.IntegrityError:
                raise PseudonymTaken(f"pseudonym {profile.pseudonym!r}: is taken in this study") from None
            _shuffle_items(database, number)
        return Annotator(number or 0, profile.pseudonym.strip(), profile.vision), code

    def by_code(self, code: str) -> Annotator | None:
        """Whose resume code this is; blanks, hyphens and capitals do not matter."""
        with connection(self.path) as database:
            return _find(database, "code_hash", _hash(code))

    def by_account(self, account: str) -> Annotator | None:
        """The annotator that this account registered."""
        with connection(self.path) as database:
            return _find(database, "account", account)

    def by_pseudonym(self, pseudonym: str) -> Annotator | None:
        """The annotator of this name; capitals do not matter."""
        with connection(self.path) as database:
            return _find(database, "pseudonym_key", _key(pseudonym))

    def order(self, annotator: Annotator) -> tuple[str, ...]:
        """The annotator's items in their own order."""
        with connection(self.path) as database:
            rows = database.execute(
                "SELECT item FROM orders WHERE annotator = ? ORDER BY position", (annotator.number,)
            ).fetchall()
        return tuple(item for (item,) in rows)

    def save(self, annotator: Annotator, item: str, phase: str, ratings: Ratings) -> None:
        """Keep the answers to one item in one phase, in place of earlier ones.

        Raises :class:`UsageError` where the annotator is gone or the item is not theirs.
        """
        if phase not in PHASES:
            raise UsageError(f"phase {phase!r}: choose one of {', '.join(PHASES)}")
        now = _now()
        try:
            with transaction(self.path) as database:
                key = (annotator.number, item, phase)
                database.execute(_SAVE, key + astuple(ratings) + (now, now))
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
        with connection(self.path) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return int(count)

    def judgments(self) -> list[Judgment]:
        """All judgments, by annotator in order of their registration, then in their own order."""
        with connection(self.path) as database:
            rows = database.execute(_ALL_JUDGMENTS).fetchall()
        return [_judgment(*row) for row in rows]


_ITEM_COLUMNS = "position, item, image, image_hash, description, title, text"
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


def new_code() -> str:
    """A random resume code in four groups, to be written down: 79 bits."""
    letters = "".join(secrets.choice(_CODE_LETTERS) for _ in range(_CODE_LENGTH))
    return "-".join(letters[at : at + 4] for at in range(0, _CODE_LENGTH, 4))


def _hash(code: str) -> str:
    plain = "".join(letter for letter in code.lower() if letter.isalnum())
    return hashlib.sha256(plain.encode()).hexdigest()


def _key(pseudonym: str) -> str:
    """What makes two pseudonyms the same."""
    return unicodedata.normalize("NFKC", pseudonym).strip().casefold()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _item_row(position: int, item: StudyItem) -> tuple[object, ...]:
    image = str(item.image.absolute())
    return (position, item.item, image, item.image_hash, item.description, item.title, item.text)


def _check_same(path: Path, found: list[tuple[object, ...]], rows: list[tuple[object, ...]]) -> None:
    """The same items with the same contents; where the image's file lies does not matter."""
    contents = [[row[:2] + row[3:] for row in table] for table in (found, rows)]
    for before, now in zip(*contents, strict=False):
        if before != now:
            raise StorageError(f"{path}: made for other items: {before[1]!r} then, {now[1]!r} now, differ")
    if len(found) != len(rows):
        raise StorageError(f"{path}: made for {len(found)} items, but there are {len(rows)} now")


def _find(database: sqlite3.Connection, column: str, value: str) -> Annotator | None:
    row = database.execute(
        f"SELECT id, pseudonym, vision FROM annotators WHERE {column} = ?", (value,)
    ).fetchone()
    return Annotator(*row) if row else None


def _shuffle_items(database: sqlite3.Connection, annotator: int | None) -> None:
    items = [item for (item,) in database.execute("SELECT item FROM items ORDER BY position")]
    random.SystemRandom().shuffle(items)
    rows = [(annotator, position, item) for position, item in enumerate(items)]
    database.executemany("INSERT INTO orders (annotator, position, item) VALUES (?, ?, ?)", rows)
