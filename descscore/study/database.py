"""The SQLite database of a study: tables, versions, connections, and errors in plain words."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from descscore.errors import StorageError
from descscore.files import check_place

APPLICATION_ID = 0x44534A4D
"""Number in the file's header that identifies a study's database; others are refused."""

BUSY_SECONDS = 30.0
"""Seconds that a writer waits for other writers."""

_VERSION_1 = """
CREATE TABLE items (
    position INTEGER PRIMARY KEY,
    item TEXT NOT NULL UNIQUE,
    image TEXT NOT NULL,
    image_hash TEXT NOT NULL,
    description TEXT NOT NULL UNIQUE,
    title TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE TABLE annotators (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    pseudonym TEXT NOT NULL,
    pseudonym_key TEXT NOT NULL UNIQUE,
    vision TEXT NOT NULL CHECK (vision IN ('blind', 'low_vision', 'sighted')),
    screen_reader TEXT NOT NULL,
    account TEXT UNIQUE,
    code_hash TEXT UNIQUE,
    consent_text TEXT NOT NULL,
    consented_at TEXT NOT NULL,
    CHECK ((account IS NULL) <> (code_hash IS NULL))
);
CREATE TABLE orders (
    annotator INTEGER NOT NULL REFERENCES annotators (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    item TEXT NOT NULL REFERENCES items (item),
    PRIMARY KEY (annotator, position),
    UNIQUE (annotator, item)
);
CREATE TABLE judgments (
    annotator INTEGER NOT NULL,
    item TEXT NOT NULL,
    phase TEXT NOT NULL CHECK (phase IN ('none', 'before', 'after')),
    overall INTEGER NOT NULL CHECK (overall BETWEEN 1 AND 5),
    imaginability INTEGER CHECK (imaginability BETWEEN 1 AND 5),
    relevance INTEGER NOT NULL CHECK (relevance BETWEEN 1 AND 5),
    irrelevance INTEGER NOT NULL CHECK (irrelevance BETWEEN 1 AND 5),
    first_saved TEXT NOT NULL,
    last_saved TEXT NOT NULL,
    PRIMARY KEY (annotator, item, phase),
    FOREIGN KEY (annotator, item) REFERENCES orders (annotator, item) ON DELETE CASCADE,
    CHECK ((imaginability IS NULL) = (phase = 'after'))
);
"""

_VERSION_2 = """
CREATE TABLE questions (position INTEGER PRIMARY KEY, question TEXT NOT NULL);
CREATE TABLE new_judgments (
    annotator INTEGER NOT NULL,
    item TEXT NOT NULL,
    phase TEXT NOT NULL CHECK (phase IN ('none', 'before', 'after')),
    answers TEXT NOT NULL,
    first_saved TEXT NOT NULL,
    last_saved TEXT NOT NULL,
    PRIMARY KEY (annotator, item, phase),
    FOREIGN KEY (annotator, item) REFERENCES orders (annotator, item) ON DELETE CASCADE
);
INSERT INTO new_judgments
SELECT annotator, item, phase,
    '{"overall": ' || overall || coalesce(', "imaginability": ' || imaginability, '')
    || ', "relevance": ' || relevance || ', "irrelevance": ' || irrelevance || '}',
    first_saved, last_saved
FROM judgments ORDER BY rowid;
DROP TABLE judgments;
ALTER TABLE new_judgments RENAME TO judgments;
"""

MIGRATIONS = (_VERSION_1, _VERSION_2)
"""Statement i takes a database from version i to i + 1; the file's header holds the version."""


@contextmanager
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to an existing database of this version, closed at the end.

    Raises :class:`StorageError` if the file is missing, not a study's database, or of another version.
    """
    with storage_errors(path), _connect(path, "rw") as database:
        _check_version(path, database)
        yield database


@contextmanager
def transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection inside a write transaction: everything that the block writes is kept, or nothing.

    After a block without an error, the data is on the disk.
    """
    with connection(path) as database:
        # IMMEDIATE, because two writers that both start by reading would block each other.
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
        except BaseException:
            if database.in_transaction:  # a full disk may have ended it already
                database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")


def create(path: Path) -> None:
    """Create the database if it is missing, and bring an older one up to this version.

    Only its owner can read it. Raises :class:`DataError` if another user could replace it.
    """
    check_place(path)
    with suppress(OSError):  # SQLite says why it cannot be created
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    with storage_errors(path), _connect(path, "rwc") as database:
        _check_owner(path, database)
        for suffix in ("", "-wal", "-shm"):  # SQLite gives new files of these the database's permissions
            with suppress(OSError):
                os.chmod(f"{path}{suffix}", 0o600)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("BEGIN IMMEDIATE")
        for version in range(_version(path, database), len(MIGRATIONS)):
            # Not executescript, which would commit the transaction first.
            for statement in MIGRATIONS[version].split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {version + 1}")
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute("COMMIT")


@contextmanager
def _connect(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    if mode == "rw" and not path.is_file():
        raise StorageError(f"{path}: no such database")
    address = f"{path.absolute().as_uri()}?mode={mode}"
    database = sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("PRAGMA secure_delete = ON")
        database.execute("PRAGMA synchronous = FULL")
        yield database
    finally:
        database.close()


def _check_owner(path: Path, database: sqlite3.Connection) -> None:
    (owner,) = database.execute("PRAGMA application_id").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if owner != APPLICATION_ID and (owner or tables):
        raise StorageError(f"{path}: a database of another program; give another file")


def _check_version(path: Path, database: sqlite3.Connection) -> None:
    _check_owner(path, database)
    if _version(path, database) < len(MIGRATIONS):
        raise StorageError(f"{path}: a study's database of an older version; 'descscore serve' updates it")


def _version(path: Path, database: sqlite3.Connection) -> int:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise StorageError(
            f"{path}: made by a newer descscore (version {version}; this one knows up to {len(MIGRATIONS)})"
        )
    return int(version)


class DiskFullError(StorageError):
    """The disk has no room to save something."""


class ReadOnlyError(StorageError):
    """The database or its folder is read-only."""


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors, except violated constraints, into :class:`StorageError` in plain words."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.Error as error:
        raise _explained(path, str(error)) from error


def _explained(path: Path, message: str) -> StorageError:
    reason = "disk is full" if "disk I/O" in message and _is_full(path.parent) else message
    for part, kind, meaning in _MEANINGS:
        if part in reason:
            return kind(f"{path}: {meaning} ({message})")
    return StorageError(f"{path}: the database failed ({message})")


def _is_full(folder: Path) -> bool:
    """Whether the disk has no room for SQLite's own files, which SQLite reports as an I/O error."""
    try:
        return shutil.disk_usage(folder).free < _ROOM
    except OSError:
        return False


_ROOM = 2**16
_MEANINGS = (
    ("readonly", ReadOnlyError, "nothing was saved: the file or its folder is read-only"),
    ("disk is full", DiskFullError, "nothing was saved: the disk is full"),
    ("disk I/O", StorageError, "nothing was saved: the disk refused it and may be full or damaged"),
    ("unable to open", ReadOnlyError, "the file or its folder cannot be opened; it may be read-only"),
    ("locked", StorageError, "nothing was saved: another program locked the database for too long"),
    ("not a database", StorageError, "not a SQLite database"),
    ("malformed", StorageError, "the database is damaged"),
)
