"""Open what holds pairs: a table, a folder, WebDataset shards, Concadia's release, or a hub data set.

Each input is told by what it is: a file by its ending and then by its content, a folder by the files in it.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from descscore.errors import DataError, UsageError
from descscore.files import open_regular
from descscore.formats import IMAGE_SUFFIXES
from descscore.tables.cells import WORKBOOK, compression
from descscore.tables.data_sets import HubTable, is_saved, load_hub
from descscore.tables.json_tables import CONCADIA, JsonTable
from descscore.tables.parquet import ParquetTable
from descscore.tables.reader import PREFERENCE, SCORING, Columns, FileTable, Reader, Table
from descscore.tables.rows import PreferenceSet, is_below, normal_split, sort_rows
from descscore.tables.samples import FolderTable, WebDatasetTable, folders_below, is_hidden
from descscore.tables.text_tables import CsvTable, JsonlTable, TsvTable

TABLE_FORMATS: dict[str, Callable[[Path], FileTable]] = {
    "csv": CsvTable,
    "tsv": TsvTable,
    "jsonl": JsonlTable,
    "json": JsonTable,
    "parquet": ParquetTable,
}
"""The formats of tables, by name."""

_ENDINGS = {f".{name}": name for name in TABLE_FORMATS} | {".tab": "tsv", ".ndjson": "jsonl"}
_IN_FOLDERS = tuple(ending for ending in _ENDINGS if ending != ".json")
"""Endings of tables in a folder. A JSON file there may be anything, such as settings."""
_METADATA = tuple(f"metadata{ending}" for ending in (".csv", ".jsonl", ".parquet"))
"""Tables of a folder of images, as ``datasets`` calls them (ImageFolder)."""
_SPLITS = ("train", "val", "test")
_CONCADIA_IMAGES = "resized"
_PACKED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".rar")
"""Endings of compressed files."""
_WORKBOOKS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods")
_HUB = "hub:"
"""Begins the name of a data set on the hub."""
_STANDARD_INPUT = "-"


@dataclass(frozen=True)
class InputOptions:
    """How to open an input of pairs of image and text."""

    columns: Columns = Columns()  # noqa: RUF009 - frozen
    """Names of columns, where they are not ``id``, ``image`` and ``text``; context and references
    are read only where they are named."""
    image_root: Path | None = None
    """The folder that relative image paths begin at, and that none may leave; by default the table's own.
    With ``/``, relative paths begin at the table's own folder, and every file is allowed."""
    split: str = "train"
    """The split of a data set that has splits."""
    subset: str | None = None
    """The configuration of a hub data set."""
    format: str | None = None
    """A name in :data:`TABLE_FORMATS`, for standard input, and for a file whose ending does not tell."""
    annotations: Path | None = None
    """A file that names the images of COCO's results, and gives references by image."""


@dataclass(frozen=True)
class DataOptions:
    """How to read a data set of images with descriptions and captions."""

    columns: Columns = Columns()  # noqa: RUF009 - frozen
    """Names of columns, where they differ from the usual ones."""
    image_root: Path | None = None
    """As in :class:`InputOptions`; by default the table's own folder (Concadia: ``resized`` in it, if it
    is there)."""
    keep_equal: bool = False
    """Whether a pair with equal texts is usable. It is no use for training, but in an evaluation it
    counts against the model."""


