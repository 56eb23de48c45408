"""Why a study's database cannot be read or written, in words that say what to do."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from descscore.errors import StorageError


class DiskFullError(StorageError):
    """The disk has no room for what was to be saved."""


class ReadOnlyError(StorageError):
    """The database or its folder may not be written."""


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into a :class:`StorageError` that says what to do."""
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
    """Whether there is no room for SQLite's files beside the database, which it then calls an I/O error."""
    try:
        return shutil.disk_usage(folder).free < _ROOM
    except OSError:
        return False


_ROOM = 2**16
_MEANINGS = (
    ("readonly", ReadOnlyError, "nothing was saved: the file or its folder is read-only"),
    ("disk is full", DiskFullError, "nothing was saved: the disk is full"),
    ("disk I/O", StorageError, "nothing was saved: the disk does not take it; it may be full or damaged"),
    ("unable to open", ReadOnlyError, "the file or its folder cannot be opened; it may be read-only"),
    ("locked", StorageError, "nothing was saved: another program holds the database for too long"),
    ("not a database", StorageError, "not a SQLite database"),
    ("malformed", StorageError, "the database is damaged"),
)
