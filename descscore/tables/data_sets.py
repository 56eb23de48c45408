"""Data sets that ``datasets`` loads: from the hub, its local cache, or a folder of ``save_to_disk``.

``datasets`` maps its files into memory as they are, and never compresses them. Arrow would unpack compressed
columns of a stranger's file at once: a few kilobytes can fill all memory. It does not tell that there are
any, so :func:`check_uncompressed` looks at the head of each message.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any

import pyarrow as pa

from descscore.errors import DataError, InputError
from descscore.files import read_json
from descscore.tables.parquet import ArrowTable
from descscore.tables.reader import BATCH_ROWS
from descscore.tables.rows import is_below

_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
_NEWEST = 4
"""Number of version V5, which Arrow writes since 1.0."""


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` of ``datasets`` has written the folder."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _load_saved(folder: Path, split: str | None) -> Any:
    """As :func:`load_hub`, for a folder that ``save_to_disk`` has written. No file outside it is read."""
    import datasets

    settings = ("state.json", "dataset_info.json", "dataset_dict.json")
    for file in (*folder.iterdir(), *folder.glob("*/*")):
        is_read = file.name in settings or file.suffix == ".arrow"
        # A pipe would wait for a writer, and a device may never end.
        if is_read and not (file.is_file() and is_below(str(folder), str(file))):
            raise ValueError(f"{file} is no file in this folder")
    parts = folder / "dataset_dict.json"
    for name in read_json(parts)["splits"] if parts.is_file() else ():
        # A split further below would not have been looked at.
        if Path(name).name != name or not is_below(str(folder), os.path.join(folder, name, "state.json")):
            raise ValueError(f"{parts} names a split outside its folder")
    for state in (folder / "state.json", *folder.glob("*/state.json")):
        if state.is_file():
            files = [Path(part["filename"]) for part in read_json(state)["_data_files"]]
            if any(
                file.name != str(file) or not is_below(str(folder), str(state.parent / file))
                for file in files
            ):
                raise ValueError(f"{state} names files outside its folder")
            for file in files:
                if not (state.parent / file).is_file():
                    raise ValueError(f"{state.parent / file} is no file")
                check_uncompressed(state.parent / file)
    data = datasets.load_from_disk(str(folder))
    return data[split] if split and isinstance(data, dict) else data


def load_hub(name: str, subset: str | None = None, split: str | None = None) -> Any:
    """A data set by ``datasets``, or a split of it. Raises :class:`DataError` where it cannot be loaded.

    name: That of a data set on the hub, or a folder, also one that ``save_to_disk`` has written.
    """
    import datasets

    try:
        if is_saved(Path(name)):
            return _load_saved(Path(name), split)
        # Only what is given is passed on, since a builder takes None for a name of its own.
        given = {"name": subset, "split": split}
        return datasets.load_dataset(name, **{key: value for key, value in given.items() if value})
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        part = f", split {split}" if split else ""
        raise DataError(f"{name}: cannot be loaded as a data set{part} ({reason})") from error


@dataclass(frozen=True)
class HubTable(ArrowTable):
    """One split of a data set, which ``datasets`` keeps on disk and maps into memory."""

    name: str
    subset: str | None
    split: str
    loaded: Any = field(default=None, repr=False, compare=False)
    """The split, where it is loaded already."""

    @property
    def source(self) -> str:
        return f"{self.name}[{self.split}]" if self.split else self.name

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders in which ``datasets`` keeps the images that it has fetched, or those of a local set."""
        import datasets
        from huggingface_hub import constants

        own = (os.path.abspath(self.name),) if os.path.isdir(self.name) else ()
        return (*own, str(datasets.config.HF_DATASETS_CACHE), constants.HF_HUB_CACHE)

    @cached_property
    def _data(self) -> Any:
        """The split, with images as their bytes or paths."""
        import datasets

        data = load_hub(self.name, self.subset, self.split) if self.loaded is None else self.loaded
        for column, feature in data.features.items():
            if isinstance(feature, datasets.Image):
                data = data.cast_column(column, datasets.Image(decode=False))
        return data

    def __getstate__(self) -> dict[str, Any]:
        # Another process opens the data set itself.
        return {key: value for key, value in self.__dict__.items() if key != "_data"}

    def names(self, wanted: Collection[str] = ()) -> list[str]:
        return list(self._data.column_names)

    def fingerprint(self, texts: Sequence[str]) -> dict[str, Any]:
        """The number of rows, and a hash of all texts."""
        digest = hashlib.sha256()
        for batch in self._data.select_columns(list(dict.fromkeys(texts))).iter(1024):
            for name in texts:
                digest.update(repr(batch[name]).encode("utf-8", "surrogatepass"))
        return {"rows": len(self._data), "texts_sha256": digest.hexdigest()}

    def count(self) -> int:
        return len(self._data)

    def _batches(self, names: list[str], start: int) -> Iterator[pa.RecordBatch | InputError]:
        data = self._data.select_columns(names).with_format("arrow")
        for first in range(start, len(data), BATCH_ROWS):
            batches = data[first : first + BATCH_ROWS].to_batches()
            try:
                for batch in batches:
                    batch.validate(full=True)  # a folder from strangers may hold any offsets
            except pa.ArrowInvalid as error:
                fault = InputError("bad_row", f"the table is damaged here ({error})")
                yield from repeat(fault, min(BATCH_ROWS, len(data) - first))
            else:
                yield from batches


def check_uncompressed(path: Path) -> None:
    """Raise :class:`ValueError` for an Arrow stream with compressed columns; Arrow's errors if it is none."""
    with pa.memory_map(str(path)) as file:
        for message in pa.ipc.MessageReader.open_stream(file):
            if _is_compressed(message.metadata.to_pybytes()):
                raise ValueError(f"{path} holds compressed columns, as datasets never writes them")


def _is_compressed(head: bytes) -> bool:
    """Whether a message is a batch that names a compression, or may name one in a note.

    Arrow 0.17 named the compression in a note beside a batch. Arrow still obeys the note in messages of that
    version, so they may have none.

    Source: the tables ``Message``, ``DictionaryBatch`` and ``RecordBatch`` in Arrow's documentation of its
    format, and the internals of FlatBuffers: a table begins with the distance to the places of its fields.
    """
    message = _target(head, 0)
    place = _field(head, message, 1)
    kind = head[place] if place else 0
    if kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return False
    place = _field(head, message, 0)
    version = struct.unpack_from("<h", head, place)[0] if place else 0
    if version != _NEWEST and _field(head, message, 4):
        return True
    batch = _target(head, _field(head, message, 2))
    if kind == _DICTIONARY_BATCH:
        batch = _target(head, _field(head, batch, 1))
    return _field(head, batch, 3) != 0


def _target(head: bytes, place: int) -> int:
    """Where the table stands to which a place leads."""
    return place + int(struct.unpack_from("<I", head, place)[0])


def _field(head: bytes, table: int, number: int) -> int:
    """Where a field of a table stands; 0 if it has none."""
    places = table - int(struct.unpack_from("<i", head, table)[0])
    if places < 0:
        raise ValueError("the head of an Arrow message makes no sense")
    size, at = struct.unpack_from("<H", head, places)[0], 4 + 2 * number
    if at + 2 > size:
        return 0
    distance = int(struct.unpack_from("<H", head, places + at)[0])
    return table + distance if distance else 0
