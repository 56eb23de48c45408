"""Tables in lines of text, which can be read from the middle: CSV, TSV and JSON Lines."""

from __future__ import annotations

import codecs
import csv
import io
import logging
import re
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from descscore.errors import DataError, InputError
from descscore.tables.cells import (
    CELL_LIMIT,
    SAVE_AS_UTF8,
    compression,
    cut,
    from_csv_cell,
    is_unicode,
    parse_object,
    text_coding,
)
from descscore.tables.reader import (
    PREFERENCE,
    SCORING,
    Columns,
    FileTable,
    Mark,
    Reader,
    Record,
    Usual,
    open_file,
)
from descscore.tables.rows import Row

_log = logging.getLogger(__name__)

_HEAD = 1 << 16

LINE_LIMIT = 1 << 24
"""Longest line, in characters. A longer one is passed over, not read into memory."""


class _Coding(NamedTuple):
    """How a file holds text. start: the byte after the byte order mark; newline: what ends a line."""

    name: str
    start: int
    newline: str

    @property
    def errors(self) -> str:
        """How invalid bytes become surrogates, which are reported with their row. In paths they are
        what the file system expects.
        """
        return "surrogateescape" if self.name == "utf-8" else "surrogatepass"


def _coding(path: Path, head: bytes) -> _Coding:
    """The coding of a file that begins with ``head``. Raises :class:`DataError` for one that is no text."""
    if compression(head):
        raise DataError(f"{path}: {compression(head)}")
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise DataError(f"{path}: is UTF-32 text; save it as UTF-8")
    name, start = text_coding(head)
    text = head[start:].decode(name, "replace")
    end = re.search("\r\n|\n|\r(?!$)", text)  # a head may end between the two bytes of \r\n
    if "\0" in text[: end.start() if end else None]:
        raise DataError(
            f"{path}: is no UTF-8 text: its first line holds zero bytes, as in a binary file "
            "or in UTF-16 without a byte order mark; save it as UTF-8"
        )
    return _Coding(name, start, "\r" if end and end[0] == "\r" else "\n")


class _Lines:
    """Lines of a text file. place: the byte where the next line begins; number: how many were read so far."""

    def __init__(self, file: BinaryIO, coding: _Coding, place: int, number: int) -> None:
        file.seek(place)
        self._lines = io.TextIOWrapper(file, coding.name, coding.errors, newline=coding.newline)
        self._coding = coding
        self.place, self.number = place, number
        self._ended = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        """The next line. Raises :class:`InputError` for one that is too long, and then goes on behind it."""
        line = part = self._part()
        if not line:
            raise StopIteration
        self.number += 1
        while len(part) == LINE_LIMIT and not part.endswith(self._coding.newline):
            part = self._part()
            if part:
                line = ""
        if not line:
            raise InputError("bad_row", f"line {self.number} holds over {LINE_LIMIT:,} characters")
        return line

    def _part(self) -> str:
        """The rest of a line, up to the limit."""
        if self._ended:
            return ""
        try:
            part = self._lines.readline(LINE_LIMIT)
        except UnicodeDecodeError:  # other wrong bytes are replaced and found later
            self._ended = True
            lost = f"the file ends within a character; line {self.number + 1} is lost"
            raise InputError("wrong_encoding", lost) from None
        self.place += len(part.encode(self._coding.name, self._coding.errors))
        return part


@dataclass(frozen=True)
class _LineTable(FileTable):
    """A table in lines. A mark is the byte where a row begins, and the number of lines before it."""

    def records(self, roles: Mapping[str, str], mark: Mark = None) -> Iterator[Record]:
        with open_file(self.path) as file:
            lines = _Lines(file, self._coding, *(mark or self._begin))
            place = [lines.place, lines.number]
            for content in self._split(lines):
                if content:  # empty lines are no rows
                    yield Record(content, place, line=place[1] + 1)
                place = [lines.place, lines.number]

    @abstractmethod
    def _split(self, lines: _Lines) -> Iterator[Any]:
        """What the lines hold of each row; something false for an empty line."""

    @cached_property
    def _coding(self) -> _Coding:
        with open_file(self.path) as file:
            return _coding(self.path, file.read(_HEAD))

    @property
    def _begin(self) -> tuple[int, int]:
        """The mark of the first line that counts."""
        return self._coding.start, 0


class _Dialect(NamedTuple):
    """How lines are divided into cells. quoted: whether quotation marks count; header: if there is one."""

    delimiter: str
    quoted: bool = True
    header: bool = True


