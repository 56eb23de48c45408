"""Read pairs from a data set through ``datasets``: from the hub, its local cache, or a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from descscore.errors import DataError, InputError
from descscore.tables.rows import ColumnNames, ImageRoot, InputRow, Mark, Scan, checked_row
from descscore.tables.text_tables import TableFile

# Images whose bytes stand in a table: read when they are asked for, a few rows at a time.


# Read pairs from Parquet, a few rows in memory at a time.


_BATCH_ROWS = 64
"""Rows read together: with photos of 1 MB each, 64 MB."""


@dataclass(frozen=True)
class ParquetInput(TableFile):
    """A Parquet file; an image is a path, bytes, or the struct of both that ``datasets`` writes."""

    def scan(self, step: int) -> Scan:
        with self._open() as file:
            self.columns.check(self.source, file.schema_arrow.names)
            rows = file.metadata.num_rows
        return Scan(rows, [None] * -(-rows // step))

    def rows(self, start: int = 0, mark: Mark = None) -> Iterator[InputRow]:
        with self._open() as file:
            first = 0
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if first + count > start:
                    yield from self._group(file, group, first, count, start)
                first += count

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.path}: cannot be read as Parquet ({error})") from None

    def _group(
        self, file: pq.ParquetFile, group: int, first: int, count: int, start: int
    ) -> Iterator[InputRow]:
        """Rows of one row group from ``start`` on; those after a damaged page have that as their fault."""
        number = first
        wanted = self.columns.wanted(file.schema_arrow.names)
        try:
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=wanted):
                if number + len(batch) > start:
                    cells = {name: _values(batch.column(name)) for name in wanted}
                    for i in range(max(start - number, 0), len(batch)):
                        row = {name: cells[name][i] for name in wanted}
                        yield checked_row(number + i, self.columns.pick(row), self.root)
                number += len(batch)
        except (OSError, pa.ArrowException) as error:
            for lost in range(max(number, start), first + count):
                fault = InputError("bad_row", f"row {lost + 1}: the table is damaged here ({error})")
                yield InputRow(str(lost + 1), None, None, fault)


def _values(column: pa.Array) -> list[Any]:
    """Cells as Python values; strings that are not UTF-8 with surrogates, to be reported with their row."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        wide = pa.types.is_large_string(column.type)
        raw = column.cast(pa.large_binary() if wide else pa.binary()).to_pylist()
        return [None if cell is None else cell.decode("utf-8", "surrogateescape") for cell in raw]
    values: list[Any] = column.to_pylist()
    return values


@dataclass(frozen=True)
class HubInput:
    """One split of a data set, which ``datasets`` keeps on disk and maps into memory."""

    name: str
    subset: str | None
    split: str
    columns: ColumnNames
    root: ImageRoot

    @property
    def source(self) -> str:
        return f"{self.name}[{self.split}]"

    @cached_property
    def _data(self) -> Any:
        import datasets

        try:
            data = datasets.load_dataset(self.name, self.subset, split=self.split)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise DataError(
                f"{self.name}: cannot be loaded as a data set, split {self.split} ({reason})"
            ) from error
        self.columns.check(self.source, data.column_names)
        if isinstance(data.features[self.columns.image], datasets.Image):
            data = data.cast_column(self.columns.image, datasets.Image(decode=False))
        return data

    def __getstate__(self) -> dict[str, Any]:
        # Another process loads the data set itself.
        return {key: value for key, value in self.__dict__.items() if key != "_data"}

    def fingerprint(self) -> dict[str, Any]:
        """Number of rows and hash of all texts, contexts and references."""
        digest = hashlib.sha256()
        names = [self.columns.text, *self.columns.beside]
        for batch in self._data.select_columns(list(dict.fromkeys(names))).iter(1024):
            for name in names:
                digest.update(repr(batch[name]).encode("utf-8", "surrogatepass"))
        return {"rows": len(self._data), "texts_sha256": digest.hexdigest()}

    def scan(self, step: int) -> Scan:
        rows = len(self._data)
        return Scan(rows, [None] * -(-rows // step))

    def rows(self, start: int = 0, mark: Mark = None) -> Iterator[InputRow]:
        wanted = self.columns.wanted(self._data.column_names)
        data = self._data.select_columns(wanted)
        for first in range(start, len(data), _BATCH_ROWS):
            cells = data[first : first + _BATCH_ROWS]
            for i in range(len(cells[self.columns.text])):
                row = {name: cells[name][i] for name in wanted}
                yield checked_row(first + i, self.columns.pick(row), self.root)
