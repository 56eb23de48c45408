"""The items of a study: an image, a description of it, and the article around it.

Items are read from a table and stored in the study's database. There they never change, except for the
paths of the image files.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from descscore.errors import DataError, ImageError, StorageError, is_blank
from descscore.images import check_path, load_image
from descscore.tables.cells import is_unicode
from descscore.tables.rows import Row, find_image
from descscore.tables.text_tables import read_csv

COLUMNS = ("item", "image", "description", "article title", "article text")

MAX_ITEM_PIXELS = 60_000_000
"""Largest image of a study, in pixels."""


@dataclass(frozen=True)
class StudyItem:
    """One description to judge."""

    item: str
    """The item's name in the table, which annotators never see."""
    image: Path
    image_hash: str
    """SHA-256 of the image's file, in hex."""
    description: str
    title: str
    """Title of the article."""
    text: str
    """Text of the article, in one or more paragraphs."""


def read_items(path: Path) -> tuple[StudyItem, ...]:
    """Read the items of a UTF-8 CSV file with the columns :data:`COLUMNS`, in the file's order.

    Image paths are relative to the file's folder. Every image is decoded once, so that a damaged one is
    found before the study starts.

    Raises:
        DataError: Columns or cells are missing, repeated or extra, an image cannot be read, or an item or
            description occurs twice (ratings are joined by the description's text). The message names the
            line.
    """
    rows = read_csv(path, COLUMNS)
    items = tuple(_item(f"{path}: line {row.line}", path.parent, row) for row in rows)
    if not items:
        raise DataError(f"{path}: holds no items")
    lines = [row.line for row in rows]
    _check_unique(path, lines, [item.item for item in items], "item")
    _check_unique(path, lines, [item.description for item in items], "description")
    _check_images(path, items)
    return items


def study_mark(items: Iterable[StudyItem]) -> str:
    """A short name of a study. It is the same for the same items, and reveals nothing about them."""
    texts = "\0".join(f"{item.item}\0{item.image_hash}\0{item.description}" for item in items)
    return hashlib.sha256(texts.encode()).hexdigest()[:12]


def _item(place: str, folder: Path, row: Row) -> StudyItem:
    cells = {name: row.cells[name].strip() for name in COLUMNS}
    for name, cell in cells.items():
        if is_blank(cell):
            raise DataError(f"{place}: {name} is blank")
    image = cells.pop("image")
    item, description, title, text = (unicodedata.normalize("NFC", cell) for cell in cells.values())
    try:
        forms = (image, unicodedata.normalize("NFC", image))  # a disk may keep a name in either
        files = [find_image(str(folder), form) for form in forms]
        file = check_path(next(filter(os.path.exists, files), files[0]))
        image_hash = hashlib.sha256(file.read_bytes()).hexdigest()
    except ImageError as error:
        raise DataError(f"{place}: {error}") from None
    except OSError as error:
        raise DataError(f"{place}: {folder / image}: {error.strerror or error}") from None
    if not is_unicode(str(file.absolute())):  # a database and a CSV file hold only Unicode
        raise DataError(f"{place}: the path of its image is not UTF-8 text; rename its folder")
    return StudyItem(item, file, image_hash, description, title, text)


def _check_unique(path: Path, lines: Sequence[int | None], values: Sequence[str], column: str) -> None:
    first: dict[str, int | None] = {}
    for line, value in zip(lines, values, strict=True):
        if first.setdefault(value, line) != line:
            place = f"{path}: line {line}"
            raise DataError(f"{place}: the same {column} as line {first[value]} ({value[:40]!r})")


def _check_images(path: Path, items: tuple[StudyItem, ...]) -> None:
    for image in dict.fromkeys(item.image for item in items):
        try:
            load_image(image, MAX_ITEM_PIXELS)
        except ImageError as error:
            raise DataError(f"{path}: {error}") from None


_COLUMNS = "position, item, image, image_hash, description, title, text"


def enter_items(database: sqlite3.Connection, items: Sequence[StudyItem], path: Path) -> None:
    """Store a study's items; if they are stored already, update the paths of their images.

    Raises :class:`StorageError`, with the database's ``path``, if it holds other items.
    """
    rows = [
        (position, it.item, str(it.image.absolute()), it.image_hash, it.description, it.title, it.text)
        for position, it in enumerate(items)
    ]
    stored = database.execute(f"SELECT {_COLUMNS} FROM items ORDER BY position").fetchall()
    if not stored:
        database.executemany(f"INSERT INTO items ({_COLUMNS}) VALUES (?,?,?,?,?,?,?)", rows)
        return
    _check_same(path, stored, rows)
    images = [(row[2], row[1]) for row in rows]
    database.executemany("UPDATE items SET image = ? WHERE item = ?", images)


def entered_items(database: sqlite3.Connection) -> tuple[StudyItem, ...]:
    """The stored items in the order of the study's table."""
    rows = database.execute(f"SELECT {_COLUMNS} FROM items ORDER BY position").fetchall()
    return tuple(StudyItem(row[1], Path(row[2]), *row[3:]) for row in rows)


def _check_same(path: Path, stored: Sequence[tuple[object, ...]], rows: Sequence[tuple[object, ...]]) -> None:
    """Raise :class:`StorageError` unless items and contents are the same; image files may have moved."""
    contents = [[row[:2] + row[3:] for row in table] for table in (stored, rows)]
    for before, now in zip(*contents, strict=False):
        if before != now:
            raise StorageError(f"{path}: made for other items: {before[1]!r} then, {now[1]!r} now, differ")
    if len(stored) != len(rows):
        raise StorageError(f"{path}: made for {len(stored)} items, but there are {len(rows)} now")
