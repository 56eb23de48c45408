"""Parquet files, and what they have in common with data sets, which Arrow reads, too.

An image is a path, the bytes of an image file, or the struct of both that ``datasets`` writes.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from descscore.errors import DataError, InputError
from descscore.tables.cells import CELL_LIMIT, ID_LIMIT
from descscore.tables.reader import BATCH_ROWS, FileTable, Mark, Record, Table, open_file

_MOST_VALUES = 64
"""Values that a column may say it holds for each byte of the file. Real tables hold less than one; a forged
number would take the reader's memory or time."""

_DICTIONARY_LIMIT = 16 << 20
"""Largest dictionary of a column, in bytes. Writers stop at 1 MiB by default."""

_PAGE_LIMIT, _MOST_COMPRESSED = 16 << 20, 1000
"""A page of more bytes than this may not be compressed to less than a thousandth. No real page is."""

_BATCH_BYTES = 256 << 20
"""About the bytes of the rows that are in memory together."""

_IMAGE_LIMIT = 1 << 30
"""Largest image in a cell, in bytes; other cells may hold :data:`CELL_LIMIT` characters."""

_OBJECT_BYTES = 64
"""Bytes of a small Python object, such as a value in a list."""


class ArrowTable(Table):
    """A table that Arrow reads a few rows at a time. The mark of a row is its number."""

    def records(self, roles: Mapping[str, str], mark: Mark) -> Iterator[Record]:
        names = sorted(set(roles.values()))
        limits = {name: _IMAGE_LIMIT if name == roles.get("image") else 4 * CELL_LIMIT for name in names}
        if list(roles.values()).count(roles.get("id", "")) == 1:
            limits[roles["id"]] = 4 * ID_LIMIT
        for batch in self._batches(names, mark[0] if mark else 0):
            if isinstance(batch, InputError):
                yield Record(batch)
            else:
                yield from _batch_records(batch, limits)

    @abstractmethod
    def _batches(self, names: list[str], start: int) -> Iterator[pa.RecordBatch | InputError]:
        """The named columns from row ``start`` on, with an error in place of each row that is damaged."""


def _batch_records(batch: pa.RecordBatch, limits: Mapping[str, int]) -> Iterator[Record]:
    """Rows one by one, because many rows may share one large value."""
    columns = {name: batch.column(name) for name in limits}
    for name, column in columns.items():
        if not _is_read(column.type):
            fault = InputError("bad_row", f"column {name!r} has the type {str(column.type)[:60]}")
            yield from repeat(Record(fault), len(batch))
            return
    limits = {
        name: limit if _may_be_image(columns[name].type) else min(limit, 4 * CELL_LIMIT)
        for name, limit in limits.items()
    }
    sizes = {name: _bytes_by_row(column) for name, column in columns.items()}
    for row in range(len(batch)):
        large = next((name for name, limit in limits.items() if sizes[name][row] > limit), None)
        if large is None:
            yield Record({name: _value(column[row]) for name, column in columns.items()})
        else:
            size = f"{int(sizes[large][row]):,} bytes, over the limit of {limits[large]:,}"
            yield Record(InputError("bad_row", f"column {large!r} holds {size}"))


def _is_read(kind: pa.DataType, depth: int = 2) -> bool:
    """Whether :func:`_bytes_by_row` can tell the size of the type's values."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return depth > 0 and _is_read(kind.value_type, depth - 1)
    if pa.types.is_struct(kind):
        return depth > 0 and all(_is_read(part.type, depth - 1) for part in kind)
    return any(is_kind(kind) for is_kind in _FLAT)


def _may_be_image(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


_FLAT = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary),
    *(pa.types.is_fixed_size_binary, pa.types.is_primitive, pa.types.is_decimal, pa.types.is_null),
)


def _bytes_by_row(column: pa.Array) -> np.ndarray[Any, Any]:
    """About the bytes that each cell of a column takes as a Python value: ``(rows,)``."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind = column.type
    if pa.types.is_dictionary(kind):
        of_value = np.append(_bytes_by_row(column.dictionary), 0)  # the last one is for null
        return of_value[column.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        ends = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False).cumsum()
        totals = np.append(0, (_bytes_by_row(column.flatten()) + _OBJECT_BYTES).cumsum())
        return np.diff(totals[ends], prepend=0)
    if pa.types.is_struct(kind):
        parts = [_bytes_by_row(part) for part in column.flatten()]
        return np.sum(parts, axis=0) + np.full(len(column), _OBJECT_BYTES * len(parts))
    try:
        lengths = pc.binary_length(column)
    except pa.ArrowException:  # a number or a date
        return np.full(len(column), 16)
    return lengths.fill_null(0).to_numpy(zero_copy_only=False)


