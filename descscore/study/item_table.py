"""The items of a study in its database: entered once, and never changed but for where images lie."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from descscore.errors import StorageError
from descscore.study.items import StudyItem

_COLUMNS = "position, item, image, image_hash, description, title, text"


def enter_items(database: sqlite3.Connection, items: Sequence[StudyItem], path: Path) -> None:
    """Enter a study's items, or note where the images of those that are there lie now.

    path: of the database, for the error. Raises :class:`StorageError` where there are other items.
    """
    rows = [_row(position, item) for position, item in enumerate(items)]
    found = database.execute(f"SELECT {_COLUMNS} FROM items ORDER BY position").fetchall()
    if not found:
        database.executemany(f"INSERT INTO items ({_COLUMNS}) VALUES (?,?,?,?,?,?,?)", rows)
        return
    _check_same(path, found, rows)
    places = [(row[2], row[1]) for row in rows]
    database.executemany("UPDATE items SET image = ? WHERE item = ?", places)


def entered_items(database: sqlite3.Connection) -> tuple[StudyItem, ...]:
    """The items in the order of the study's table."""
    rows = database.execute(f"SELECT {_COLUMNS} FROM items ORDER BY position").fetchall()
    return tuple(StudyItem(row[1], Path(row[2]), *row[3:]) for row in rows)


def _row(position: int, item: StudyItem) -> tuple[object, ...]:
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
