"""Read pairs from CSV and JSONL, row by row; a damaged row is a row with its fault."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from descscore.batch.columns import ColumnNames, checked_row
from descscore.batch.input_row import ImageRoot, InputRow, Mark, Scan, file_fingerprint
from descscore.errors import DataError, InputError


@dataclass(frozen=True)
class TableFile:
    """What all tables in one file share. root: where relative image paths begin."""

    path: Path
    columns: ColumnNames
    root: ImageRoot

    @property
    def source(self) -> str:
        return str(self.path)

    def fingerprint(self) -> dict[str, Any]:
        return file_fingerprint(self.path)


@dataclass(frozen=True)
class CsvInput(TableFile):
    """A CSV file with a header, in UTF-8."""

    def scan(self, step: int) -> Scan:
        marks: list[Mark] = []
        count = 0
        with self.path.open("rb") as file:
            _, lines = self._open(file)
            place = lines.place
            for _ in _records(lines):
                if count % step == 0:
                    marks.append([place])
                count += 1
                place = lines.place
        return Scan(count, marks)

    def rows(self, start: int = 0, mark: Mark = None) -> Iterator[InputRow]:
        with self.path.open("rb") as file:
            names, lines = self._open(file)
            first = 0
            if mark is not None:
                first, lines = start, _Lines(file, mark[0])
            for number, cells in enumerate(_records(lines), start=first):
                if number >= start:
                    yield self._row(number, names, cells)

    def _open(self, file: BinaryIO) -> tuple[list[str], _Lines]:
        """The header, and the lines after it."""
        lines = _Lines(file, 0)
        names = next(_records(lines), [])
        if not isinstance(names, list):
            raise DataError(f"{self.path}: the header cannot be read ({names})")
        if names:
            names[0] = names[0].removeprefix(_MARK)  # spreadsheets write a byte order mark
        self.columns.check(self.source, names)
        return names, lines

    def _row(self, number: int, names: list[str], cells: list[str] | csv.Error) -> InputRow:
        name = f"row {number + 1}"
        if isinstance(cells, csv.Error):
            return InputRow(str(number + 1), None, None, InputError("bad_row", f"{name}: {cells}"))
        if len(cells) != len(names):
            # A text with a comma and no quotes would otherwise be cut at the comma, unseen.
            fault = InputError("bad_row", f"{name}: has {len(cells)} fields, the header {len(names)}")
            return InputRow(str(number + 1), None, None, fault)
        row = dict(zip(names, cells, strict=True))
        return checked_row(number, self.columns.pick(row), self.root)


_MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"
_FIELD_LIMIT = 1 << 20


class _Lines:
    """Lines of a file as text; ``place`` is the byte where the next line begins.

    Bytes that are not UTF-8 become surrogates, to be reported with their row; in
    paths they are what the file system expects.
    """

    def __init__(self, file: BinaryIO, place: int) -> None:
        self.file, self.place = file, place
        file.seek(place)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.file.readline()
        if not line:
            raise StopIteration
        self.place += len(line)
        return line.decode("utf-8", "surrogateescape")


def _records(lines: _Lines) -> Iterator[list[str] | Any]:
    """Records of a CSV file, a :class:`csv.Error` for one that cannot be read; empty lines are none."""
    reader = csv.reader(lines)
    while True:
        # The limit is the whole process's: other readers of tables must not find it changed.
        usual = csv.field_size_limit(_FIELD_LIMIT)
        try:
            record: list[str] | csv.Error = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            record = error
        finally:
            csv.field_size_limit(usual)
        if record:
            yield record


@dataclass(frozen=True)
class JsonlInput(TableFile):
    """A file with one JSON object a line, in UTF-8; empty lines are passed over."""

    def scan(self, step: int) -> Scan:
        """Raises :class:`DataError` where a needed column occurs in no row at all."""
        marks: list[Mark] = []
        count, place = 0, 0
        missing, present = set(self.columns.needed), dict[str, None]()
        with self.path.open("rb") as file:
            for line in file:
                if line.strip():
                    if count % step == 0:
                        marks.append([place])
                    count += 1
                    if missing and isinstance(cells := _parse(line), dict):
                        missing -= cells.keys()
                        present |= dict.fromkeys(list(cells)[:20])
                place += len(line)
        if count and missing:
            self.columns.check(self.source, present)
        return Scan(count, marks)

    def rows(self, start: int = 0, mark: Mark = None) -> Iterator[InputRow]:
        with self.path.open("rb") as file:
            number = 0
            if mark is not None:
                file.seek(mark[0])
                number = start
            for line in file:
                if line.strip():
                    if number >= start:
                        yield self._row(number, _parse(line))
                    number += 1

    def _row(self, number: int, cells: dict[str, Any] | str) -> InputRow:
        if isinstance(cells, str):
            fault = InputError("bad_row", f"row {number + 1}: {cells}")
            return InputRow(str(number + 1), None, None, fault)
        return checked_row(number, self.columns.pick(cells), self.root)


def _parse(line: bytes) -> dict[str, Any] | str:
    """The object of a line, or what is wrong with it."""
    try:
        text = line.decode("utf-8", "surrogateescape").removeprefix(_MARK)
        cells = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"not valid JSON ({error})"
    return cells if isinstance(cells, dict) else f"expected an object, got {type(cells).__name__}"