def open_input(name: str, options: InputOptions = InputOptions()) -> Reader:
    """The input called ``name``, for scoring.

    A file is a table by its ending (.csv, .tsv, .jsonl, .json, .parquet) or a WebDataset shard (.tar).
    A folder is what its files say: Concadia's release, a data set that ``save_to_disk`` has written, images
    with a table ``metadata.csv`` or ``metadata.jsonl``, .tar shards, or images with texts beside them.
    ``hub:NAME`` is a hub data set. ``-`` is standard input.

    Raises:
        DataError: It cannot be opened, or a column is missing or occurs twice.
        UsageError: The image root is no folder; an option does not belong to this kind of input.
    """
    if options.image_root is not None and not options.image_root.is_dir():
        raise UsageError(f"image root {options.image_root}: no such folder")
    table, folder = _input_table(name, options)
    columns = options.columns
    root, start = _root_and_start(options.image_root, folder)
    if options.annotations is not None:
        if not isinstance(table, JsonTable):
            images = f"; to score the annotations: batch {options.annotations} --image-root {name}"
            raise UsageError(
                f"{name}: annotations belong to a JSON file of COCO's results or clipscore's texts"
                f"{images if isinstance(table, FolderTable) else ''}"
            )
        table = replace(table, annotations=options.annotations)
    if isinstance(table, JsonTable):
        table = replace(table, root=start)
    if isinstance(table, FolderTable):
        given = [column for column in vars(columns).values() if column is not None]
        if given or options.image_root is not None:
            what = f"no column {given[0]!r}" if given else "no image root but itself"
            raise UsageError(f"{name}: a folder of images has {what}; give a table")
    reader = Reader(table, columns, SCORING, root, start=start)
    reader.roles  # noqa: B018 - a missing column is an error at once, before a model is loaded
    return reader


def _root_and_start(given: Path | None, folder: Path) -> tuple[Path, Path]:
    """The folder that no image path may leave, and the one that relative paths begin at.

    The root ``/``, which must be given as such, only lifts the bound.
    """
    root = given or folder
    return root, folder if root == Path("/") else root


def _input_table(name: str, options: InputOptions) -> tuple[Table, Path]:
    """The table of an input for scoring, and the folder that its image paths begin at."""
    path = Path(name)
    ending = path.suffix.lower()
    if name == _STANDARD_INPUT:
        return _standard_input(options.format), Path()
    if options.format is not None:
        if not path.is_file():
            raise DataError(f"{name}: no such file")
        return TABLE_FORMATS[options.format](path), path.parent
    if name.startswith(_HUB):
        return HubTable(name.removeprefix(_HUB), options.subset, options.split), Path()
    if path.is_dir():
        return _input_folder(path, name, options)
    if path.is_file() and ending == ".tar":
        return WebDatasetTable((path,), name), path.parent
    if path.is_file() and ending in _ENDINGS:
        return _table(path), _images_of(path)
    if path.exists() and not path.is_file():
        raise DataError(f"{name}: is not a regular file")
    _check_unpacked(path)
    if path.is_file():
        known = f"{', '.join(_ENDINGS)}, .tar and folders"
        raise DataError(f"{name}: unknown kind of input; known are {known}; --input-format says which it is")
    raise _missing(name)


def _input_folder(path: Path, name: str, options: InputOptions) -> tuple[Table, Path]:
    """As :func:`_input_table`, for a folder."""
    if (path / CONCADIA).is_file():
        return _table(_inside(path, path / CONCADIA)), _images_of(path / CONCADIA)
    if is_saved(path):
        return HubTable(name, None, options.split), path
    if metadata := _metadata(path):
        wanted = normal_split(options.split)
        table = next((table for split, table in metadata if split in ("", wanted)), None)
        if table is None:
            there = ", ".join(split for split, _ in metadata)
            raise DataError(f"{name}: no split {options.split!r}; its splits are {there}")
        return _table(table), table.parent
    folder = FolderTable(path)
    if shards := _files(path, (".tar",)):
        if folder.has_pairs:
            what = f"holds images with texts, and shards such as {shards[0].name}"
            raise DataError(f"{name}: {what}; give the one or the other a folder of its own")
        return WebDatasetTable(shards, name), path
    if not folder.has_pairs and (advice := _table_advice(path, name)):
        raise DataError(f"{name}: no image has a text file beside it; {advice}")
    return folder, path


