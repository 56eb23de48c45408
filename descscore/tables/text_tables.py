"""Read pairs from CSV and JSONL, row by row; a damaged row is a row with its fault."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from descscore.errors import DataError, InputError
from descscore.tables.cells import BATCH_ROWS, BytesStore, CellImage, HubBytes, ParquetBytes, cell_bytes
from descscore.tables.rows import (
    ColumnNames,
    FileImage,
    ImageRoot,
    InputRow,
    Mark,
    NoImage,
    Row,
    Scan,
    StoredImage,
    checked_row,
    file_fingerprint,
    normal_split,
)

# Read pairs from any table: CSV, JSONL, Parquet, or a hub data set through ``datasets``.
#
# An image is given as a path (relative to the table's folder or an image root), as
# the bytes of an image file, or as the struct ``image{bytes, path}`` that the
# ``datasets`` library writes. Bytes stay in the file until they are asked for.


SUFFIXES = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Columns:
    """Column names. One that is None is looked for under its usual names; images and texts are needed."""

    image: str | None = None
    description: str | None = None
    caption: str | None = None
    split: str | None = None
    id: str | None = None
    group: str | None = None
    context: str | None = None


USUAL_COLUMNS = Columns()

_USUAL = {
    "image": ("image", "filename", "file_name", "path"),
    "description": ("description",),
    "caption": ("caption",),
    "split": ("split",),
    "id": ("id", "filename", "file_name"),
    "group": ("group", "book", "article_id", "article"),
    "context": ("context",),
}
_NEEDED = ("image", "description", "caption")


def resolve_columns(source: str, present: Sequence[str], wanted: Columns) -> Columns:
    """``wanted`` with every None replaced by the usual name that is present, if any.

    Raises :class:`DataError` for a named column that is not there, and for a
    needed one that is not found, with the columns that are.
    """
    found: dict[str, str | None] = {}
    for field in fields(Columns):
        asked = getattr(wanted, field.name)
        names = _USUAL[field.name] if asked is None else (asked,)
        found[field.name] = next((name for name in names if name in present), None)
        if found[field.name] is None and (asked is not None or field.name in _NEEDED):
            raise DataError(
                f"{source}: no column {' or '.join(map(repr, names))} for the {field.name}; "
                f"its columns are {', '.join(map(repr, present)) or 'none'}"
            )
    return Columns(**found)


@dataclass(frozen=True)
class TableOptions:
    """How to read a table.

    columns: see :class:`Columns`. image_root: folder that image paths are relative
    to, by default the table's own. split: that of rows in a table without a split column.
    """

    columns: Columns = USUAL_COLUMNS
    image_root: Path | None = None
    split: str = ""


USUAL_OPTIONS = TableOptions()


def read_table(path: Path, options: TableOptions = USUAL_OPTIONS) -> Iterator[Row]:
    """Rows of one table file in its order.

    Raises :class:`DataError` for a missing or damaged file, an unknown suffix, or a missing column.
    """
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: unknown kind of table; known are {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        yield from reader(path, options)
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


@dataclass(frozen=True)
class _Table:
    """What is needed to make a :class:`Row` of a table's cells."""

    source: str
    columns: Columns
    root: Path
    split: str

    def row(self, index: int, cells: Mapping[str, Any], image: StoredImage) -> Row:
        columns = self.columns
        identity, group = self._cell(cells, columns.id), self._cell(cells, columns.group)
        split = self._cell(cells, columns.split) if columns.split else self.split
        return Row(
            source=self.source,
            number=index + 1,
            image=image,
            description=cells.get(str(columns.description)),
            caption=cells.get(str(columns.caption)),
            split=normal_split(split),
            id=str(index + 1) if identity in (None, "") or isinstance(identity, dict) else str(identity),
            group=None if group in (None, "") else str(group),
            context=str(self._cell(cells, columns.context) or ""),
        )

    @staticmethod
    def _cell(cells: Mapping[str, Any], column: str | None) -> Any:
        return None if column is None else cells.get(column)

    def path_image(self, index: int, path: object) -> StoredImage:
        """The image at ``path``, relative to the root."""
        text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
        if not text.strip():
            return NoImage(f"{self.source} row {index + 1}")
        # An address is not a path below the root; kept as it is, it is refused by name.
        return FileImage(Path(text)) if "://" in text else FileImage(self.root / text)


