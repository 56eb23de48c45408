"""Results on disk: shards of fixed row ranges, each there as a whole or not at all.

Shard ``i`` holds the rows ``[i * size, (i + 1) * size)``. It is written under another
name, brought to the disk and renamed, and says in its own metadata which run it
belongs to. What is done is therefore what lies in the folder, at any moment.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from descscore.errors import DataError
from descscore.records import Outcome

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
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
"""Columns of a result; all but id, status and error are null unless the status is ``ok``, and those
of context and references where the row has none."""

_OWN = ("id", "status", "error")

_RUN, _FIRST = b"descscore.run", b"descscore.first_row"


@dataclass(frozen=True)
class ResultRow:
    """The outcome of one input row."""

    id: str
    outcome: Outcome


@dataclass(frozen=True)
class ShardInfo:
    """A whole shard. statuses: its rows counted by status."""

    number: int
    file: str
    rows: int
    statuses: dict[str, int]


@dataclass(frozen=True)
class ShardFolder:
    """Where a run's shards lie. run: the run they belong to. suffix: ``.parquet``, or ``.arrow``
    for parts that will become one file. size: rows of a shard.
    """

    folder: Path
    run: str
    size: int
    suffix: str = ".parquet"

    def path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}{self.suffix}"

    def write(self, number: int, rows: Sequence[ResultRow]) -> ShardInfo:
        """Write shard ``number``. Raises :class:`DataError`, leaving nothing, where it cannot be written."""
        metadata = {_RUN: self.run.encode(), _FIRST: str(number * self.size).encode()}
        table = result_table(rows).replace_schema_metadata(metadata)
        path = self.path(number)
        with replacing(path) as temporary:
            if self.suffix == ".parquet":
                pq.write_table(table, temporary, compression="zstd")
            else:
                with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                    writer.write_table(table)
        return _info(number, path, table)

    def read(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """A shard of this run. Raises :class:`DataError` for one that is damaged or of another run."""
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

    def done(self, numbers: Iterable[int], rows: int) -> dict[int, ShardInfo]:
        """The whole shards among ``numbers``, of a run over ``rows`` rows; others are to be written anew."""
        found = {}
        for number in numbers:
            if self.path(number).is_file():
                with contextlib.suppress(DataError):
                    table = self.read(number, ["status"])
                    if table.num_rows == min(self.size, rows - number * self.size):
                        found[number] = _info(number, self.path(number), table)
        return found

    def remove_unfinished(self) -> None:
        """Delete what killed runs left half written. Only for the run that holds the folder's lock."""
        for path in self.folder.glob(f"{_UNFINISHED}*"):
            path.unlink(missing_ok=True)


_UNFINISHED = ".unfinished-"


def _read(path: Path, columns: Sequence[str] | None) -> pa.Table:
    names = None if columns is None else list(columns)
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            return file.read(names)
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    return table if names is None else table.select(names)


def _info(number: int, path: Path, table: pa.Table) -> ShardInfo:
    counts = Counter(table["status"].to_pylist())
    return ShardInfo(number, path.name, table.num_rows, dict(sorted(counts.items())))


def result_table(rows: Sequence[ResultRow]) -> pa.Table:
    """Rows as a table with :data:`SCHEMA`'s columns."""
    scores = [row.outcome.score for row in rows]
    columns: dict[str, list[Any]] = {
        name: [None if score is None else getattr(score, name) for score in scores]
        for name in SCHEMA.names
        if name not in _OWN
    }
    columns["id"] = [row.id for row in rows]
    columns["status"] = [row.outcome.status for row in rows]
    columns["error"] = [_printable(row.outcome.error) for row in rows]
    return pa.table([pa.array(columns[f.name], f.type) for f in SCHEMA], schema=SCHEMA)


def _printable(text: str | None) -> str | None:
    """Messages quote file names and texts, which may hold what no table can."""
    return text and text.encode("utf-8", "backslashreplace").decode()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write that takes ``path``'s place, whole and on disk, when the block ends well."""
    temporary = path.parent / f"{_UNFINISHED}{path.name}-{os.getpid()}"
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, pa.ArrowException) as error:
        temporary.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot be written ({error})") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Bring a rename to the disk."""
    with contextlib.suppress(OSError):  # not every file system can
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
