"""What all formats have in common: columns by role, checks of cells, ids, and image paths below a root."""

from __future__ import annotations

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

from descscore.errors import DataError, ImageError, InputError, is_blank
from descscore.files import open_regular
from descscore.images import PATH_LIMIT, bytes_or_path
from descscore.tables.cells import (
    CELL_LIMIT,
    ID_LIMIT,
    MESSAGE_LIMIT,
    SAVE_AS_UTF8,
    cut,
    id_text,
    is_unicode,
    named,
    parse_references,
)
from descscore.tables.rows import FileImage, Row, StoredImage, find_image, normal_split

BATCH_ROWS = 64
"""Rows of a table with images that are in memory together: with photos of 1 MB each, 64 MB."""


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

_IMAGES = ("image", "filename", "file_name", "path")
SCORING: Usual = {
    "id": ("id",),
    "image": _IMAGES,
    "text": ("text",),
    "context": (),
    "references": (),
}
PREFERENCE: Usual = {
    "image": _IMAGES,
    "description": ("description",),
    "caption": ("caption",),
    "split": ("split",),
    "id": ("id", "filename", "file_name"),
    "group": ("group", "book", "article_id", "article"),
    "context": ("context",),
}
_NEEDED = frozenset({"image", "text", "description", "caption"})

Mark: TypeAlias = "list[int] | None"
"""A place where a format can begin to read, such as a byte or a row. None: only at the first row."""


class Record(NamedTuple):
    """A row as its format holds it."""

    content: Any
    """What :meth:`Table.cells` reads (a line, a sample, the cells themselves), or an :class:`InputError`."""
    mark: Mark = None
    """Where the record begins."""
    id: str | None = None
    """Its name in the format, such as a file's, which its errors contain. A row without an id gets it."""
    line: int | None = None
    """The line on which a text file has it, from 1."""


@dataclass(frozen=True)
class Scan:
    """rows: how many a table holds. marks: where row 0, ``step``, ``2 * step``... begins."""

    rows: int
    marks: Sequence[Mark]


class Table(ABC):
    """What one format knows of a table: its columns, its records, and their cells as they stand there.

    A copy of it can be sent to another process.
    """

    @property
    @abstractmethod
    def source(self) -> str:
        """What the table is called in messages."""

    def names(self, wanted: Collection[str]) -> list[str]:
        """The names of its columns: all of ``wanted`` that the table has, and some others for messages.

        By default all of ``wanted``: in a format without a header, each row has its own keys, and what one
        lacks is its fault.
        """
        return list(wanted)

    @property
    def usual(self) -> Usual:
        """The usual names of columns in this format, where they are not those of other tables."""
        return {}

    @property
    def folders(self) -> tuple[str, ...]:
        """Folders in which absolute image paths may lie, besides the image root."""
        return ()

    @property
    def missing_hint(self) -> str:
        """What may be wrong where an image's file is not there, for its error; '' if nothing is known."""
        return ""

    @abstractmethod
    def fingerprint(self, texts: Sequence[str]) -> dict[str, Any]:
        """A summary, in plain JSON types, that changes with the table. texts: columns that it must cover."""

    def count(self) -> int | None:
        """The number of rows, if row ``n`` has the mark ``[n]``; None in formats with other marks."""
        return None

    @abstractmethod
    def records(self, roles: Mapping[str, str], mark: Mark) -> Iterator[Record]:
        """Records from ``mark`` on, or all. They hold at least the columns that ``roles`` names."""

    def cells(self, content: Any, roles: Mapping[str, str]) -> Mapping[str, Any]:
        """The cells of a record by column name. Raises :class:`InputError` for a damaged record."""
        cells: Mapping[str, Any] = content
        return cells


@dataclass(frozen=True)
class FileTable(Table):
    """A table in one file."""

    path: Path
    shown: str = field(default="", kw_only=True)
    """What it is called in messages, where not by its path."""

    @property
    def source(self) -> str:
        return self.shown or str(self.path)

    def fingerprint(self, texts: Sequence[str]) -> dict[str, Any]:
        return file_fingerprint(self.path)


