"""Load a preference data set from wherever it lies.

* a folder with Concadia's ``wiki_split.json``, or that file;
* a table: CSV, JSONL or Parquet;
* a folder of such tables, read in the order of their names;
* the name of a data set on the Hugging Face hub.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from descscore.data.concadia import SPLIT_FILE, read_concadia
from descscore.data.pairs import PairSet, Row, normal_split, sort_rows
from descscore.data.tables import SUFFIXES, USUAL_COLUMNS, Columns, TableOptions, read_hub, read_table
from descscore.errors import DataError

_STEMS = ("train", "val", "test")


@dataclass(frozen=True)
class DataOptions:
    """How to read a data set.

    columns: names in a table, where they differ from the usual ones.
    image_root: folder that image paths are relative to, by default the table's own
    (Concadia: ``resized``). keep_equal: whether a pair with equal texts counts as
    usable: no use for training, but in an evaluation it counts against the model.
    """

    columns: Columns = USUAL_COLUMNS
    image_root: Path | None = None
    keep_equal: bool = False


USUAL_OPTIONS = DataOptions()


def load_pairs(source: str | os.PathLike[str], options: DataOptions = USUAL_OPTIONS) -> PairSet:
    """Read a data set; no image is decoded, and none is kept in memory.

    A table without a split column takes the split from its file's name where that
    is ``train``, ``val`` (or ``validation``, ``dev``) or ``test``; otherwise its rows have the split ''.

    Raises :class:`DataError` for a missing or damaged file, a missing column, or
    data without one usable row. Rows that cannot be used are in ``unusable``.
    """
    name = os.fspath(source)
    return sort_rows(name, _rows(name, options), options.keep_equal)


def _rows(name: str, options: DataOptions) -> Iterator[Row]:
    path = Path(name)
    if (path / SPLIT_FILE).is_file() or path.name == SPLIT_FILE:
        return read_concadia(path, options.image_root)
    if path.is_dir():
        return _folder_rows(path, options)
    if path.exists() or path.suffix.lower() in SUFFIXES:
        return read_table(path, _table_options(path, options))
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1:  # no hub name looks like this
        raise DataError(f"{name}: no such file or folder")
    return read_hub(name, TableOptions(options.columns, options.image_root))


def _folder_rows(folder: Path, options: DataOptions) -> Iterator[Row]:
    tables = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not tables:
        raise DataError(f"{folder}: holds neither {SPLIT_FILE} nor a table ({', '.join(SUFFIXES)})")
    for path in tables:
        yield from read_table(path, _table_options(path, options))


def _table_options(path: Path, options: DataOptions) -> TableOptions:
    stem = normal_split(path.stem)
    return TableOptions(options.columns, options.image_root, stem if stem in _STEMS else "")
