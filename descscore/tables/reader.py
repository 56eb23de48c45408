"""What every format has in common: columns by role, checks of cells, ids, and images below a root."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias

from descscore.errors import DataError, ImageError, InputError, TextError
from descscore.tables.image_root import ImageRoot
from descscore.tables.rows import FileImage, Row, StoredImage, normal_split

CELL_LIMIT = 1 << 20
"""Longest cell of text, in characters, in every format."""

BATCH_ROWS = 64
"""Rows of a table with images that are in memory together: with photos of 1 MB each, 64 MB."""

Mark: TypeAlias = "list[int] | None"
"""Where a reader can begin without reading what lies before, in the format's own terms."""


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns by role. None: the usual names, or no such column is read."""

    image: str | None = None
    description: str | None = None
    caption: str | None = None
    split: str | None = None
    id: str | None = None
    group: str | None = None
    context: str | None = None
    text: str | None = None
    references: str | None = None


Usual: TypeAlias = "Mapping[str, tuple[str, ...]]"
"""The names that a column of each role usually has, the first choice first."""

SCORING: Usual = {"id": ("id",), "image": ("image",), "text": ("text",)}
PREFERENCE: Usual = {
    "image": ("image", "filename", "file_name", "path"),
    "description": ("description",),
    "caption": ("caption",),
    "split": ("split",),
    "id": ("id", "filename", "file_name"),
    "group": ("group", "book", "article_id", "article"),
    "context": ("context",),
}
_NEEDED = frozenset({"image", "text", "description", "caption"})


class Record(NamedTuple):
    """A row's cells by column name, or what is wrong with it; the line on which a text file has it."""

    cells: Mapping[str, Any]
    fault: InputError | None = None
    line: int | None = None


@dataclass(frozen=True)
class Scan:
    """rows: how many a table holds. marks: where row 0, ``step``, ``2 * step``... begins."""

    rows: int
    marks: Sequence[Mark]