class _ImageCursor:
    """Images in the cells of a table, read again one after the other. Going back begins anew."""

    def __init__(self) -> None:
        self._records: Iterator[Record] = iter(())
        self._last = -BATCH_ROWS - 1
        self._image: object = None

    def get(self, reader: Reader, index: int) -> object:
        """The image of row ``index`` (0-based), as it stands in the table."""
        if index != self._last:
            if not 0 < index - self._last <= BATCH_ROWS:
                self._records, self._last = reader.records(index), index - 1
            skipped = index - self._last - 1
            record, self._last = next(islice(self._records, skipped, None)), index
            self._image = reader.cells(record, reader.roles).get(reader.roles["image"])
        return self._image


@dataclass(frozen=True)
class CellImage:
    """An image whose bytes stand in a table; ``index`` is 0-based."""

    reader: Reader
    index: int

    def check(self) -> None:
        """Does nothing: a reader makes a cell image only where it has seen bytes."""

    def read(self) -> bytes:
        """The bytes. Raises :class:`ImageError` for a table that is no longer readable."""
        try:
            value = self.reader.image_cursor.get(self.reader, self.index)
        except (OSError, StopIteration, DataError, InputError) as error:
            raise ImageError("unreadable_image", f"{self}: cannot be read ({error})") from None
        data = value.get("bytes") if isinstance(value, Mapping) else value
        if not isinstance(data, bytes):
            raise ImageError("missing_image", f"{self}: has no image any more")
        return data

    def __str__(self) -> str:
        return f"{self.reader.source} row {self.index + 1}"


