"""Parquet files, and data sets that ``datasets`` loads: from the hub, its local cache, or a folder.

An image is a path, the bytes of an image file, or the struct of both that ``datasets`` writes.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from descscore.errors import DataError, InputError
from descscore.tables.reader import BATCH_ROWS, FileTable, Mark, Record, Table

_Batch: TypeAlias = "pa.RecordBatch | pa.Table"


class _ArrowTable(Table):
    """A table that Arrow reads a few rows at a time. The mark of a row is its number."""

    def records(self, roles: Mapping[str, str], mark: Mark) -> Iterator[Record]:
        names = sorted(set(roles.values()))
        for batch in self._batches(names, mark[0] if mark else 0):
            if isinstance(batch, InputError):
                yield Record(batch)
                continue
            columns = [_values(batch.column(name)) for name in names]
            for cells in zip(*columns, strict=True):
                yield Record(dict(zip(names, cells, strict=True)))

    @abstractmethod
    def _batches(self, names: list[str], start: int) -> Iterator[_Batch | InputError]:
        """The named columns from row ``start`` on, with an error in place of each row that is damaged."""


def _values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Cells as Python values. Bytes that are not UTF-8 become surrogates, to be reported with their row."""
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        values = [_value(cell) for cell in column]
    return values


def _value(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        if isinstance(cell, pa.StringScalar):  # and large strings; in paths the bytes still count
            return cell.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")
        return "\udcff"  # deep inside a list or a struct; it stands for no valid text


@dataclass(frozen=True)
class ParquetTable(_ArrowTable, FileTable):
    """A Parquet file, read a few rows at a time."""

    def names(self, wanted: Collection[str] = ()) -> list[str]:
        with self._open() as file:
            return list(file.schema_arrow.names)

    def count(self) -> int:
        with self._open() as file:
            rows: int = file.metadata.num_rows
            return rows

    def _batches(self, names: list[str], start: int) -> Iterator[_Batch | InputError]:
        with self._open() as file:
            first = 0
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if first + count > start:
                    yield from _group_batches(file, group, names, max(start - first, 0), count)
                first += count

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.path}: cannot be read as Parquet ({error})") from None


def _group_batches(
    file: pq.ParquetFile, group: int, names: list[str], start: int, count: int
) -> Iterator[_Batch | InputError]:
    """Batches of one row group from its row ``start`` on; an error for each row after a damaged page."""
    first = 0
    try:
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=names):
            if first + len(batch) > start:
                yield batch.slice(max(start - first, 0))
            first += len(batch)
    except (OSError, pa.ArrowException) as error:
        fault = InputError("bad_row", f"the table is damaged here ({error})")
        yield from [fault] * (count - max(first, start))


def load_hub(name: str, subset: str | None = None, split: str | None = None) -> Any:
    """A data set by ``datasets``, or a split of it. Raises :class:`DataError` where it cannot be loaded."""
    import datasets

    try:
        # Only what is given is passed on, since a builder takes None for a name of its own.
        given = {"name": subset, "split": split}
        return datasets.load_dataset(name, **{key: value for key, value in given.items() if value})
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        part = f", split {split}" if split else ""
        raise DataError(f"{name}: cannot be loaded as a data set{part} ({reason})") from error


@dataclass(frozen=True)
class HubTable(_ArrowTable):
    """One split of a data set, which ``datasets`` keeps on disk and maps into memory."""

    name: str
    subset: str | None
    split: str
    loaded: Any = field(default=None, repr=False, compare=False)
    """The split, where it is loaded already."""

    @property
    def source(self) -> str:
        return f"{self.name}[{self.split}]"

    @cached_property
    def _data(self) -> Any:
        """The split, with images as their bytes or paths."""
        import datasets

        data = load_hub(self.name, self.subset, self.split) if self.loaded is None else self.loaded
        for column, feature in data.features.items():
            if isinstance(feature, datasets.Image):
                data = data.cast_column(column, datasets.Image(decode=False))
        return data

    def __getstate__(self) -> dict[str, Any]:
        # Another process opens the data set itself.
        return {key: value for key, value in self.__dict__.items() if key != "_data"}

    def names(self, wanted: Collection[str] = ()) -> list[str]:
        return list(self._data.column_names)

    def fingerprint(self, texts: Sequence[str]) -> dict[str, Any]:
        """The number of rows, and a hash of all texts."""
        digest = hashlib.sha256()
        for batch in self._data.select_columns(list(dict.fromkeys(texts))).iter(1024):
            for name in texts:
                digest.update(repr(batch[name]).encode("utf-8", "surrogatepass"))
        return {"rows": len(self._data), "texts_sha256": digest.hexdigest()}

    def count(self) -> int:
        return len(self._data)

    def _batches(self, names: list[str], start: int) -> Iterator[_Batch | InputError]:
        data = self._data.select_columns(names).with_format("arrow")
        for first in range(start, len(data), BATCH_ROWS):
            yield data[first : first + BATCH_ROWS]