@dataclass(frozen=True)
class CsvTable(_LineTable):
    """Lines of cells, in UTF-8, or in UTF-16 with a byte order mark. The first line is the header.

    The header tells whether commas, semicolons or tabs stand between the cells; or a line ``sep=;`` before
    it, as Excel reads and writes it, which may name any other mark.
    """

    def names(self, wanted: Collection[str] = ()) -> list[str]:
        return self._header

    @property
    def usual(self) -> Usual:
        return _WIT if _WIT_CAPTION in self._header else {}

    @cached_property
    def _dialect(self) -> _Dialect:
        """The one that divides the header; of several, the one that finds most of the usual names."""
        if self._said[0]:
            return _Dialect(self._said[0])
        headers = [self._first_row(_Dialect(delimiter)) for delimiter in _DELIMITERS]
        found = [sum(name.strip().lower() in _USUAL_NAMES for name in header) for header in headers]
        choices = [place for place, header in enumerate(headers) if len(header) > 1] or [0]
        return _Dialect(_DELIMITERS[max(choices, key=found.__getitem__)])

    def _first_row(self, dialect: _Dialect) -> list[str]:
        with open_file(self.path) as file:
            lines = _Lines(file, self._coding, *self._begin)
            content = next(_csv_rows(lines, dialect), [])
        return [] if isinstance(content, InputError) else content

    @cached_property
    def _said(self) -> tuple[str, tuple[int, int]]:
        """What a first line ``sep=;`` says, or '', and the mark behind it."""
        with open_file(self.path) as file:
            lines = _Lines(file, self._coding, *super()._begin)
            try:
                said = _SEPARATOR.fullmatch(next(lines))
            except (StopIteration, InputError):
                said = None
            return (said[1], (lines.place, lines.number)) if said else ("", super()._begin)

    @property
    def _begin(self) -> tuple[int, int]:
        return self._said[1]

    @cached_property
    def _header(self) -> list[str]:
        names: list[str] | InputError = next((record.content for record in super().records({})), [])
        if isinstance(names, InputError):
            raise DataError(f"{self.path}: the header cannot be read: {names}")
        if not all(map(is_unicode, names)):
            raise DataError(f"{self.path}: the header is not UTF-8 text{SAVE_AS_UTF8}")
        return [name.strip() for name in names]

    def records(self, roles: Mapping[str, str], mark: Mark = None) -> Iterator[Record]:
        return islice(super().records(roles, mark), 0 if mark or not self._dialect.header else 1, None)

    def _split(self, lines: _Lines) -> Iterator[list[str] | InputError]:
        return _csv_rows(lines, self._dialect)

    def cells(self, content: Any, roles: Mapping[str, str]) -> Mapping[str, Any]:
        names = self._header
        if len(content) != len(names):
            # A text with a comma and no quotes would otherwise be cut at the comma, unseen.
            hint = _HINTS.get(self._dialect.delimiter, "") if len(content) > len(names) else ""
            raise InputError("bad_row", f"has {len(content)} cells, the header {len(names)}{hint}")
        return dict(zip(names, map(from_csv_cell, content), strict=True))


_WIT_CAPTION = "caption_reference_description"
_WIT: Usual = {
    "image": (*SCORING["image"], "image_url"),
    "text": ("text", "caption_alt_text_description"),
    "description": ("description", "caption_alt_text_description"),
    "caption": ("caption", _WIT_CAPTION),
    "group": ("page_url",),
}
"""The columns of WIT (Srinivasan et al. 2021, arXiv 2103.01913)."""

_DELIMITERS = (",", ";", "\t")
_SEPARATOR = re.compile(r"""(?i)"?sep=([^"'\w\r\n])"?[\r\n]*""")
_HINTS = {
    delimiter: f"; put texts with {name} in quotation marks"
    for delimiter, name in zip(_DELIMITERS, ("commas", "semicolons", "tabs"), strict=True)
}
_USUAL_NAMES = frozenset(
    name for usual in (SCORING, PREFERENCE) for names in usual.values() for name in names
)


def _csv_rows(lines: Iterator[str], dialect: _Dialect) -> Iterator[list[str] | InputError]:
    """Rows, with an error in place of one that cannot be read."""
    quoting: dict[str, Any] = {} if dialect.quoted else {"quoting": csv.QUOTE_NONE}
    reader = csv.reader(lines, strict=True, delimiter=dialect.delimiter, **quoting)
    while True:
        # The limit is the whole process's: other users of csv must not find it changed.
        usual = csv.field_size_limit(CELL_LIMIT)
        try:
            content: list[str] | InputError = next(reader)
        except StopIteration:
            return
        except InputError as error:
            content = error
        except csv.Error as error:
            reason = next((text for part, text in _CSV_FAULTS.items() if part in str(error)), str(error))
            content = InputError("bad_row", reason)
        finally:
            csv.field_size_limit(usual)
        yield content


