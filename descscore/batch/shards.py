"""Write and read the shards of a run: files that each hold a fixed range of rows.

Shard ``i`` holds the rows ``[i * size, (i + 1) * size)``, and its metadata name the run that it belongs to.
A shard is written in one step. So the files in the folder show at any moment which rows are done. A run
with a format in :data:`RESULT_FILES` joins its shards into one file at the end.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from descscore.errors import DataError
from descscore.files import atomic_write
from descscore.records import Outcome
from descscore.tables.cells import CELL_LIMIT, from_csv_cell, to_csv_cell

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", pa.string()),
        pa.field("text", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("cosine", pa.float32()),
        pa.field("clip_score", pa.float32()),
        pa.field("description_probability", pa.float32()),
        pa.field("contextual_score", pa.float32()),
        pa.field("context_truncated", pa.bool_()),
        pa.field("reference_score", pa.float32()),
        pa.field("references_truncated", pa.bool_()),
        pa.field("tokens", pa.int32()),
        pa.field("truncated", pa.bool_()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
    ]
)
"""Columns of a result. The scores are null unless the status is ``ok``; those of context and references are
also null if the row has no context or references."""

INPUTS = ("image", "text")
"""The columns that a lean run leaves out."""

_NOT_SCORES = ("id", *INPUTS, "status", "error")
_CHUNK_ROWS, _CHUNK_BYTES = 1000, 32 << 20
"""Rows, and characters of their texts, that are written together: no shard is in memory as a whole."""
_FLOATS = tuple(field.name for field in SCHEMA if pa.types.is_floating(field.type))
_RUN, _FIRST = b"descscore.run", b"descscore.first_row"


class Result(NamedTuple):
    """One row of the results."""

    id: str
    outcome: Outcome
    image: str | None = None
    """The image's path as written in the input; None for one that has none."""
    text: str | None = None
    """The text; None for one that is no string."""


@dataclass(frozen=True)
class ShardInfo:
    """A whole shard on disk."""

    number: int
    file: str
    rows: int
    statuses: dict[str, int]
    """Number of rows by status."""
    scored: int = 0
    """Number of rows that were scored when it was written now."""


