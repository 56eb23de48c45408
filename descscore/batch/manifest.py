"""Put a run's shards together into one CSV or JSONL file."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
from filelock import FileLock, Timeout

from descscore.batch.shards import SCHEMA, ShardFolder, ShardInfo, replacing
from descscore.errors import DataError

# What a run was started with, so that it can go on with nothing else.


FILE = "manifest.json"
FORMAT = 2
_PARTS = "parts"


@dataclass(frozen=True)
class Identity:
    """All that a run's results depend on; fixed when it is first started.

    input, fingerprint: what is scored. signature: with what. rows: of the whole input.
    job: ``[I, N]`` where this is one of N jobs, else None. options: the rest.
    """

    input: str
    fingerprint: dict[str, Any]
    rows: int
    signature: str
    batch_size: int
    shard_size: int
    format: str
    options: dict[str, Any]
    job: list[int] | None = None

    @property
    def shard_count(self) -> int:
        """Shards of the whole input."""
        return -(-self.rows // self.shard_size)

    @property
    def shards(self) -> range:
        """The shards that this run is to make: all, or the I-th of N parts of them."""
        if self.job is None:
            return range(self.shard_count)
        part, parts = self.job
        return range((part - 1) * self.shard_count // parts, part * self.shard_count // parts)

    def differences(self, other: Identity) -> list[str]:
        """``field: there, here`` for each field in which two runs differ."""
        return [
            f"{f.name}: {_short(getattr(self, f.name))} there, {_short(getattr(other, f.name))} now"
            for f in fields(self)
            if f.name != "input" and getattr(self, f.name) != getattr(other, f.name)
        ]

    @property
    def run(self) -> str:
        """32 hex digits that every shard bears: the same for all whose shards are interchangeable.

        Left out are what the input is called, which part of it a job does, and the
        batch size, on which no result depends.
        """
        deciding = {k: v for k, v in asdict(self).items() if k not in ("input", "job", "batch_size")}
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Manifest:
    """complete: whether all shards are there; then ``statuses`` counts all rows and ``shards``
    names the files in order.
    """

    identity: Identity
    complete: bool = False
    statuses: dict[str, int] = field(default_factory=dict)
    shards: Sequence[dict[str, Any]] = ()
    format: int = FORMAT

    def finished(self, shards: Iterable[ShardInfo]) -> Manifest:
        """This manifest once all shards are there."""
        ordered = sorted(shards, key=lambda shard: shard.number)
        size = self.identity.shard_size
        listed = [{"file": s.file, "first_row": s.number * size, "rows": s.rows} for s in ordered]
        if self.identity.format != "parquet":
            listed = [{"file": result_file(self.identity.format), "rows": sum(s.rows for s in ordered)}]
        return replace(self, complete=True, statuses=count_statuses(ordered), shards=listed)

    def folder(self, output: Path) -> ShardFolder:
        """Where this run's shards lie."""
        if self.identity.format == "parquet":
            return ShardFolder(output, self.identity.run, self.identity.shard_size)
        return ShardFolder(output / _PARTS, self.identity.run, self.identity.shard_size, ".arrow")


def count_statuses(shards: Iterable[ShardInfo]) -> dict[str, int]:
    """Rows by status over several shards."""
    total: Counter[str] = Counter()
    for shard in shards:
        total.update(shard.statuses)
    return dict(sorted(total.items()))


def result_file(form: str) -> str:
    """The one file of a run with format ``csv`` or ``jsonl``."""
    return f"scores.{form}"


def read_manifest(output: Path) -> Manifest | None:
    """The manifest in ``output``, None where there is none. Raises :class:`DataError` for a damaged one."""
    path = output / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.get("format") != FORMAT:
            raise DataError(
                f"{path}: format {data.get('format')!r}; this version of descscore reads {FORMAT}"
            )
        return Manifest(**{**data, "identity": Identity(**data["identity"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a manifest of descscore ({error!r})") from None


def write_manifest(output: Path, manifest: Manifest) -> None:
    """Put ``manifest`` in place, whole."""
    with replacing(output / FILE) as temporary:
        text = json.dumps(asdict(manifest), indent=2, ensure_ascii=True)
        temporary.write_text(text + "\n", encoding="utf-8")


def _short(value: object) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 200 else text[:197] + "..."


# One run at a time in an output folder.


LOCK_FILE = ".lock"


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other runs out of ``output``; the system frees the lock of a killed process."""
    lock = FileLock(output / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(
            f"{output}: another run is writing here; wait for it or give another --output"
        ) from None
    except OSError as error:
        raise DataError(f"{output}: cannot be locked ({error})") from None
    try:
        yield
    finally:
        lock.release()


_FLOATS = tuple(field.name for field in SCHEMA if pa.types.is_floating(field.type))


def write_result_file(folder: ShardFolder, numbers: Sequence[int], output: Path, form: str) -> None:
    """Write ``scores.csv`` or ``scores.jsonl`` from shards ``numbers``, one of them in memory at a time."""
    tables = (folder.read(number).replace_schema_metadata(None) for number in numbers)
    with replacing(output / result_file(form)) as temporary, temporary.open("wb") as file:
        _write_csv(tables, file) if form == "csv" else _write_jsonl(tables, file)


def _write_csv(tables: Iterable[pa.Table], file: BinaryIO) -> None:
    with pa.csv.CSVWriter(file, SCHEMA) as writer:
        for table in tables:
            writer.write_table(table)


def _write_jsonl(tables: Iterable[pa.Table], file: BinaryIO) -> None:
    for table in tables:
        for row in table.to_pylist():
            file.write(json.dumps(_short_floats(row), ensure_ascii=False).encode() + b"\n")


def _short_floats(row: dict[str, Any]) -> dict[str, Any]:
    """float32 values with the digits they have, not with those of the nearest float64."""
    short = {name: float(str(np.float32(row[name]))) for name in _FLOATS if row[name] is not None}
    return {**row, **short}