@dataclass(frozen=True, eq=False)
class Reader:
    """Turns the records of a table into checked rows, with columns by role and images below a root.

    A copy of it can be sent to another process.
    """

    table: Table
    columns: Columns
    usual: Usual
    root: Path
    """The folder that no image path may leave."""
    split: str = ""
    """The split of rows in a table without such a column."""
    start: Path | None = None
    """The folder that relative image paths begin at; by default the root."""

    @property
    def source(self) -> str:
        """What the table is called in messages."""
        return self.table.source

    @cached_property
    def roles(self) -> dict[str, str]:
        """The column of each role. Raises :class:`DataError` for repeated and for missing columns."""
        choices: dict[str, tuple[str, ...]] = {}
        own = self.table.usual
        usual = {role: own.get(role, names) for role, names in self.usual.items()}
        for item in fields(Columns):
            given = getattr(self.columns, item.name)
            choices[item.name] = usual.get(item.name, ()) if given is None else (given,)
        present = self.table.names({name for names in choices.values() for name in names})
        for column, count in Counter(present).items():
            if count > 1 and column:
                raise DataError(f"{self.source}: has column {named([column])} {count} times")
        roles: dict[str, str] = {}
        for role, names in choices.items():
            name = next((name for name in names if name in present), None)
            if name is not None:
                roles[role] = name
            elif names and (role in _NEEDED or getattr(self.columns, role) is not None):
                purpose = "" if names == (role,) else f" for the {role}"
                wanted, there = " or ".join(map(repr, names)), cut(named(present, 20)) or "none"
                choose = self.usual == SCORING and getattr(self.columns, role) is None
                hint = f"; --{role}-column names another" if choose else ""
                raise DataError(f"{self.source}: no column {wanted}{purpose}; its columns are {there}{hint}")
        return roles

    @cached_property
    def _count(self) -> int | None:
        return self.table.count()

    @cached_property
    def image_cursor(self) -> _ImageCursor:
        """Where cell images are read from."""
        return _ImageCursor()

    def __getstate__(self) -> dict[str, Any]:
        # An open file does not travel to another process, which opens its own.
        return {name: value for name, value in self.__dict__.items() if name != "image_cursor"}

    def fingerprint(self) -> dict[str, Any]:
        """A summary, in plain JSON types, that changes with the table."""
        roles = self.roles
        return self.table.fingerprint([roles[r] for r in ("text", "context", "references") if r in roles])

    def scan(self, step: int) -> Scan:
        """Count the rows, and mark every ``step``-th. Raises :class:`DataError` as :attr:`roles`."""
        roles, count = self.roles, self._count
        if count is not None:
            return Scan(count, [[number] for number in range(0, count, step)])
        marks: list[Mark] = []
        rows = 0
        for record in self.table.records(roles, None):
            if rows % step == 0:
                marks.append(record.mark)
            rows += 1
        return Scan(rows, marks)

    def records(self, start: int = 0, mark: Mark = None) -> Iterator[Record]:
        """Records from row ``start`` (0-based) on. Without a mark, some formats read all rows before it."""
        if mark is None and start and self._count is not None:
            mark = [start]
        return islice(self.table.records(self.roles, mark), 0 if mark else start, None)

    def cells(self, record: Record, roles: Mapping[str, str]) -> Mapping[str, Any]:
        """The cells of a record by column name. Raises :class:`InputError` for a damaged record."""
        if isinstance(record.content, InputError):
            raise record.content.with_traceback(None)  # one error may stand for many records
        return self.table.cells(record.content, roles)

    def rows(self, start: int = 0, mark: Mark = None) -> Iterator[Row]:
        """Rows from number ``start`` (0-based) on; ``mark`` is what :meth:`scan` gives for it."""
        for number, record in enumerate(self.records(start, mark), start + 1):
            yield self._row(number, record)

    def _row(self, number: int, record: Record) -> Row:
        cells: Mapping[str, Any] = {}
        image = references = fault = None
        try:
            cells = self.cells(record, self.roles)
            self._check_texts(cells)
            references = parse_references(self._cell(cells, "references"))
            if "image" in self.roles:
                image = self._image(self._cell(cells, "image"))
                self._check_there(image)
        except InputError as error:
            # Errors of paths and of named records say already what they are about.
            is_named = record.id is not None or error.kind in ("url_not_supported", "outside_image_root")
            # An image's error stays one: an empty or decorative text is reported before it. The new error
            # has no traceback, which would keep all cells in memory.
            reason = cut(str(error), MESSAGE_LIMIT)
            fault = type(error)(error.kind, reason if is_named else f"row {number}: {reason}")
        stored: StoredImage | None = FileImage(Path(image)) if isinstance(image, str) else None
        if isinstance(image, bytes):
            stored = CellImage(self, number - 1)
        group = self._cell(cells, "group")
        return Row(
            source=self.source,
            number=number,
            id=self._id(number, record, cells),
            image=image,
            image_as_written=_path_of(self._cell(cells, "image")),
            text=self._cell(cells, "text"),
            description=self._cell(cells, "description"),
            caption=self._cell(cells, "caption"),
            context=self._cell(cells, "context"),
            references=references,
            split=normal_split(self._cell(cells, "split")) if "split" in self.roles else self.split,
            group=None if group is None or group == "" else str(group),
            fault=fault,
            line=record.line,
            cells={} if self.roles else cells,  # without roles all cells are read, and asked for by name
            stored=stored,
        )

    def _cell(self, cells: Mapping[str, Any], role: str) -> Any:
        return cells.get(self.roles[role]) if role in self.roles else None

    def _check_texts(self, cells: Mapping[str, Any]) -> None:
        """Raise :class:`InputError` for a cell that is too long or no Unicode, or an id that is too long.

        Where there are roles, only their cells count.
        """
        for column in dict.fromkeys(self.roles.values()) or cells:
            value = cells.get(column)
            if not isinstance(value, str) or column == self.roles.get("image"):
                continue
            if len(value) > CELL_LIMIT:
                length = f"{len(value):,} characters, over the limit of {CELL_LIMIT:,}"
                raise InputError("bad_row", f"column {column!r} holds {length}")
            if not is_unicode(value):
                # Bytes that are no UTF-8 are read as these; other halves of characters are as written.
                cure = SAVE_AS_UTF8 if re.search("[\udc80-\udcff]", value) else ""
                raise InputError("wrong_encoding", f"column {column!r} is not UTF-8 text{cure}")
        size = len(id_text(self._cell(cells, "id")) or "")
        is_path = self.roles.get("id") == self.roles.get("image")  # paths have their own limit
        if size > ID_LIMIT and not is_path:
            raise InputError("bad_row", f"its id holds {size:,} characters, over the limit of {ID_LIMIT:,}")

    def _image(self, value: object) -> str | bytes:
        if isinstance(value, InputError):  # a format's own reason why there is none
            raise value
        value = bytes_or_path(value)
        if isinstance(value, bytes):
            if not value:
                raise ImageError("empty_image", "its image holds no bytes")
            return value
        if value is None or (isinstance(value, str) and is_blank(value)):
            raise ImageError("missing_image", "has no image")
        if not isinstance(value, str):
            raise ImageError("bad_image_type", f"the image is {type(value).__name__}, not a path")
        try:
            file = find_image(str(self.root), value, self.table.folders, self.start)
        except ImageError as error:
            hint = "; --image-root / allows every file" if error.kind == "outside_image_root" else ""
            raise ImageError(error.kind, f"{error}{hint}") from None
        return file

    def _check_there(self, image: str | bytes) -> None:
        """Raise the error of a missing file early, for a table that knows what may be wrong."""
        hint = "" if self.root == Path("/") else self.table.missing_hint
        if hint and isinstance(image, str) and "\0" not in image:
            try:
                os.stat(image)
            except (FileNotFoundError, NotADirectoryError):
                raise ImageError("missing_image", f"{cut(image)}: no such file{hint}") from None
            except OSError:
                return  # the error comes when the image is read

    def _id(self, number: int, record: Record, cells: Mapping[str, Any]) -> str:
        text = id_text(self._cell(cells, "id"))
        if text is None or len(text) > ID_LIMIT:
            text = record.id
        if text is None:
            return f"{self._id_prefix}{number}"
        return text.encode("utf-8", "backslashreplace").decode()

    @cached_property
    def _id_prefix(self) -> str:
        """The prefix of numbers that stand for missing ids, so that they never equal another row's id.

        It is empty in most tables, and ``row-``, ``row--`` and so on where ids look like numbered rows.
        Only a table with an id column and a row without an id is read for this.
        """
        if "id" not in self.roles:
            return ""
        roles = {"id": self.roles["id"]}
        taken: set[str] = set()
        for record in self.table.records(roles, None):
            try:
                cells = self.cells(record, roles)
            except InputError:
                continue
            match = _NUMBERED.fullmatch(id_text(self._cell(cells, "id")) or "")
            if match and len(match[0]) <= ID_LIMIT:
                taken.add(match[1])
        prefix = ""
        while prefix in taken:
            prefix = f"{prefix or 'row'}-"
        return prefix