@dataclass(frozen=True)
class ShardFolder:
    """The folder of a run's shards."""

    folder: Path
    """The folder."""
    run: str
    """Id of the run that the shards belong to (:attr:`descscore.batch.manifest.Identity.run`)."""
    size: int
    """Rows of a shard."""
    suffix: str = ".parquet"
    """``.parquet``, or ``.arrow`` for parts that will become one file."""
    lean: bool = False
    """Whether the rows lack :data:`INPUTS`."""

    @property
    def schema(self) -> pa.Schema:
        """The columns of the shards."""
        return schema(self.lean)

    def make(self) -> None:
        """Make the folder if it is missing. Raises :class:`DataError` if its name is a link or a file.

        Through a link, a run would write and delete files of another folder.
        """
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            raise DataError(f"{self.folder}: is not a folder of this run; remove it or give another --output")
        self.folder.mkdir(exist_ok=True)

    def remove(self, numbers: Iterable[int]) -> None:
        """Delete the shards ``numbers``, then the folder if nothing else is in it."""
        for number in numbers:
            self.path(number).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}{self.suffix}"

    def write(self, number: int, rows: Iterable[Result] | pa.Table, scored: int | None = None) -> ShardInfo:
        """Write shard ``number``. Raises :class:`DataError` if it cannot be written.

        Args:
            number: the shard's number.
            rows: its rows, one by one or as a table.
            scored: how many of them are new; by default all.
        """
        tables = [rows] if isinstance(rows, pa.Table) else _chunks(rows, self.schema)
        metadata = {_RUN: self.run.encode(), _FIRST: str(number * self.size).encode()}
        whole = self.schema.with_metadata(metadata)
        path, statuses = self.path(number), Counter[str]()
        with atomic_write(path) as temporary, self._writer(temporary, whole) as writer:
            for table in tables:
                statuses.update(table["status"].to_pylist())
                writer.write_table(table.cast(whole))
        count = sum(statuses.values())
        done = count if scored is None else scored
        return ShardInfo(number, path.name, count, count_statuses([statuses]), done)

    def _writer(self, path: Path, whole: pa.Schema) -> Any:
        if self.suffix == ".parquet":
            return pq.ParquetWriter(path, whole, compression="zstd")
        return pa.ipc.new_file(str(path), whole)

    def read(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read a shard. Raises :class:`DataError` if it is damaged or belongs to another run."""
        path = self.path(number)
        try:
            table = _read(path, columns)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: damaged shard ({error})") from None
        metadata = table.schema.metadata or {}
        if metadata.get(_RUN) != self.run.encode():
            raise DataError(f"{path}: belongs to another run")
        if metadata.get(_FIRST) != str(number * self.size).encode():
            raise DataError(f"{path}: does not begin at row {number * self.size}")
        return table

    def info(self, number: int) -> ShardInfo:
        """What a shard holds. Raises :class:`DataError` as :meth:`read`."""
        table = self.read(number, ["status"])
        statuses = count_statuses([Counter(table["status"].to_pylist())])
        return ShardInfo(number, self.path(number).name, table.num_rows, statuses)

    def done(self, numbers: Iterable[int], rows: int) -> dict[int, ShardInfo]:
        """The shards among ``numbers`` that exist and are whole. rows: rows of the whole input."""
        whole = {}
        for number in numbers:
            if self.path(number).is_file():
                with contextlib.suppress(DataError):
                    info = self.info(number)
                    if info.rows == min(self.size, rows - number * self.size):
                        whole[number] = info
        return whole


def count_statuses(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sum of several counts of rows by status, in alphabetical order."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def _read(path: Path, columns: Sequence[str] | None) -> pa.Table:
    names = None if columns is None else list(columns)
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            return file.read(names)
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    return table if names is None else table.select(names)


def schema(lean: bool) -> pa.Schema:
    """:data:`SCHEMA`, or the columns of a lean run."""
    return pa.schema([field for field in SCHEMA if not (lean and field.name in INPUTS)])


def _chunks(rows: Iterable[Result], columns: pa.Schema) -> Iterator[pa.Table]:
    """Tables of a bounded number of rows and characters."""
    chunk: list[Result] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += len(row.text or "")
        if len(chunk) >= _CHUNK_ROWS or size >= _CHUNK_BYTES:
            yield result_table(chunk, columns)
            chunk, size = [], 0
    if chunk:
        yield result_table(chunk, columns)


def result_table(rows: Sequence[Result], columns: pa.Schema) -> pa.Table:
    """The rows as a table with these columns."""
    scores = [row.outcome.score for row in rows]
    cells: dict[str, list[Any]] = {
        name: [None if score is None else getattr(score, name) for score in scores]
        for name in SCHEMA.names
        if name not in _NOT_SCORES
    }
    cells["id"] = [row.id for row in rows]
    cells["image"] = [_printable(row.image) for row in rows]
    cells["text"] = [_printable(row.text) for row in rows]
    cells["status"] = [row.outcome.status for row in rows]
    cells["error"] = [_printable(row.outcome.error) for row in rows]
    return pa.table([pa.array(cells[f.name], f.type) for f in columns], schema=columns)


def _printable(text: str | None) -> str | None:
    """Escape characters that UTF-8 cannot encode: messages may quote such file names and texts."""
    return text and text.encode("utf-8", "backslashreplace").decode()


def result_file(form: str) -> str:
    """Name of the single result file of a run with a format in :data:`RESULT_FILES`."""
    return f"scores.{form}"


def write_result_file(folder: ShardFolder, numbers: Sequence[int], output: Path, form: str) -> None:
    """Write the single file, such as ``scores.csv``, from the shards ``numbers``, a part at a time."""
    tables = (
        pa.Table.from_batches([batch]).replace_schema_metadata(None)
        for number in numbers
        for batch in folder.read(number).to_batches(_CHUNK_ROWS)
    )
    with atomic_write(output / result_file(form)) as temporary, temporary.open("wb") as file:
        RESULT_FILES[form].write(tables, file, folder.schema)


def read_result_file(output: Path, form: str, lean: bool) -> pa.Table:
    """The rows of the single file, such as ``scores.csv``. Raises :class:`DataError` for a damaged file."""
    path, columns = output / result_file(form), schema(lean)
    try:
        return RESULT_FILES[form].read(path, columns).cast(columns)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DataError(f"{path}: is not as this run wrote it ({error})") from None


def _write_csv(tables: Iterable[pa.Table], file: BinaryIO, columns: pa.Schema) -> None:
    with pa.csv.CSVWriter(file, columns) as writer:
        for table in tables:
            writer.write_table(_with_texts(table, to_csv_cell))


def _read_csv(path: Path, columns: pa.Schema) -> pa.Table:
    table = pa.csv.read_csv(
        path,
        # A row has to fit into a block, and a character of its text may take four bytes.
        read_options=pa.csv.ReadOptions(block_size=8 * CELL_LIMIT),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(
            column_types=columns,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    return _with_texts(table.select(columns.names), from_csv_cell)


def _with_texts(table: pa.Table, change: Callable[[str], str]) -> pa.Table:
    """A table with each of its texts changed."""
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            cells = [text and change(text) for text in table[field.name].to_pylist()]
            table = table.set_column(place, field, pa.array(cells, field.type))
    return table


def _write_jsonl(tables: Iterable[pa.Table], file: BinaryIO, _columns: pa.Schema) -> None:
    for table in tables:
        for row in table.to_pylist():
            file.write(json.dumps(_short_floats(row), ensure_ascii=False).encode() + b"\n")


def _read_jsonl(path: Path, columns: pa.Schema) -> pa.Table:
    with path.open(encoding="utf-8") as lines:
        return pa.Table.from_pylist([json.loads(line) for line in lines], columns)


def _short_floats(row: dict[str, Any]) -> dict[str, Any]:
    """Round float32 values to their own digits, so that JSON does not show those of a float64."""
    short = {name: float(str(np.float32(row[name]))) for name in _FLOATS if row[name] is not None}
    return {**row, **short}


class ResultFile(NamedTuple):
    """How a format of results keeps all rows in one file."""

    write: Callable[[Iterable[pa.Table], BinaryIO, pa.Schema], None]
    """Writes tables with these columns."""
    read: Callable[[Path, pa.Schema], pa.Table]
    """Reads the columns again. Its errors are those of the file, of JSON and of Arrow."""
    has_header: bool
    """Whether the first line holds no row."""


RESULT_FILES = {
    "csv": ResultFile(_write_csv, _read_csv, has_header=True),
    "jsonl": ResultFile(_write_jsonl, _read_jsonl, has_header=False),
}
"""The formats of results in one file, by name."""

RESULT_FORMATS = ("parquet", *RESULT_FILES)
"""All formats of results; ``parquet`` keeps the shards."""
