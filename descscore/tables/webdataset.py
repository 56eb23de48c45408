"""WebDataset shards: tar files in which the parts of a sample share a name.

Only headers and the wanted members are read, in the order of the archive.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from descscore.errors import InputError
from descscore.tables.folder import IMAGE_SUFFIXES, UNREAD_SUFFIXES, is_hidden
from descscore.tables.reader import (
    Mark,
    Record,
    Scan,
    Table,
    file_fingerprint,
    id_text,
    named,
)
from descscore.tables.text_tables import decode_text, parse_object

_MEMBER_LIMIT = 1 << 30


@dataclass
class _Sample:
    """Members of one sample by their extension. fault: why they cannot be used, or the archive ends here."""

    key: str
    place: list[int]
    members: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    fault: InputError | None = None

    def add(self, extension: str, member: tarfile.TarInfo) -> None:
        if extension in self.members:
            self.fault = InputError("bad_row", f"{self.key}: has two members {extension!r}")
        self.members[extension] = member


@dataclass(frozen=True)
class WebDatasetTable(Table):
    """Shards in order. The image of a sample is the member whose whole extension is an image's
    (``a.png``, and not ``a.depth.png``); the text is ``txt``, or the text column of ``json``; the
    id is that of ``json`` or the sample's key; other columns are those of ``json``.
    """

    numbered: ClassVar[bool] = False
    paths: tuple[Path, ...]
    name: str

    @property
    def source(self) -> str:
        return self.name

    def fingerprint(self, texts: Sequence[str]) -> dict[str, Any]:
        return {"shards": {path.name: file_fingerprint(path) for path in self.paths}}

    def scan(self, step: int) -> Scan:
        marks: list[Mark] = []
        count = 0
        for _, sample in self._samples([0, 0]):
            if count % step == 0:
                marks.append(sample.place)
            count += 1
        return Scan(count, marks)

    def records(self, roles: Mapping[str, str], start: int, mark: Mark) -> Iterator[Record]:
        skipped = 0 if mark else start
        for number, (archive, sample) in enumerate(self._samples(mark or [0, 0])):
            if number >= skipped:
                yield _record(roles, archive, sample)

    def _samples(self, place: list[int]) -> Iterator[tuple[tarfile.TarFile | None, _Sample]]:
        """Samples from ``place`` on: the number of the shard, and the byte in it."""
        for shard in range(place[0], len(self.paths)):
            with self.paths[shard].open("rb") as file:
                yield from _samples_of(file, shard, place[1] if shard == place[0] else 0)


def _record(roles: Mapping[str, str], archive: tarfile.TarFile | None, sample: _Sample) -> Record:
    cells: dict[str, Any] = {roles["id"]: sample.key}
    try:
        if sample.fault is not None or archive is None:
            raise sample.fault or InputError("damaged_shard", f"{sample.key}: is lost")
        return Record(cells | _cells(roles, archive, sample))
    except (tarfile.TarError, OSError, EOFError) as error:
        return Record(cells, InputError("damaged_shard", f"{sample.key}: cannot be read ({error})"))
    except InputError as error:
        return Record(cells, error)


def _cells(roles: Mapping[str, str], archive: tarfile.TarFile, sample: _Sample) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    members = sample.members
    if "json" in members:
        text = decode_text(_bytes(archive, members["json"]), f"{sample.key}: its json")
        try:
            cells = parse_object(text, roles["id"])
        except InputError as error:
            raise InputError(error.kind, f"{sample.key}: its json: {error}") from None
    for role in ("context", "references"):
        if role in roles and roles[role] not in cells:
            raise InputError("bad_row", f"{sample.key}: its json has no {roles[role]!r}")
    if "txt" in members:
        cells[roles["text"]] = decode_text(_bytes(archive, members["txt"]), f"{sample.key}: its txt")
    if id_text(cells.get(roles["id"])) is None:
        cells[roles["id"]] = sample.key
    return cells | {roles["image"]: _bytes(archive, members[_image_extension(sample)])}


def _image_extension(sample: _Sample) -> str:
    """The extension of a sample's image. Raises :class:`InputError` where it has none, or more than one."""
    images = [extension for extension in sample.members if f".{extension}" in IMAGE_SUFFIXES]
    if len(images) > 1:
        raise InputError("bad_row", f"{sample.key}: which member is the image? ({named(images)})")
    if images:
        return images[0]
    unread = [extension for extension in sample.members if f".{extension}" in UNREAD_SUFFIXES]
    if unread:
        name = f"{sample.key}.{unread[0]}"
        raise InputError("not_an_image", f"{name}: images in the format .{unread[0]} are not read")
    parts = [e for e in sample.members if f".{e.rpartition('.')[2]}" in IMAGE_SUFFIXES]
    more = f"; {named(parts)} may be another picture: an image is called {sample.key}.png" if parts else ""
    raise InputError("missing_image", f"{sample.key}: has no image{more}")


def _samples_of(file: Any, shard: int, place: int) -> Iterator[tuple[tarfile.TarFile | None, _Sample]]:
    """Samples of one archive. One that breaks off ends with a sample that says so."""
    sample: _Sample | None = None
    archive: tarfile.TarFile | None = None
    try:
        file.seek(place)
        archive = tarfile.TarFile(fileobj=file)
        for member in archive:
            archive.members = []  # type: ignore[attr-defined] # it keeps all headers, perhaps millions
            if not member.isfile() or member.size > _MEMBER_LIMIT or is_hidden(member.name):
                continue
            key, extension = _split(member.name)
            if not extension:
                continue
            if sample is None or sample.key != key:
                if sample is not None:
                    yield archive, sample
                sample = _Sample(key, [shard, member.offset])
            sample.add(extension, member)
        _check_end(file, archive.offset)
    except (tarfile.TarError, OSError, EOFError) as error:
        if sample is not None and archive is not None:
            yield archive, sample
        name = f"shard {file.name}"
        fault = InputError("damaged_shard", f"{name}: damaged archive ({error})")
        yield None, _Sample(name, [shard, file.tell()], fault=fault)
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
