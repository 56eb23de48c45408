"""Tables in text files: CSV, and JSON Lines. Both can be read from the middle."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from descscore.errors import DataError, InputError
from descscore.tables.image_root import ImageRoot
from descscore.tables.reader import (
    CELL_LIMIT,
    Columns,
    FileTable,
    Mark,
    Reader,
    Record,
    Scan,
    check_unique_names,
    is_unicode,
    named,
)
from descscore.tables.rows import Row

_HEAD = 1 << 16
_MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"


class _Coding(NamedTuple):
    """How a file holds text. start: the byte after the byte order mark; newline: what ends a line."""

    name: str
    start: int
    newline: str

    @property
    def errors(self) -> str:
        """How what is not valid becomes surrogates, which are reported with their row; in paths
        they are what the file system expects.
        """
        return "surrogateescape" if self.name == "utf-8" else "surrogatepass"


_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def _coding(path: Path, head: bytes) -> _Coding:
    """The coding of a file that begins with ``head``. Raises :class:`DataError` for one that is no text."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise DataError(f"{path}: is UTF-32 text; save it as UTF-8")
    mark, name = next((pair for pair in _MARKS if head.startswith(pair[0])), (b"", "utf-8"))
    text = head[len(mark) :].decode(name, "replace")
    end = re.search("\r\n|\n|\r(?!$)", text)  # a head may end between the two bytes of \r\n
    if "\0" in text[: end.start() if end else None]:
        raise DataError(
            f"{path}: is no UTF-8 text: its first line holds zero bytes, as in a binary file "
            "or in UTF-16 without a byte order mark; save it as UTF-8"
        )
    return _Coding(name, len(mark), "\r" if end and end[0] == "\r" else "\n")


def decode_text(data: bytes, name: str) -> str:
    """A whole text, from UTF-8 or from UTF-16 with a byte order mark, without the line end that editors add.

    Raises:
        InputError: It is something else, or longer than :data:`CELL_LIMIT`; the message begins with ``name``.
    """
    mark, coding = next((pair for pair in _MARKS if data.startswith(pair[0])), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(coding).rstrip("\r\n")
    except UnicodeDecodeError:
        raise InputError("wrong_encoding", f"{name}: is not UTF-8 text") from None
    if len(text) > CELL_LIMIT:
        raise InputError("bad_row", f"{name}: holds over {CELL_LIMIT:,} characters")
    return text


class _Lines:
    """Lines of a text file. place: the byte where the next one begins; number: of lines read so far."""

    def __init__(self, file: BinaryIO, coding: _Coding, place: int, number: int) -> None:
        file.seek(place)
        self._lines = io.TextIOWrapper(file, coding.name, coding.errors, newline=coding.newline)
        self._coding = coding
        self.place, self.number = place, number

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        try:
            line = next(self._lines)
        except UnicodeDecodeError as error:
            raise DataError(f"{self._lines.name}: is not whole {self._coding.name} text ({error})") from None
        self.place += len(line.encode(self._coding.name, self._coding.errors))
        self.number += 1
        return line


@dataclass(frozen=True)
class _TextTable(FileTable):
    """A table in a text file. A mark is the byte where a row begins, and the number of lines before it."""

    def scan(self, step: int) -> Scan:
        marks: list[Mark] = []
        count, mark = 0, self._first_row
        for lines, _ in self._items(mark):
            if count % step == 0:
                marks.append(mark)
            count += 1
            mark = [lines.place, lines.number]
        return Scan(count, marks)

    def records(self, roles: Mapping[str, str], start: int = 0, mark: Mark = None) -> Iterator[Record]:
        skipped = 0 if mark else start
        for number, (lines, item) in enumerate(self._items(mark or self._first_row)):
            if number >= skipped:
                try:
                    yield Record(self._cells(item, roles), None, lines.number)
                except InputError as error:
                    yield Record({}, error, lines.number)

    @property
    @abstractmethod
    def _first_row(self) -> list[int]:
        """The mark of the first row."""

    @abstractmethod
    def _split(self, lines: _Lines) -> Iterator[Any]:
        """What the lines hold of each row."""

    @abstractmethod
    def _cells(self, item: Any, roles: Mapping[str, str]) -> dict[str, Any]:
        """The cells of an item of :meth:`_split`. Raises :class:`InputError` for a damaged row."""

    def _items(self, mark: Sequence[int]) -> Iterator[tuple[_Lines, Any]]:
        with self._open() as file:
            lines = _Lines(file, self._coding, *mark)
            for item in self._split(lines):
                yield lines, item

    @cached_property
    def _coding(self) -> _Coding:
        with self._open() as file:
            return _coding(self.path, file.read(_HEAD))

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror or error}") from None