def _path_of(cell: object) -> str | None:
    path = cell.get("path") if isinstance(cell, Mapping) else cell
    return path if isinstance(path, str) and len(path) <= PATH_LIMIT else None


_NUMBERED = re.compile(r"((?:row-+)?)[0-9]+")


def open_file(path: Path) -> BinaryIO:
    """The file, open for reading bytes. Raises :class:`DataError` where it cannot be read."""
    try:
        return open_regular(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


def check_readable(paths: Iterable[Path]) -> None:
    """Raise as :func:`open_file` for the first path that cannot be opened."""
    for path in paths:
        open_file(path).close()


def file_fingerprint(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file; of one over 4 GiB, those of its ends and the time of its last change."""
    stat = path.stat()
    digest = hashlib.sha256()
    with open_file(path) as file:
        if stat.st_size <= _WHOLE:
            while block := file.read(_BLOCK):
                digest.update(block)
            return {"bytes": stat.st_size, "sha256": digest.hexdigest()}
        digest.update(file.read(_BLOCK))
        file.seek(-_BLOCK, os.SEEK_END)
        digest.update(file.read(_BLOCK))
    return {"bytes": stat.st_size, "ends_sha256": digest.hexdigest(), "changed_ns": stat.st_mtime_ns}


_WHOLE, _BLOCK = 4 << 30, 1 << 22
