"""Put a run's shards together into one CSV or JSONL file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv

from descscore.batch.manifest import result_file
from descscore.batch.shards import SCHEMA, ShardFolder, replacing

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