@dataclass(frozen=True)
class CsvTable(_TextTable):
    """A CSV file with a header, in UTF-8, or in UTF-16 with a byte order mark."""

    def names(self, wanted: Collection[str] = ()) -> list[str]:
        return self._header[0]

    @cached_property
    def _header(self) -> tuple[list[str], list[int]]:
        """The names of the columns, and the mark of the first row."""
        for lines, names in self._items([self._coding.start, 0]):
            if isinstance(names, InputError):
                raise DataError(f"{self.path}: the header cannot be read: {names}")
            if not all(map(is_unicode, names)):
                raise DataError(f"{self.path}: the header is not UTF-8 text")
            return [name.strip() for name in names], [lines.place, lines.number]
        return [], [self._coding.start, 0]

    @property
    def _first_row(self) -> list[int]:
        return self._header[1]

    def _split(self, lines: _Lines) -> Iterator[list[str] | InputError]:
        """Rows, with an error in place of one that cannot be read; empty lines are none."""
        reader = csv.reader(lines, strict=True)
        while True:
            # The limit is the whole process's: other users of csv must not find it changed.
            usual = csv.field_size_limit(CELL_LIMIT)
            try:
                item: list[str] | InputError = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                reason = next((text for part, text in _CSV_FAULTS.items() if part in str(error)), str(error))
                item = InputError("bad_row", reason)
            finally:
                csv.field_size_limit(usual)
            if item:
                yield item

    def _cells(self, item: list[str] | InputError, roles: Mapping[str, str]) -> dict[str, Any]:
        if isinstance(item, InputError):
            raise item
        names = self._header[0]
        if len(item) != len(names):
            # A text with a comma and no quotes would otherwise be cut at the comma, unseen.
            hint = "; put texts with commas in quotation marks" if len(item) > len(names) else ""
            raise InputError("bad_row", f"has {len(item)} cells, the header {len(names)}{hint}")
        return dict(zip(names, item, strict=True))


_CSV_FAULTS = {
    "field larger": f"a cell holds over {CELL_LIMIT:,} characters, or a quotation mark is never closed",
    "unexpected end": "a quotation mark is never closed, so the row runs to the end of the file",
    "expected after": "text follows a closing quotation mark; inside a quoted text a mark is written twice",
    "new-line character": "a carriage return stands outside quotation marks",
}


@dataclass(frozen=True)
class JsonlTable(_TextTable):
    """A file with one JSON object a line; empty lines are passed over."""

    def names(self, wanted: Collection[str] = ()) -> list[str]:
        """Keys that occur: all of those ``wanted``, which need not stand in the first line."""
        missing, present = set(wanted), dict[str, None]()
        for record in self.records({}):
            missing -= record.cells.keys()
            present |= dict.fromkeys(key for key in record.cells if key in wanted or len(present) < 100)
            if not missing:
                break
        return list(present) or list(wanted)  # without one object, the faults of the rows say more

    @property
    def _first_row(self) -> list[int]:
        return [self._coding.start, 0]

    def _split(self, lines: _Lines) -> Iterator[str]:
        return (line for line in lines if line.strip())

    def _cells(self, item: str, roles: Mapping[str, str]) -> dict[str, Any]:
        return parse_object(item.removeprefix(_MARK), roles.get("id"))


def parse_object(text: str, id_column: str | None = None) -> dict[str, Any]:
    """A JSON object, with the number in ``id_column`` as it is written.

    Raises:
        InputError: There is no object, or one with a key twice (kind ``bad_row``).
    """
    try:
        cells = json.loads(text, object_pairs_hook=_unique)
        value = None if not (id_column and isinstance(cells, dict)) else cells.get(id_column)
        if isinstance(value, float) or (value == 0 and value is not False):
            cells[id_column] = json.loads(text, parse_int=str, parse_float=str)[id_column]
    except (ValueError, RecursionError) as error:
        raise InputError("bad_row", f"not valid JSON ({error})") from None
    if not isinstance(cells, dict):
        raise InputError("bad_row", f"expected an object, got {type(cells).__name__}")
    return cells


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    cells = dict(pairs)
    if len(cells) < len(pairs):
        name = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise InputError("bad_row", f"the object has key {named([name])} more than once")
    return cells


def read_csv(path: Path, required: Iterable[str] = ()) -> list[Row]:
    """All rows of a CSV file, with their cells as text by column name.

    Raises:
        DataError: A row has a fault, which is named with its line; the file cannot be read; a required
            column is missing; or a column occurs twice.
    """
    reader = Reader(CsvTable(path), Columns(), {}, ImageRoot(str(path.parent)))
    names = reader.table.names(())
    check_unique_names(str(path), names)
    check_columns(path, names, required)
    rows = []
    for row in reader.rows():
        if row.fault is not None:
            reason = str(row.fault).removeprefix(f"row {row.number}: ")
            raise DataError(f"{path}: line {row.line}: {reason}")
        rows.append(row)
    return rows


def check_columns(path: Path, names: Sequence[str], required: Iterable[str]) -> None:
    """Raise a :class:`DataError` that names the missing columns and those there are."""
    missing = [name for name in required if name not in names]
    if missing:
        raise DataError(f"{path}: lacks column {', '.join(missing)} (has {', '.join(names)[:500] or 'none'})")