def _table(path: Path, present: Sequence[str], options: TableOptions) -> _Table:
    columns = resolve_columns(str(path), present, options.columns)
    root = path.parent if options.image_root is None else options.image_root
    return _Table(str(path), columns, root, options.split)


def _csv_rows(path: Path, options: TableOptions) -> Iterator[Row]:
    # A byte order mark, which spreadsheets write, would become part of the first column's name.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        table = _table(path, reader.fieldnames or (), options)
        for index, cells in enumerate(reader):
            yield table.row(index, cells, table.path_image(index, cells.get(str(table.columns.image))))


def _jsonl_rows(path: Path, options: TableOptions) -> Iterator[Row]:
    table = _table(path, _jsonl_keys(path), options)
    for index, cells in enumerate(_jsonl_objects(path)):
        yield table.row(index, cells, table.path_image(index, cells.get(str(table.columns.image))))


def _jsonl_keys(path: Path) -> list[str]:
    """All keys that occur: a first line may lack one that the others have."""
    return list(dict.fromkeys(key for cells in _jsonl_objects(path) for key in cells))


def _jsonl_objects(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                cells = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path} line {number}: not valid JSON ({error})") from None
            if not isinstance(cells, dict):
                raise DataError(f"{path} line {number}: expected an object, got {type(cells).__name__}")
            yield cells


def _parquet_rows(path: Path, options: TableOptions) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
    table = _table(path, schema.names, options)
    image_column = str(table.columns.image)
    store = ParquetBytes(path, image_column)
    used = sorted({name for name in vars(table.columns).values() if name})
    without_images = [name for name in used if name != image_column]
    index = 0
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=used):
            texts = batch if table.columns.id == image_column else batch.select(without_images)
            images = batch.column(image_column)
            for offset, cells in enumerate(texts.to_pylist()):
                image = _parquet_image(table, store, index, images[offset])
                yield table.row(index, cells, image)
                index += 1


def _parquet_image(table: _Table, store: BytesStore, index: int, cell: Any) -> StoredImage:
    """The image of one cell, which is a path, bytes, or a struct of both."""
    if cell_bytes(cell):
        return CellImage(table.source, store, index)
    value = cell.as_py()
    return table.path_image(index, value.get("path") if isinstance(value, dict) else value)


def read_hub(name: str, options: TableOptions = USUAL_OPTIONS) -> Iterator[Row]:
    """Rows of all splits of a data set on the Hugging Face hub, or in its local cache.

    Raises :class:`DataError` where it cannot be loaded or a column is missing.
    """
    import datasets

    try:
        splits = datasets.load_dataset(name)
    except Exception as error:
        raise DataError(
            f"{name}: no such file or folder, and no data set of that name can be loaded from the hub "
            f"({' '.join(str(error).split())[:300]})"
        ) from error
    for split, data in splits.items():
        yield from _hub_rows(f"{name}[{split}]", data, str(split), options)


def _hub_rows(source: str, data: Any, split: str, options: TableOptions) -> Iterator[Row]:
    import datasets

    columns = resolve_columns(source, data.column_names, options.columns)
    image_column = str(columns.image)
    if isinstance(data.features[image_column], datasets.Image):
        data = data.cast_column(image_column, datasets.Image(decode=False))
    table = _Table(source, columns, options.image_root or Path(), split)
    store = HubBytes(data, image_column)
    for index, cells in enumerate(data):
        value = cells[image_column]
        if isinstance(value, dict):
            held = bool(value.get("bytes"))
            image = CellImage(source, store, index) if held else table.path_image(index, value.get("path"))
        else:
            image = table.path_image(index, value)
        yield table.row(index, cells, image)


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
