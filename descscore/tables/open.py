"""Open what holds pairs: a table, a folder, WebDataset shards, Concadia's release, or a hub data set."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from descscore.errors import DataError, UsageError
from descscore.tables.concadia import IMAGE_FOLDER, SPLIT_FILE, ConcadiaTable
from descscore.tables.folder import FolderTable, is_hidden
from descscore.tables.image_root import ImageRoot
from descscore.tables.parquet import HubTable, ParquetTable, load_hub
from descscore.tables.reader import PREFERENCE, SCORING, Columns, Reader, Table
from descscore.tables.rows import PreferenceSet, normal_split, sort_rows
from descscore.tables.text_tables import CsvTable, JsonlTable
from descscore.tables.webdataset import WebDatasetTable

_FORMATS: dict[str, Callable[[Path], Table]] = {
    ".csv": CsvTable,
    ".jsonl": JsonlTable,
    ".parquet": ParquetTable,
}
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class InputOptions:
    """How to open an input of pairs of image and text."""

    columns: Columns = Columns()  # noqa: RUF009 - frozen
    """Names of columns, where they are not ``id``, ``image`` and ``text``; context and references
    are read only where they are named."""
    image_root: Path | None = None
    """The folder that relative image paths begin at; by default the table's own."""
    split: str = "train"
    """The split of a hub data set."""
    subset: str | None = None
    """The configuration of a hub data set."""


@dataclass(frozen=True)
class DataOptions:
    """How to read a data set of images with descriptions and captions."""

    columns: Columns = Columns()  # noqa: RUF009 - frozen
    """Names of columns, where they differ from the usual ones."""
    image_root: Path | None = None
    """The folder that relative image paths begin at; by default the table's own (Concadia: ``resized``)."""
    keep_equal: bool = False
    """Whether a pair with equal texts is usable. It is no use for training, but in an evaluation it
    counts against the model."""


def open_input(name: str, options: InputOptions = InputOptions()) -> Reader:
    """The input called ``name``, for scoring.

    A file is a table by its ending (.csv, .jsonl, .parquet) or a WebDataset shard
    (.tar). A folder with .tar files holds shards, any other folder images with sidecar
    texts. ``hub:NAME``, or a name that is no file or folder, is a hub data set.

    Raises:
        DataError: It cannot be opened, or a column is missing or occurs twice.
        UsageError: The image root is no folder, or a folder of images is asked for other columns.
    """
    path = Path(name)
    if options.image_root is not None and not options.image_root.is_dir():
        raise UsageError(f"image root {options.image_root}: no such folder")
    folder = path.parent
    if name.startswith("hub:"):
        table: Table = HubTable(name.removeprefix("hub:"), options.subset, options.split)
        folder = Path()
    elif path.is_dir():
        shards = _files(path, (".tar",))
        table = WebDatasetTable(shards, name) if shards else FolderTable(path)
        folder = path
    elif path.is_file() and path.suffix.lower() == ".tar":
        table = WebDatasetTable((path,), name)
    elif path.is_file() and path.suffix.lower() not in _FORMATS:
        raise DataError(f"{name}: unknown kind of input; known are {', '.join(_FORMATS)}, .tar and folders")
    elif path.is_file():
        table = _FORMATS[path.suffix.lower()](path)
    elif path.suffix.lower() in (*_FORMATS, ".tar") or _is_path(name):
        raise DataError(f"{name}: no such file or folder")
    else:
        table, folder = HubTable(name, options.subset, options.split), Path()
    root = folder if isinstance(table, FolderTable) else options.image_root or folder
    reader = Reader(table, options.columns, SCORING, ImageRoot(str(root)))
    reader.roles  # noqa: B018 - a missing column is an error at once, before a model is loaded
    return reader


def load_pairs(
    source: str | os.PathLike[str],
    options: DataOptions = DataOptions(),
) -> PreferenceSet:
    """Read a data set for training or evaluation; no image is decoded, and none is kept in memory.

    A table without a split column takes the split from its file's name where that is ``train``,
    ``val`` (or ``validation``, ``dev``) or ``test``; otherwise its rows have the split ''.

    Args:
        source: A folder with Concadia's ``wiki_split.json``, or that file; a table (CSV, JSONL or
            Parquet); a folder of such tables, read in the order of their names; or the name of a
            hub data set.
        options: How to read it.

    Returns:
        The usable pairs. Rows that cannot be used are in ``unusable``.

    Raises:
        DataError: A file is missing or damaged, a column is missing or occurs twice, or no row is usable.
    """
    name = os.fspath(source)
    rows = (row for reader in _readers(name, options) for row in reader.rows())
    return sort_rows(name, rows, options.keep_equal)


def _readers(name: str, options: DataOptions) -> Iterator[Reader]:
    """The tables that the data set ``name`` consists of, in order."""
    path = Path(name)
    if (path / SPLIT_FILE).is_file() or path.name == SPLIT_FILE:
        file = path / SPLIT_FILE if path.is_dir() else path
        yield _reader(ConcadiaTable(file), options, file.parent / IMAGE_FOLDER)
    elif path.is_dir():
        tables = _files(path, tuple(_FORMATS))
        if not tables:
            raise DataError(f"{path}: holds neither {SPLIT_FILE} nor a table ({', '.join(_FORMATS)})")
        yield from (_file_reader(table, options) for table in tables)
    elif path.exists() or path.suffix.lower() in _FORMATS:
        yield _file_reader(path, options)
    elif _is_path(name):
        raise DataError(f"{name}: no such file or folder")
    else:
        try:
            splits = load_hub(name)
        except DataError as error:
            raise DataError(
                f"{name}: no such file or folder, and no data set of that name: {error}"
            ) from error
        for split, data in splits.items():
            yield _reader(HubTable(name, None, str(split), data), options, Path(), normal_split(split))


def _file_reader(path: Path, options: DataOptions) -> Reader:
    if path.suffix.lower() not in _FORMATS:
        raise DataError(f"{path}: unknown kind of table; known are {', '.join(_FORMATS)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    split = normal_split(path.stem)
    table = _FORMATS[path.suffix.lower()](path)
    return _reader(table, options, path.parent, split if split in _SPLITS else "")


def _reader(table: Table, options: DataOptions, folder: Path, split: str = "") -> Reader:
    return Reader(table, options.columns, PREFERENCE, ImageRoot(str(options.image_root or folder)), split)


def _is_path(name: str) -> bool:
    """Whether ``name`` cannot be that of a hub data set."""
    return os.path.isabs(name) or name.startswith(".") or name.count("/") > 1


def _files(folder: Path, suffixes: tuple[str, ...]) -> tuple[Path, ...]:
    """The files in a folder with one of the endings, hidden ones left out, in the order of their names."""
    paths = (path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    return tuple(sorted(path for path in paths if not is_hidden(path.name)))
