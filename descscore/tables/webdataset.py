"""Read pairs from WebDataset shards: tar files in which the parts of a sample share a name.

Only headers and the wanted members are read, in the order of the archive.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from descscore.errors import InputError
from descscore.tables.folder import IMAGE_SUFFIXES
from descscore.tables.rows import (
    Cells,
    ColumnNames,
    ImageRoot,
    InputRow,
    Mark,
    Scan,
    checked_row,
    file_fingerprint,
)

_MEMBER_LIMIT = 1 << 30


@dataclass
class _Sample:
    """Members of one sample by their extension. fault: why the archive ends here."""

    key: str
    place: list[int]
    members: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    fault: str | None = None


@dataclass(frozen=True)
class WebDatasetInput:
    """Shards in order. Of a sample the image is its member with an image's extension; the text
    is ``txt``, or the text column of ``json``; the id is that of ``json`` or the sample's key;
    context and references, where such columns are asked for, are those of ``json``.
    """

    paths: tuple[Path, ...]
    columns: ColumnNames
    name: str

    @property
    def source(self) -> str:
        return self.name

    def fingerprint(self) -> dict[str, Any]:
        return {"shards": {path.name: file_fingerprint(path) for path in self.paths}}

    def scan(self, step: int) -> Scan:
        marks: list[Mark] = []
        count = 0
        for _, sample in self._samples([0, 0]):
            if count % step == 0:
                marks.append(sample.place)
            count += 1
        return Scan(count, marks)

    def rows(self, start: int = 0, mark: Mark = None) -> Iterator[InputRow]:
        number = start if mark is not None else 0
        for archive, sample in self._samples(mark or [0, 0]):
            if number >= start:
                yield self._row(number, archive, sample)
            number += 1

    def _samples(self, place: list[int]) -> Iterator[tuple[tarfile.TarFile | None, _Sample]]:
        """Samples from ``place`` on: the number of the shard, and the byte in it."""
        for shard in range(place[0], len(self.paths)):
            with self.paths[shard].open("rb") as file:
                yield from _samples_of(file, shard, place[1] if shard == place[0] else 0)

    def _row(self, number: int, archive: tarfile.TarFile | None, sample: _Sample) -> InputRow:
        try:
            if sample.fault or archive is None:
                raise InputError("damaged_shard", f"{sample.key}: {sample.fault}")
            return self._read(number, archive, sample)
        except (tarfile.TarError, OSError, EOFError) as error:
            fault = InputError("damaged_shard", f"{sample.key}: cannot be read ({error})")
            return InputRow(_clean(sample.key), None, None, fault)
        except InputError as error:
            return InputRow(_clean(sample.key), None, None, error)

    def _read(self, number: int, archive: tarfile.TarFile, sample: _Sample) -> InputRow:
        suffixes = {extension: f".{extension.rpartition('.')[2]}" for extension in sample.members}
        image = next((extension for extension, suffix in suffixes.items() if suffix in IMAGE_SUFFIXES), None)
        cells = _json(archive, sample)
        text: object = cells.get(self.columns.text)
        if "txt" in sample.members:
            text = _bytes(archive, sample.members["txt"]).decode("utf-8", "surrogateescape").rstrip("\r\n")
        missing = [name for name in self.columns.beside if name not in cells]
        if missing:
            raise InputError("bad_row", f"{sample.key}: its json has no {missing[0]!r}")
        identity = cells.get(self.columns.id or "id", sample.key)
        data = _bytes(archive, sample.members[image]) if image else None
        picked = self.columns.pick(cells)
        found = Cells(identity, data, text, picked.context, picked.references)
        return checked_row(number, found, ImageRoot("."))


def _samples_of(file: Any, shard: int, place: int) -> Iterator[tuple[tarfile.TarFile | None, _Sample]]:
    """Samples of one archive. One that breaks off ends with a sample that says so."""
    sample: _Sample | None = None
    archive: tarfile.TarFile | None = None
    try:
        file.seek(place)
        archive = tarfile.TarFile(fileobj=file)
        for member in archive:
            archive.members = []  # type: ignore[attr-defined] # it keeps all headers, perhaps millions
            if not member.isfile() or member.size > _MEMBER_LIMIT:
                continue
            key, extension = _split(member.name)
            if not extension:
                continue
            if sample is None or sample.key != key:
                if sample is not None:
                    yield archive, sample
                sample = _Sample(key, [shard, member.offset])
            sample.members.setdefault(extension, member)
        _check_end(file, archive.offset)
    except (tarfile.TarError, OSError, EOFError) as error:
        if sample is not None and archive is not None:
            yield archive, sample
        yield None, _Sample(f"shard {file.name}", [shard, file.tell()], fault=f"damaged archive ({error})")
        return
    if sample is not None:
        yield archive, sample


def _check_end(file: Any, place: int) -> None:
    """Raise where an archive does not end with its end mark: tarfile takes a damaged header for the end."""
    file.seek(place)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or any(block):
        raise tarfile.ReadError(f"no end mark at byte {place}; samples after it are lost")


def _split(name: str) -> tuple[str, str]:
    """``a/b.seg.png`` -> ``a/b``, ``seg.png``, as WebDataset does."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def _bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    opened = archive.extractfile(member)
    data = b"" if opened is None else opened.read()
    if len(data) != member.size:
        raise EOFError(f"{member.name} breaks off after {len(data)} of {member.size} bytes")
    return data


def _json(archive: tarfile.TarFile, sample: _Sample) -> dict[str, Any]:
    if "json" not in sample.members:
        return {}
    try:
        cells = json.loads(_bytes(archive, sample.members["json"]))
    except (ValueError, RecursionError) as error:
        raise InputError("bad_row", f"{sample.key}: its json is not valid ({error})") from None
    return cells if isinstance(cells, dict) else {}


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