def _value(cell: pa.Scalar) -> Any:
    """A cell as a Python value. Bytes that are not UTF-8 become surrogates, to be reported with their row."""
    if isinstance(cell, pa.DictionaryScalar):
        cell = cell.value
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        if isinstance(cell, pa.StringScalar):  # and large strings; in paths the bytes still count
            return cell.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")
        return "\udcff"  # deep inside a list or a struct; it stands for no valid text


@dataclass(frozen=True)
class ParquetTable(ArrowTable, FileTable):
    """A Parquet file, read a few rows at a time.

    What the file says of itself is checked before Arrow acts on it: the number of rows and values, and the
    size of each page (:func:`_check_pages`).
    """

    def names(self, wanted: Collection[str] = ()) -> list[str]:
        with self._open() as file:
            return list(file.schema_arrow.names)

    def count(self) -> int:
        with self._open() as file:
            rows: int = file.metadata.num_rows
            return rows

    def _batches(self, names: list[str], start: int) -> Iterator[pa.RecordBatch | InputError]:
        with self._open() as file, open_file(self.path) as raw:
            first, repeated = 0, _repeated_columns(file.metadata)
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if first + count > start:
                    yield from _group_batches(file, raw, group, names, repeated, max(start - first, 0))
                first += count

    def _open(self) -> pq.ParquetFile:
        options = {"buffer_size": 1 << 20, "pre_buffer": False}
        try:
            with pq.ParquetFile(self.path) as file:
                self._check_counts(file.metadata)
                schema = file.metadata.schema
                columns = [schema.column(number) for number in range(len(schema))]
                repeated = _repeated_columns(file.metadata)
            # A value that many rows share is then in memory once.
            texts = [c.path for c in columns if c.physical_type == "BYTE_ARRAY" and c.path not in repeated]
            return pq.ParquetFile(self.path, read_dictionary=texts, **options)
        except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
            raise DataError(f"{self.path}: cannot be read as Parquet ({error})") from None

    def _check_counts(self, metadata: pq.FileMetaData) -> None:
        """Raise :class:`DataError` for numbers of rows or values that cannot be true."""
        most = _MOST_VALUES * self.path.stat().st_size
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        rows = [group.num_rows for group in groups]
        values = [group.column(n).num_values for group in groups for n in range(group.num_columns)]
        if min([*rows, *values, 0]) < 0 or sum(rows) != metadata.num_rows or max([sum(rows), *values]) > most:
            said = f"{metadata.num_rows:,} rows"
            raise DataError(
                f"{self.path}: is damaged or forged: it cannot hold the {said} that it says it holds"
            )


def _repeated_columns(metadata: pq.FileMetaData) -> set[str]:
    """Paths of the texts that Arrow cannot read as dictionaries, and so repeats: those in delta encodings.

    Texts in lists do not count: a row may hold any number of them. In such encodings they are not read.
    """
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    return {
        group.column(number).path_in_schema
        for group in groups
        for number in range(group.num_columns)
        if group.column(number).physical_type == "BYTE_ARRAY"
        and any("BYTE_ARRAY" in encoding for encoding in group.column(number).encodings)
        and metadata.schema.column(number).max_repetition_level == 0
    }


