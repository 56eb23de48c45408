"""Open what holds pairs: a table, a folder, WebDataset shards, Concadia's release, or a hub data set."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from descscore.errors import DataError, UsageError
from descscore.tables.parquet import HubTable, ParquetTable, load_hub
from descscore.tables.reader import PREFERENCE, SCORING, Columns, Reader, Table
from descscore.tables.rows import PreferenceSet, normal_split, sort_rows
from descscore.tables.samples import FolderTable, WebDatasetTable, is_hidden
from descscore.tables.text_tables import ConcadiaTable, CsvTable, JsonlTable

_FORMATS: dict[str, Callable[[Path], Table]] = {
    ".csv": CsvTable,
    ".jsonl": JsonlTable,
    ".parquet": ParquetTable,
}
_SPLITS = ("train", "val", "test")
_CONCADIA, _CONCADIA_IMAGES = "wiki_split.json", "resized"


@dataclass(frozen=True)
class InputOptions:
    """How to open an input of pairs of image and text."""

    columns: Columns = Columns()  # noqa: RUF009 - frozen
    """Names of columns, where they are not ``id``, ``image`` and ``text``; context and references
    are read only where they are named."""
    image_root: Path | None = None
    """The folder that relative image paths begin at, and that none may leave; by default the table's own."""
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
    """As in :class:`InputOptions`; by default the table's own folder (Concadia: ``resized``)."""
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
    if options.image_root is not None and not options.image_root.is_dir():
        raise UsageError(f"image root {options.image_root}: no such folder")
    table, folder = _input_table(name, options)
    columns, root = options.columns, options.image_root or folder
    if isinstance(table, FolderTable):
        other = columns.context or columns.references
        if other:
            raise UsageError(f"{name}: a folder of images has no column {other!r}; give a table")
        columns, root = Columns(), folder
    reader = Reader(table, columns, SCORING, root)
    reader.roles  # noqa: B018 - a missing column is an error at once, before a model is loaded
    return reader


def _input_table(name: str, options: InputOptions) -> tuple[Table, Path]:
    """The table of an input for scoring, and the folder that its image paths begin at."""
    path = Path(name)
    ending = path.suffix.lower()
    if name.startswith("hub:"):
        return HubTable(name.removeprefix("hub:"), options.subset, options.split), Path()
    if path.is_dir():
        shards = _files(path, (".tar",))
        return (WebDatasetTable(shards, name) if shards else FolderTable(path)), path
    if path.is_file() and ending == ".tar":
        return WebDatasetTable((path,), name), path.parent
    if path.is_file() and ending in _FORMATS:
        return _FORMATS[ending](path), path.parent
    if path.exists() and not path.is_file():
        raise DataError(f"{name}: is not a regular file")
    if path.is_file():
        raise DataError(f"{name}: unknown kind of input; known are {', '.join(_FORMATS)}, .tar and folders")
    if ending in (*_FORMATS, ".tar") or _is_path(name):
        raise DataError(f"{name}: no such file or folder")
    return HubTable(name, options.subset, options.split), Path()


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
    path, columns = Path(name), options.columns
    if (path / _CONCADIA).is_file() or path.name == _CONCADIA:
        file = path / _CONCADIA if path.is_dir() else path
        root = options.image_root or file.parent / _CONCADIA_IMAGES
        yield Reader(ConcadiaTable(file), Columns(), PREFERENCE, root)  # its columns are always the same
    elif path.is_dir():
        tables = _files(path, tuple(_FORMATS))
        if not tables:
            raise DataError(f"{path}: holds neither {_CONCADIA} nor a table ({', '.join(_FORMATS)})")
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
            table, root = HubTable(name, None, str(split), data), options.image_root or Path()
            yield Reader(table, columns, PREFERENCE, root, normal_split(split))


def _file_reader(path: Path, options: DataOptions) -> Reader:
    if path.suffix.lower() not in _FORMATS:
        raise DataError(f"{path}: unknown kind of table; known are {', '.join(_FORMATS)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    table, split = _FORMATS[path.suffix.lower()](path), normal_split(path.stem)
    root = options.image_root or path.parent
    return Reader(table, options.columns, PREFERENCE, root, split if split in _SPLITS else "")


def _is_path(name: str) -> bool:
    """Whether ``name`` cannot be that of a hub data set."""
    return os.path.isabs(name) or name.startswith(".") or name.count("/") > 1


def _files(folder: Path, suffixes: tuple[str, ...]) -> tuple[Path, ...]:
    """The files in a folder with one of the endings, hidden ones left out, in the order of their names."""
    paths = (path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    return tuple(sorted(path for path in paths if not is_hidden(path.name)))