def _table_advice(path: Path, name: str) -> str:
    """What to give for a folder that holds tables, or no image but tables below it; '' for any other."""
    own, below, has_images = list[Path](), list[Path](), False
    for place, names, _ in folders_below(str(path)):
        named = [(name, os.path.splitext(name)[1].lower()) for name in names]
        tables = own if place == "." else below
        tables += [Path(path, place, name) for name, ending in named if ending in _IN_FOLDERS]
        has_images = has_images or any(ending in IMAGE_SUFFIXES for _, ending in named)
    tables = sorted(own or ([] if has_images else below))
    if len(tables) < 2:
        return f"give its table, {tables[0]}" if tables else ""
    many = f"it holds {len(tables)} tables"
    endings = {file.suffix.lower() for file in tables}
    if has_images or len(endings) > 1 or ".tab" in endings:  # `datasets` would read some of them, or none
        return f"{many}; give one at a time, such as {tables[0]}"
    return f"{many}; {_HUB}{name} reads those of one split (--split, by default train)"


def _metadata(path: Path) -> list[tuple[str, Path]]:
    """The tables of an ImageFolder with their splits: its own, or those of the folders of its splits."""
    for folder in (path, path / "data"):
        if folder.is_dir():
            own = _named(folder, _METADATA)
            if own:
                return [("", _inside(path, own[0]))]
            below = sorted(
                part for part in folder.iterdir() if part.is_dir() and normal_split(part.name) in _SPLITS
            )
            parts = [
                (normal_split(part.name), _inside(path, table))
                for part in below
                for table in _named(part, _METADATA)[:1]
            ]
            if parts:
                return parts
    return []


def _inside(folder: Path, file: Path) -> Path:
    """The file, which must lie in the folder. A link out of a stranger's folder may lead to any texts.

    Raises:
        DataError: The file is a link that leads out.
    """
    if is_below(str(folder), str(file)):
        return file
    raise DataError(f"{file}: leads out of the folder {folder}; name the file itself, with --image-root")