def _group_batches(
    file: pq.ParquetFile, raw: BinaryIO, group: int, names: list[str], repeated: Collection[str], start: int
) -> Iterator[pa.RecordBatch | InputError]:
    """Batches of one row group from its row ``start`` on; an error for each row after a damaged page."""
    metadata = file.metadata.row_group(group)
    count, first = metadata.num_rows, 0
    reason: object = "it ends before its last row"
    try:
        chunks = [metadata.column(number) for number in range(metadata.num_columns)]
        chunks = [
            chunk for chunk in chunks if any(f"{chunk.path_in_schema}.".startswith(f"{n}.") for n in names)
        ]
        pages = {chunk.path_in_schema: _check_pages(raw, chunk) for chunk in chunks}
        row_bytes = sum(chunk.total_uncompressed_size for chunk in chunks) // max(count, 1)
        # No text is larger than a page, but each of a page may be as large as all of it.
        row_bytes += sum(size for path, size in pages.items() if path in repeated)
        rows = min(max(_BATCH_BYTES // max(row_bytes, 1), 1), BATCH_ROWS)
        for batch in file.iter_batches(rows, row_groups=[group], columns=names):
            kept = batch.slice(max(start - first, 0), max(count - max(first, start), 0))
            first += len(batch)
            if len(kept):
                yield kept
    except GeneratorExit:  # as the interpreter ends, the classes below may be gone
        raise
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        reason = error
        if "Not yet implemented" in str(error):
            reason = "or in an encoding that is not read; write it with other settings"
    fault = InputError("bad_row", f"the table is damaged here ({reason})")
    yield from repeat(fault, max(count - max(first, start), 0))


def _check_pages(file: BinaryIO, chunk: pq.ColumnChunkMetaData) -> int:
    """Check the headers of a column's pages: Arrow allocates what they say. The result is the largest size.

    Raises:
        ValueError: A page is far larger than its bytes in the file, or a header makes no sense.
    """
    place = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        place = min(place, chunk.dictionary_page_offset)
    end, largest = place + chunk.total_compressed_size, 0
    while place < end:
        file.seek(place)
        header = _thrift_struct(file)
        kind, size, stored = (header.get(field, -1) for field in (1, 2, 3))
        most = _DICTIONARY_LIMIT if kind == _DICTIONARY_PAGE else max(_PAGE_LIMIT, _MOST_COMPRESSED * stored)
        if stored < 0 or not 0 <= size <= most:
            raise ValueError(f"a page of {size:,} bytes, but the file holds {stored:,} bytes for it")
        place, largest = file.tell() + stored, max(largest, size)
    return largest


_DICTIONARY_PAGE = 2
_STOP, _TRUE, _FALSE, _WHOLE_NUMBERS, _BINARY, _STRUCT = 0, 1, 2, (4, 5, 6), 8, 12
_DEEPEST = 8


def _thrift_struct(file: BinaryIO, depth: int = 0) -> dict[int, int]:
    """The whole numbers in a struct in Thrift's compact protocol, by field; other fields are passed over.

    Source: "Thrift Compact protocol encoding", in Apache Thrift's documentation.
    """
    if depth > _DEEPEST:
        raise ValueError("a page header is nested too deeply")
    numbers: dict[int, int] = {}
    field_id = 0
    while True:
        head = _byte(file)
        kind, delta = head & 15, head >> 4
        if kind == _STOP:
            return numbers
        field_id = field_id + delta if delta else _whole_number(file)
        value = _thrift_value(file, kind, depth)
        if value is not None:
            numbers[field_id] = value


def _thrift_value(file: BinaryIO, kind: int, depth: int) -> int | None:
    """Read a value; the result is None for one that is no whole number."""
    if kind in _WHOLE_NUMBERS:
        return _whole_number(file)
    if kind == _BINARY:
        file.seek(_varint(file), os.SEEK_CUR)
    elif kind == _STRUCT:
        _thrift_struct(file, depth + 1)
    elif kind not in (_TRUE, _FALSE):  # other kinds do not occur in page headers
        raise ValueError(f"a page header holds a value of kind {kind}")
    return None


def _byte(file: BinaryIO) -> int:
    data = file.read(1)
    if not data:
        raise ValueError("a page header breaks off")
    return data[0]


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        part = _byte(file)
        value |= (part & 127) << shift
        if part < 128:
            return value
    raise ValueError("a number in a page header is too long")


def _whole_number(file: BinaryIO) -> int:
    """A number in zigzag form: 0, -1, 1, -2..."""
    value = _varint(file)
    return (value >> 1) ^ -(value & 1)
