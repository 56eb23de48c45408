"""Images whose bytes stand in a table: read when they are asked for, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from descscore.errors import ImageError

BATCH_ROWS = 64
"""Parquet rows held in memory at a time: with photos of 1 MB each, 64 MB."""


class BytesStore(Protocol):
    """Image bytes by row number (0-based); None where a row has none."""

    def get(self, index: int) -> bytes | None: ...


@dataclass(frozen=True)
class CellImage:
    """An image whose bytes stand in a table; ``index`` is 0-based."""

    source: str
    store: BytesStore
    index: int

    def check(self) -> None:
        """Nothing to do: the reader makes a cell image only where it has seen bytes."""

    def read(self) -> bytes:
        data = self.store.get(self.index)
        if not data:
            raise ImageError("missing_image", f"{self}: has no image any more")
        return data

    def __str__(self) -> str:
        return f"{self.source} row {self.index + 1}"


def cell_bytes(cell: Any) -> bytes | None:
    """The bytes in an Arrow cell, None where it holds none."""
    if isinstance(cell, pa.StructScalar):
        if not cell.is_valid or "bytes" not in {field.name for field in cell.type}:
            return None
        cell = cell["bytes"]
    value = cell.as_py()
    return value if isinstance(value, bytes) and value else None


class ParquetBytes:
    """Image bytes of a Parquet column, read a few rows at a time.

    Made for reading in order: going back starts the row group again. One row
    group is not held whole, since writers often put all rows into one.
    """

    def __init__(self, path: Path, column: str) -> None:
        self.path, self.column = path, column
        self._starts: list[int] = []
        self._batches: Iterator[Any] = iter(())
        self._group = -1
        self._first = 0
        self._cells: Any = ()

    def get(self, index: int) -> bytes | None:
        """Bytes of row ``index`` (0-based). Raises :class:`ImageError` for a file no longer readable."""
        try:
            self._seek(index)
        except (OSError, StopIteration, pa.ArrowException) as error:
            raise ImageError(
                "unreadable_image", f"{self.path} row {index + 1}: cannot be read ({error})"
            ) from None
        return cell_bytes(self._cells[index - self._first])

    def __getstate__(self) -> dict[str, Any]:
        # An open file does not travel to another process; a fresh reader opens its own.
        return {"path": self.path, "column": self.column}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _seek(self, index: int) -> None:
        """Move to the batch that holds row ``index``."""
        if not self._starts:
            self._starts = _group_starts(self.path)
        group = max(g for g, start in enumerate(self._starts) if start <= index)
        if group != self._group or index < self._first:
            self._open(group)
        while index >= self._first + len(self._cells):
            self._first += len(self._cells)
            self._cells = next(self._batches).column(self.column)

    def _open(self, group: int) -> None:
        file = pq.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False)
        self._batches = file.iter_batches(BATCH_ROWS, row_groups=[group], columns=[self.column])
        self._group, self._first, self._cells = group, self._starts[group], ()


def _group_starts(path: Path) -> list[int]:
    """The first row of each row group."""
    with pq.ParquetFile(path) as file:
        counts = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
    return [sum(counts[:g]) for g in range(len(counts))]


@dataclass(frozen=True)
class HubBytes:
    """Image bytes of a ``datasets`` data set with undecoded images, which reads them from its memory map."""

    data: Any
    column: str

    def get(self, index: int) -> bytes | None:
        """Bytes of row ``index`` (0-based)."""
        value = self.data[index][self.column]
        return value.get("bytes") if isinstance(value, dict) else None
