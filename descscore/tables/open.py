"""Open whatever holds pairs: a table, a folder, WebDataset shards, or a hub data set."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from descscore.errors import DataError, UsageError
from descscore.tables.folder import FolderInput
from descscore.tables.parquet import HubInput, ParquetInput
from descscore.tables.rows import (
    ColumnNames,
    FileImage,
    ImageRoot,
    Input,
    NoImage,
    PreferenceSet,
    Row,
    StoredImage,
    normal_split,
    sort_rows,
)
from descscore.tables.text_tables import (
    SUFFIXES,
    USUAL_COLUMNS,
    Columns,
    CsvInput,
    JsonlInput,
    TableOptions,
    read_hub,
    read_table,
)
from descscore.tables.webdataset import WebDatasetInput

# Read Concadia in the format of its release: ``wiki_split.json`` beside ``resized/``.
#
# Source: Kreiss et al. 2022, Concadia (arXiv 2104.08376).


SPLIT_FILE = "wiki_split.json"
IMAGE_FOLDER = "resized"


def read_concadia(path: Path, image_root: Path | None = None) -> Iterator[Row]:
    """Rows of ``wiki_split.json`` in its order; the group of a row is its article.

    path: the file, or the folder that holds it. image_root: by default ``resized``
    beside the file. Raises :class:`DataError` for a missing or damaged file.
    """
    file = path / SPLIT_FILE if path.is_dir() else path
    root = file.parent / IMAGE_FOLDER if image_root is None else image_root
    for number, entry in enumerate(_entries(file), start=1):
        if not isinstance(entry, dict):
            raise DataError(f"{file}: entry {number} of 'images' is not an object")
        yield _row(file, root, number, entry)


def _entries(file: Path) -> list[Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{file}: not valid JSON ({error})") from None
    entries = data.get("images") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{file}: no list 'images' in it; expected Concadia's {SPLIT_FILE}")
    return entries


def _row(file: Path, root: Path, number: int, entry: dict[str, Any]) -> Row:
    name, article = entry.get("filename"), entry.get("article_id")
    image: StoredImage = FileImage(root / str(name)) if name else NoImage(f"{file} row {number}")
    return Row(
        source=str(file),
        number=number,
        image=image,
        description=_raw(entry, "description"),
        caption=_raw(entry, "caption"),
        split=normal_split(entry.get("split")),
        id=str(name or number),
        group=None if article is None else str(article),
        context=str(_raw(entry, "context") or ""),
    )


def _raw(entry: dict[str, Any], key: str) -> object:
    """The running text of a field ``{"raw": text, "tokens": [...]}``."""
    field = entry.get(key)
    return field.get("raw") if isinstance(field, dict) else field


# Load a preference data set from wherever it lies.
#
# * a folder with Concadia's ``wiki_split.json``, or that file;
# * a table: CSV, JSONL or Parquet;
# * a folder of such tables, read in the order of their names;
# * the name of a data set on the Hugging Face hub.


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


def load_pairs(source: str | os.PathLike[str], options: DataOptions = USUAL_OPTIONS) -> PreferenceSet:
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


_TABLES: dict[str, Callable[[Path, ColumnNames, ImageRoot], Input]] = {
    ".csv": CsvInput,
    ".jsonl": JsonlInput,
    ".parquet": ParquetInput,
}

_DEFAULT_COLUMNS = ColumnNames()


@dataclass(frozen=True)
class InputOptions:
    """image_root: what relative image paths begin at, by default the table's own folder.
    split, subset: of a hub data set.
    """

    columns: ColumnNames = _DEFAULT_COLUMNS
    image_root: Path | None = None
    split: str = "train"
    subset: str | None = None


DEFAULT_OPTIONS = InputOptions()


def open_input(name: str, options: InputOptions = DEFAULT_OPTIONS) -> Input:
    """The input called ``name``.

    A file is a table by its ending (.csv, .jsonl, .parquet) or a WebDataset shard
    (.tar). A folder with .tar files holds shards, any other folder images with sidecar
    texts. ``hub:NAME``, or a name that is no file or folder, is a hub data set.

    Raises :class:`DataError` for what cannot be opened.
    """
    path = Path(name)
    if options.image_root is not None and not options.image_root.is_dir():
        raise UsageError(f"image root {options.image_root}: no such folder")
    if name.startswith("hub:"):
        return _hub(name.removeprefix("hub:"), options)
    if path.is_dir():
        shards = tuple(sorted(path.glob("*.tar")))
        return WebDatasetInput(shards, options.columns, name) if shards else _folder(path, options)
    suffix = path.suffix.lower()
    if path.is_file():
        if suffix == ".tar":
            return WebDatasetInput((path,), options.columns, name)
        if suffix in _TABLES:
            return _TABLES[suffix](path, options.columns, _root(path.parent, options))
        raise DataError(f"{name}: unknown kind of input; known are {', '.join(_TABLES)}, .tar and folders")
    if suffix in (*_TABLES, ".tar") or path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise DataError(f"{name}: no such file or folder")
    return _hub(name, options)


def _folder(path: Path, options: InputOptions) -> FolderInput:
    if options.columns.beside:
        name = options.columns.beside[0]
        raise UsageError(f"{path}: a folder of images has no column {name!r}; give a table")
    return FolderInput(path)


def _root(folder: Path, options: InputOptions) -> ImageRoot:
    return ImageRoot(str(options.image_root or folder))


def _hub(name: str, options: InputOptions) -> HubInput:
    return HubInput(name, options.subset, options.split, options.columns, _root(Path(), options))
