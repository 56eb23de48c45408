"""Open whatever holds pairs: a table, a folder, WebDataset shards, or a hub data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from descscore.batch.columns import ColumnNames
from descscore.batch.input_folder import FolderInput
from descscore.batch.input_hub import HubInput
from descscore.batch.input_parquet import ParquetInput
from descscore.batch.input_row import ImageRoot, Input
from descscore.batch.input_text_tables import CsvInput, JsonlInput
from descscore.batch.input_webdataset import WebDatasetInput
from descscore.errors import DataError, UsageError

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