_CSV_FAULTS = {
    "field larger": f"a cell holds over {CELL_LIMIT:,} characters, or a quotation mark is never closed",
    "unexpected end": "a quotation mark is never closed, so the row runs to the end of the file",
    "expected after": "text follows a closing quotation mark; inside a quoted text a mark is written twice",
    "new-line character": "a carriage return stands outside quotation marks",
}


_ADDRESS = re.compile(r"(?i)[a-z][a-z0-9+.-]*://\S+|\S.*\.(png|jpe?g|gif|webp|bmp|tiff?|avif)")
"""A cell that is an image's address or path, and so no column's name."""


@dataclass(frozen=True)
class TsvTable(CsvTable):
    """Lines of cells with tabs between them.

    A file whose first line holds an image's address or path has no header, as that of Conceptual Captions.
    Its columns are numbered from 1, and quotation marks in it are part of the texts.
    """

    @cached_property
    def _dialect(self) -> _Dialect:
        delimiter = self._said[0] or "\t"
        has_header = not any(map(_ADDRESS.fullmatch, self._first_row(_Dialect(delimiter, quoted=False))))
        return _Dialect(delimiter, has_header, has_header)

    @cached_property
    def _header(self) -> list[str]:
        header = super()._header
        return header if self._dialect.header else [str(i) for i in range(1, len(header) + 1)]

    @cached_property
    def usual(self) -> Usual:
        """Without a header: the column of addresses or paths is the image, the only other one the text."""
        if self._dialect.header:
            return super().usual
        cells = self._first_row(self._dialect)
        image = next(i for i, cell in enumerate(cells, 1) if _ADDRESS.fullmatch(cell))
        others = [str(i) for i in range(1, len(cells) + 1) if i != image]
        text = others[0] if len(others) == 1 else ""
        read = f", column {text} as the text" if text else "; name the others by their numbers"
        _log.warning("%s: has no header; column %d is read as the image%s", self.path, image, read)
        return {"image": (str(image),), **({"text": (text,)} if text else {})}


@dataclass(frozen=True)
class JsonlTable(_LineTable):
    """A file with one JSON object a line; empty lines are passed over."""

    def names(self, wanted: Collection[str] = ()) -> list[str]:
        """Keys that occur: all of those ``wanted``, also those that the first line lacks.

        After the first object, only lines that may hold a missing key are parsed: as it is, or escaped.
        """
        missing, present = set(wanted), dict[str, None]()
        for record in self.records({}):
            if isinstance(record.content, InputError):
                continue
            line = record.content
            if present and "\\" not in line and not any(f'"{name}"' in line for name in missing):
                continue
            try:
                keys = self.cells(line, {}).keys()
            except InputError:
                continue
            missing -= keys
            present |= dict.fromkeys(key for key in keys if key in wanted or len(present) < 100)
            if not missing:
                break
        return list(present) or list(wanted)  # without one object, the faults of the rows say more

    def _split(self, lines: _Lines) -> Iterator[str | InputError]:
        while True:
            try:
                line = next(lines)
            except StopIteration:
                return
            except InputError as error:
                yield error
            else:
                yield line if line.strip() else ""

    def cells(self, content: Any, roles: Mapping[str, str]) -> Mapping[str, Any]:
        try:
            return parse_object(content.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}"), roles.get("id"))
        except InputError as error:
            hint = "; the file is one list: give it the ending .json, or --input-format json"
            raise InputError(error.kind, f"{error}{hint if self._is_list else ''}") from None

    @cached_property
    def _is_list(self) -> bool:
        """Whether the file begins as a list of objects does, and so is a table of JSON."""
        with open_file(self.path) as file:
            head = file.read(_HEAD)[self._coding.start :].decode(self._coding.name, "replace")
        return re.match(r"\s*\[\s*\{", head) is not None


def read_csv(path: Path, required: Iterable[str] = ()) -> list[Row]:
    """All rows of a CSV file, with their cells as text by column name.

    Raises:
        DataError: A row has a fault, which is named with its line; the file cannot be read; a required
            column is missing; or a column occurs twice.
    """
    reader = Reader(CsvTable(path), Columns(), {}, path.parent)
    check_columns(path, reader.table.names(()), required)
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
        raise DataError(f"{path}: lacks column {', '.join(missing)} (has {cut(', '.join(names)) or 'none'})")