def unmarked(rows: int, step: int) -> Scan:
    """The scan of a table that finds any row by its number."""
    return Scan(rows, [None] * -(-rows // step))


class Table(ABC):
    """A table in one format. A copy of it can be sent to another process."""

    numbered: ClassVar[bool] = True
    """Whether messages need a row's number, since nothing else in them names the row."""

    @property
    @abstractmethod
    def source(self) -> str:
        """What the table is called in messages."""

    def names(self, wanted: Collection[str]) -> list[str]:
        """The names of its columns: of those ``wanted`` all that are there, of the others at least some.

        By default any: what a row lacks is its own fault.
        """
        return list(wanted)

    @abstractmethod
    def fingerprint(self, texts: Sequence[str]) -> dict[str, Any]:
        """What changes when the table does, in plain JSON types. texts: columns that must count."""

    @abstractmethod
    def scan(self, step: int) -> Scan:
        """Count the rows, and mark every ``step``-th."""

    @abstractmethod
    def records(self, roles: Mapping[str, str], start: int, mark: Mark) -> Iterator[Record]:
        """Records from row ``start`` (0-based) on, with at least the columns that ``roles`` names."""

    def roles(self, columns: Columns, usual: Usual) -> dict[str, str]:
        """The column of each role. Raises :class:`DataError` for repeated and for missing columns."""
        choices = _choices(columns, usual)
        names = self.names({name for role in choices.values() for name in role})
        check_unique_names(self.source, names)
        return _resolve(self.source, names, columns, choices)


@dataclass(frozen=True)
class FileTable(Table):
    """A table in one file."""

    path: Path

    @property
    def source(self) -> str:
        return str(self.path)

    def fingerprint(self, texts: Sequence[str]) -> dict[str, Any]:
        return file_fingerprint(self.path)


def _choices(columns: Columns, usual: Usual) -> dict[str, tuple[str, ...]]:
    """The names to look for, by role."""
    given = {item.name: getattr(columns, item.name) for item in fields(Columns)}
    choices = {role: usual.get(role, ()) if name is None else (name,) for role, name in given.items()}
    return {role: names for role, names in choices.items() if names}


def _resolve(
    source: str, present: Sequence[str], columns: Columns, choices: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    roles: dict[str, str] = {}
    for role, names in choices.items():
        name = next((name for name in names if name in present), None)
        if name is not None:
            roles[role] = name
        elif role in _NEEDED or getattr(columns, role) is not None:
            purpose = "" if names == (role,) else f" for the {role}"
            there = named(present, 20) or "none"
            wanted = " or ".join(map(repr, names))
            raise DataError(f"{source}: no column {wanted}{purpose}; its columns are {there}")
    return roles


def check_unique_names(source: str, names: Iterable[str]) -> None:
    """Raise :class:`DataError` where two columns have one name."""
    for name, count in Counter(names).items():
        if count > 1 and name:
            raise DataError(f"{source}: has column {named([name])} {count} times")


def named(values: Iterable[str], most: int = 3) -> str:
    """The first few of ``values`` for an error message, each quoted and cut."""
    whole = list(values)
    quoted = ", ".join(repr(v if len(v) <= 60 else v[:57] + "...") for v in whole[:most])
    return quoted + (f" and {len(whole) - most} more" if len(whole) > most else "")


class _Images:
    """Image bytes of a table, read again a few rows at a time. Going back begins anew."""

    def __init__(self, table: Table, roles: Mapping[str, str]) -> None:
        self.table, self.roles = table, roles
        self._records: Iterator[Record] = iter(())
        self._next = -BATCH_ROWS
        self._image: object = None

    def get(self, index: int) -> object:
        """The image of row ``index`` (0-based), as it stands in the table."""
        if not 0 <= index - self._next < BATCH_ROWS and index != self._next - 1:
            self._records, self._next = self.table.records(self.roles, index, None), index
        while self._next <= index:
            record = next(self._records)
            self._next += 1
            self._image = record.cells.get(self.roles["image"])
        return self._image

    def __reduce__(self) -> tuple[Any, ...]:
        # An open file does not travel to another process; a fresh reader opens its own.
        return type(self), (self.table, self.roles)


@dataclass(frozen=True)
class CellImage:
    """An image whose bytes stand in a table; ``index`` is 0-based."""

    images: _Images
    index: int

    def check(self) -> None:
        """Does nothing: a reader makes a cell image only where it has seen bytes."""

    def read(self) -> bytes:
        """The bytes. Raises :class:`ImageError` for a table that is no longer readable."""
        try:
            value = self.images.get(self.index)
        except (OSError, StopIteration, DataError) as error:
            raise ImageError("unreadable_image", f"{self}: cannot be read ({error})") from None
        data = value.get("bytes") if isinstance(value, Mapping) else value
        if not isinstance(data, bytes):
            raise ImageError("missing_image", f"{self}: has no image any more")
        return data

    def __str__(self) -> str:
        return f"{self.images.table.source} row {self.index + 1}"


@dataclass(frozen=True)
class Reader:
    """The rows of a table. A copy of it can be sent to another process."""

    table: Table
    columns: Columns
    usual: Usual
    root: ImageRoot
    split: str = ""
    """The split of rows in a table without such a column."""

    @property
    def source(self) -> str:
        """What the table is called in messages."""
        return self.table.source

    @cached_property
    def roles(self) -> dict[str, str]:
        """The column of each role. Raises :class:`DataError` for repeated and for missing columns."""
        return self.table.roles(self.columns, self.usual)

    @cached_property
    def _images(self) -> _Images:
        return _Images(self.table, self.roles)

    def fingerprint(self) -> dict[str, Any]:
        """What changes when the table does, in plain JSON types."""
        return self.table.fingerprint(
            [self.roles[role] for role in ("text", "context", "references") if role in self.roles]
        )

    def scan(self, step: int) -> Scan:
        """Count the rows, and mark every ``step``-th. Raises :class:`DataError` as :attr:`roles`."""
        self.roles  # noqa: B018 - checks the columns
        return self.table.scan(step)

    def rows(self, start: int = 0, mark: Mark = None) -> Iterator[Row]:
        """Rows from number ``start`` (0-based) on; ``mark`` is what :meth:`scan` gives for it."""
        for number, record in enumerate(self.table.records(self.roles, start, mark), start + 1):
            yield self._row(number, record)

    def _row(self, number: int, record: Record) -> Row:
        cells = {role: record.cells.get(column) for role, column in self.roles.items()}
        image = references = None
        try:
            if record.fault is not None:
                raise record.fault
            self._check_cells(record.cells)
            references = parse_references(cells.get("references"))
            if "image" in self.roles:
                image = self._image(cells["image"])
            fault = None
        except InputError as error:
            # An image's error stays one: an empty or decorative text is reported before it.
            fault = self._placed(number, error)
        group = cells.get("group")
        return Row(
            source=self.source,
            number=number,
            id=self._id(number, cells.get("id")),
            image=image,
            text=cells.get("text"),
            description=cells.get("description"),
            caption=cells.get("caption"),
            context=cells.get("context"),
            references=references,
            split=normal_split(cells.get("split")) if "split" in self.roles else self.split,
            group=None if group is None or group == "" else str(group),
            fault=fault,
            line=record.line,
            cells=record.cells,
            stored=self._stored(number, image),
        )

    def _placed(self, number: int, error: InputError) -> InputError:
        """The error with the row's number, unless it names a path or an archive's member."""
        if not self.table.numbered or error.kind in ("url_not_supported", "outside_image_root"):
            return error
        return type(error)(error.kind, f"row {number}: {error}")

    def _check_cells(self, cells: Mapping[str, Any]) -> None:
        """Raise :class:`InputError` for a cell that is too long or no Unicode; where roles are
        given, only their cells count.
        """
        for column in dict.fromkeys(self.roles.values()) or cells:
            value = cells.get(column)
            if not isinstance(value, str) or column == self.roles.get("image"):
                continue
            if len(value) > CELL_LIMIT:
                raise InputError(
                    "bad_row",
                    f"column {column!r} holds {len(value):,} characters, over the limit of {CELL_LIMIT:,}",
                )
            if not is_unicode(value):
                raise InputError("wrong_encoding", f"column {column!r} is not UTF-8 text")

    def _image(self, value: object) -> str | bytes:
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            if not value:
                raise ImageError("empty_image", "its image holds no bytes")
            return value
        if value is None or (isinstance(value, str) and not value.strip()):
            raise ImageError("missing_image", "has no image")
        if not isinstance(value, str):
            raise ImageError("bad_image_type", f"the image is {type(value).__name__}, not a path")
        return self.root.find(value)

    def _stored(self, number: int, image: str | bytes | None) -> StoredImage | None:
        if isinstance(image, str):
            return FileImage(Path(image))
        return None if image is None else CellImage(self._images, number - 1)

    def _id(self, number: int, value: object) -> str:
        text = id_text(value)
        if text is not None:
            return text.encode("utf-8", "backslashreplace").decode()
        return f"{self._id_prefix}{number}"

    @cached_property
    def _id_prefix(self) -> str:
        """What precedes a row's number where it stands for an id, so that no row's own id is the same.

        Nothing in most tables; ``row-``, ``row--`` and so on where ids look like numbered rows.
        Only a table with an id column and a row without an id is read for this.
        """
        if "id" not in self.roles:
            return ""
        column = self.roles["id"]
        taken: set[str] = set()
        for record in self.table.records({"id": column}, 0, None):
            match = _NUMBERED.fullmatch(id_text(record.cells.get(column)) or "")
            if match:
                taken.add(match[1])
        prefix = ""
        while prefix in taken:
            prefix = f"{prefix or 'row'}-"
        return prefix


_NUMBERED = re.compile(r"((?:row-+)?)[0-9]+")


def id_text(value: object) -> str | None:
    """An id as a string, None for a blank one and for what is no string or number."""
    if value is None or value == "" or isinstance(value, (Mapping, bytes)):
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        return str(int(value))  # a column of whole numbers with gaps is kept as floats
    if isinstance(value, (bool, list)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def is_unicode(value: str) -> bool:
    """Whether a string has no surrogates, which stand for bytes that are not valid."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def parse_references(cell: object) -> object:
    """The references in a table's cell: a list as it is, or a JSON list in a string; blank is none.

    Raises:
        TextError: The string holds anything else (kind ``bad_references``).
    """
    if not isinstance(cell, str):
        return cell
    if not cell.strip():
        return None
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise TextError("bad_references", f"references {cell[:40]!r}: expected a JSON list of texts")
    return value


def file_fingerprint(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file; of one over 4 GiB, those of its ends and the time of its last change."""
    stat = path.stat()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if stat.st_size <= _WHOLE:
            while block := file.read(_BLOCK):
                digest.update(block)
            return {"bytes": stat.st_size, "sha256": digest.hexdigest()}
        digest.update(file.read(_BLOCK))
        file.seek(-_BLOCK, os.SEEK_END)
        digest.update(file.read(_BLOCK))
    return {"bytes": stat.st_size, "ends_sha256": digest.hexdigest(), "changed_ns": stat.st_mtime_ns}


_WHOLE, _BLOCK = 4 << 30, 1 << 22