def _named(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """The files in a folder with one of the names, in either case."""
    return sorted(path for path in folder.iterdir() if path.name.lower() in names and path.is_file())


def _table(path: Path) -> FileTable:
    return TABLE_FORMATS[_ENDINGS[path.suffix.lower()]](path)


def _images_of(path: Path) -> Path:
    """The folder that the image paths of a table begin at."""
    is_release = path.name == CONCADIA and (path.parent / _CONCADIA_IMAGES).is_dir()
    return _inside(path.parent, path.parent / _CONCADIA_IMAGES) if is_release else path.parent


def _standard_input(form: str | None) -> FileTable:
    """A table on standard input: in a file until this process ends, because it is read more than once."""
    if form is None:
        raise UsageError(f"standard input: say with --input-format which of {', '.join(TABLE_FORMATS)} it is")
    folder = Path(tempfile.mkdtemp(prefix="descscore-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / f"input.{form}"
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return replace(TABLE_FORMATS[form](path), shown="standard input")


def load_pairs(
    source: str | os.PathLike[str],
    options: DataOptions = DataOptions(),
) -> PreferenceSet:
    """Read a data set for training or evaluation; no image is decoded, and none is kept in memory.

    A table without a split column takes the split from its file's name where that is ``train``,
    ``val`` (or ``validation``, ``dev``) or ``test``; otherwise its rows have the split ''.

    Args:
        source: A folder with Concadia's ``wiki_split.json``, or that file; a table (CSV, TSV, JSON, JSON
            Lines or Parquet); a folder of such tables, read in the order of their names; a folder of images
            with ``metadata.csv`` or ``metadata.jsonl``, or one that ``save_to_disk`` has written; or a hub
            data set, ``hub:NAME``.
        options: How to read it.

    Raises:
        DataError: A file is missing or damaged, a column is missing or occurs twice, or no row is usable.
    """
    name = os.fspath(source)
    rows = (row for reader in _readers(name, options) for row in reader.rows())
    return sort_rows(name, rows, options.keep_equal)


def _readers(name: str, options: DataOptions) -> Iterator[Reader]:
    """The tables that the data set ``name`` consists of, in order."""
    path = Path(name)
    if (path / CONCADIA).is_file() or path.name == CONCADIA:
        file = _inside(path, path / CONCADIA) if path.is_dir() else path
        root, start = _root_and_start(options.image_root, _images_of(file))
        table = JsonTable(file)
        yield Reader(table, Columns(), PREFERENCE, root, start=start)  # its columns are always the same
    elif is_saved(path) or name.startswith(_HUB):
        yield from _hub_readers(name.removeprefix(_HUB), options)
    elif path.is_dir():
        metadata = _metadata(path)
        tables = [table for _, table in metadata] or _files(path, _IN_FOLDERS)
        tables = tables or [
            _inside(path, table) for split in _SPLITS for table in _named(path, (f"{split}.json",))
        ]
        if not tables:
            raise DataError(f"{path}: holds neither {CONCADIA} nor a table ({', '.join(_ENDINGS)})")
        splits = {table: split for split, table in metadata}
        yield from (_file_reader(table, options, splits.get(table)) for table in tables)
    elif path.exists() or path.suffix.lower() in (*_ENDINGS, *_PACKED):
        yield _file_reader(path, options)
    else:
        raise _missing(name)


def _hub_readers(name: str, options: DataOptions) -> Iterator[Reader]:
    """The splits of a data set that ``datasets`` loads."""
    try:
        data = load_hub(name)
    except DataError as error:
        if Path(name).is_dir():
            raise
        raise DataError(f"{_HUB}{name}: no data set of that name: {error}") from error
    for split, part in (data if isinstance(data, dict) else {"": data}).items():
        table = HubTable(name, None, str(split), part)
        root, start = _root_and_start(options.image_root, Path())
        yield Reader(table, options.columns, PREFERENCE, root, normal_split(split), start)


def _file_reader(path: Path, options: DataOptions, split: str | None = None) -> Reader:
    """split: that of its rows; None: as the file is called."""
    _check_unpacked(path)
    if path.suffix.lower() not in _ENDINGS:
        raise DataError(f"{path}: unknown kind of table; known are {', '.join(_ENDINGS)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    table = _table(path)
    if split is None:
        split = normal_split(path.stem) if normal_split(path.stem) in _SPLITS else ""
    root, start = _root_and_start(options.image_root, path.parent)
    return Reader(table, options.columns, PREFERENCE, root, split, start)


def check_exists(name: str) -> None:
    """Raise :class:`DataError` for a data set that is no file, no folder and not named as one on the hub."""
    if not (name.startswith(_HUB) or Path(name).exists()):
        raise _missing(name)


def _check_unpacked(path: Path) -> None:
    """Raise :class:`DataError` for a workbook, or a name of a compressed file, which no hub data set has."""
    if path.suffix.lower() in _WORKBOOKS and path.is_file():
        with open_regular(path) as file:
            is_text = compression(file.read(8)) == ""  # programs write text under these endings, too
        if not is_text:
            raise DataError(f"{path}: {WORKBOOK}")
    if path.suffix.lower() in _PACKED:
        raise DataError(f"{path}: compressed tables and archives are not read; unpack it first")


def _missing(name: str) -> DataError:
    """A mistyped path is never asked for on the hub."""
    hint = f"; a data set on the hub is {_HUB}{name}" if re.fullmatch(r"[\w-]+/[\w.-]+", name) else ""
    return DataError(f"{name}: no such file or folder{hint}")


def _files(folder: Path, suffixes: tuple[str, ...]) -> tuple[Path, ...]:
    """The files in a folder with one of the endings, hidden ones left out, in the order of their names.

    Raises as :func:`_inside`.
    """
    paths = (path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    return tuple(sorted(_inside(folder, path) for path in paths if not is_hidden(path.name)))
