"""Images with their texts in files beside them: in a folder, or as WebDataset samples in tar files."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from descscore.errors import DataError, InputError
from descscore.files import open_regular
from descscore.formats import IMAGE_SUFFIXES, UNREAD_SUFFIXES
from descscore.tables.cells import CELL_LIMIT, compression, decode_text, named, parse_object
from descscore.tables.reader import FileTable, Mark, Record, Table, Usual, file_fingerprint, open_file
from descscore.tables.rows import is_below


def is_hidden(path: str) -> bool:
    """Whether systems left a file behind: its name or a folder's begins with a dot, or is one of theirs.

    path: Below a folder, or in an archive.
    """
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return any(part.startswith((".", "~$")) or part.lower() in _SYSTEM_NAMES for part in parts)


_SYSTEM_NAMES = (
    *("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information"),
    *("lost+found", "thumbs.db", "desktop.ini"),
)
"""What macOS, Synology's storage, Windows and Linux leave in folders, in lower case."""


def _unread(name: str, suffix: str) -> InputError:
    return InputError("not_an_image", f"{name}: images in the format {suffix} are not read")


class _Pair(NamedTuple):
    """Paths of an image and its text below the folder. One of the two may be missing."""

    image: str | None
    text: str | None
    other: str | None = None
    """A second text of the image."""

    @property
    def name(self) -> str:
        """What the pair is called: the path of its image, or of a lonely text."""
        return str(self.image or self.text).encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class FolderTable(FileTable):
    """Images below a folder; the text of ``a/b.jpg`` is in ``a/b.txt`` or ``a/b.jpg.txt``.

    The id is the path below the folder; rows come in the order of folders and names. An image
    without a text, and a text without an image, are rows with their fault. Hidden files are no rows.
    A linked folder is read where it lies in this one; any other is a row with its fault.
    """

    def fingerprint(self, texts: Sequence[str]) -> dict[str, Any]:
        """Names of all images and texts, and sizes and times of change of the texts, as in a table.

        What is in an image counts neither here nor in a table of paths.
        """
        digest = hashlib.sha256()
        for folder, names, outside in folders_below(str(self.path)):
            for name in [*names, *outside]:
                if _suffix(name) in IMAGE_SUFFIXES or _suffix(name) == ".txt" or name in outside:
                    below = os.path.normpath(os.path.join(folder, name))
                    line = repr(os.fsencode(below))
                    if _suffix(name) == ".txt":
                        path = os.path.join(self.path, below)
                        # A link that leads nowhere is a fault of its row.
                        stat = os.stat(path, follow_symlinks=os.path.exists(path))
                        line += f" {stat.st_size} {stat.st_mtime_ns}"
                    digest.update(f"{line}\n".encode())
        return {"texts_sha256": digest.hexdigest()}

    @property
    def has_pairs(self) -> bool:
        """Whether any image has a text beside it."""
        found = folders_below(str(self.path))
        return any(pair.image and pair.text for _, names, _ in found for pair in _pairs_of(names))

    def records(self, roles: Mapping[str, str], mark: Mark = None) -> Iterator[Record]:
        empty = True
        for folder, names, outside in folders_below(str(self.path)):
            for name in outside:
                empty = False
                below = _Pair(os.path.normpath(os.path.join(folder, name)), None)
                fault = (
                    f"{below.name}: is a linked folder that leads out of {self.path}; its images are not read"
                )
                yield Record(InputError("outside_image_root", fault), id=below.name)
            for pair in _pairs_of(names):
                empty = False
                below = _Pair(*(name and os.path.normpath(os.path.join(folder, name)) for name in pair))
                yield Record(below, id=below.name)
        if empty:
            raise DataError(f"{self.path}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")

    def cells(self, content: Any, roles: Mapping[str, str]) -> Mapping[str, Any]:
        pair: _Pair = content
        # Plain errors, no image errors: a row without its text is not one whose text is empty.
        if pair.text is None:
            raise InputError("missing_text", f"{pair.name}: no text file beside it")
        if pair.image is None:
            raise InputError("missing_image", f"{pair.name}: no image beside this text")
        if pair.other is not None:
            texts = named([os.path.basename(pair.text), os.path.basename(pair.other)])
            raise InputError("bad_row", f"{pair.name}: which file is its text? ({texts})")
        if _suffix(pair.image) in UNREAD_SUFFIXES:
            raise _unread(pair.name, _suffix(pair.image))
        file = os.path.join(self.path, pair.text)
        if not is_below(str(self.path), file):
            raise InputError("outside_image_root", f"{file}: leads out of the folder {self.path}")
        try:
            with open_regular(file) as opened:
                data = opened.read(4 * CELL_LIMIT + 1)  # more bytes than the longest text may have
        except OSError as error:
            raise InputError("missing_text", f"{file}: {error.strerror or error}") from None
        return {roles["image"]: pair.image, roles["text"]: decode_text(data, file)}


def folders_below(
    root: str, on_error: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """The folder ``root`` and those below it, relative, with the names of their files that are not hidden.

    The third list names links to folders outside, which are not followed. One folder's names are in memory at
    a time. ``on_error`` hears of a folder that cannot be read; without it, that is an error.

    Raises:
        DataError: A folder cannot be read, or there are over :data:`_MOST_LINKS` linked folders.
    """
    linked = 0
    for folder, below, names in os.walk(root, onerror=on_error or _refuse, followlinks=True):
        shown = sorted(name for name in below if not is_hidden(name))
        links = [name for name in shown if os.path.islink(os.path.join(folder, name))]
        outside = [name for name in links if not is_below(root, os.path.join(folder, name))]
        round_about = [name for name in links if _leads_back(root, folder, name)]
        linked += len(links)
        if linked > _MOST_LINKS:
            raise DataError(f"{root}: over {_MOST_LINKS:,} linked folders in it")
        below[:] = [name for name in shown if name not in outside and name not in round_about]
        files = sorted(name for name in names if not is_hidden(name))
        yield os.path.relpath(folder, root), files, outside


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror or error})") from error


def _leads_back(root: str, folder: str, name: str) -> bool:
    """Whether a link leads to a folder around it, or around a link that led here: walks would go round."""
    target = os.path.join(os.path.realpath(os.path.join(folder, name)), "")
    way = [folder]
    while len(way[-1]) > len(root):
        way.append(os.path.dirname(way[-1]))
    return any(os.path.join(os.path.realpath(place), "").startswith(target) for place in way)


_MOST_LINKS = 10_000
"""Most linked folders below a folder: links to one another would lead to any number of paths."""


def _pairs_of(names: list[str]) -> Iterator[_Pair]:
    """The pairs in one folder, in the order of their names."""
    texts = {_without_suffix(name): name for name in reversed(names) if _suffix(name) == ".txt"}
    texts |= {name[:-4]: name for name in names if name.endswith(".txt")}  # exactly .txt comes first
    images = [name for name in names if _suffix(name) in IMAGE_SUFFIXES]
    paired = {key for name in images for key in (_without_suffix(name), name)}
    unread = [name for name in names if _suffix(name) in UNREAD_SUFFIXES]
    images += [name for name in unread if _text_of(name, texts) and _without_suffix(name) not in paired]
    paired |= {key for name in images for key in (_without_suffix(name), name)}
    alone = [text for key, text in texts.items() if key not in paired]
    stems = Counter(map(_without_suffix, images))
    for name in sorted([*images, *alone]):
        if _suffix(name) == ".txt":
            yield _Pair(None, name)
            continue
        text, longer = _text_of(name, texts), texts.get(name)
        if longer is None or longer == text or name in stems:  # it is the text of a.jpg.png
            yield _Pair(name, text)
        elif stems[_without_suffix(name)] > 1:  # the shorter name serves another image
            yield _Pair(name, longer)
        else:
            yield _Pair(name, text, longer)


def _text_of(image: str, texts: Mapping[str, str]) -> str | None:
    return texts.get(_without_suffix(image)) or texts.get(image)


def _without_suffix(name: str) -> str:
    return os.path.splitext(name)[0]


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


class _Member(NamedTuple):
    """Where a member's bytes lie. A whole header would keep all that extends it."""

    place: int
    size: int
    obstacle: str
    """Why the bytes are not read; '' if they are."""

    @classmethod
    def of(cls, member: tarfile.TarInfo) -> _Member:
        obstacle = "" if member.isfile() else "is a link"
        if member.issparse():  # a few bytes may stand for any number of zeros
            obstacle = "is a sparse file"
        return cls(member.offset_data, member.size, obstacle)


@dataclass
class _Sample:
    """A WebDataset sample: members of an archive that share a key, by their extension."""

    key: str
    place: list[int]
    file: BinaryIO
    members: dict[str, _Member] = field(default_factory=dict)
    fault: InputError | None = None
    """Why the members cannot be used."""

    @property
    def record(self) -> Record:
        return Record(self.fault or self, self.place, self.key)

    def add(self, extension: str, member: tarfile.TarInfo) -> None:
        if extension in self.members:
            self.fault = InputError("bad_row", f"{self.key}: has two members {named([extension])}")
        elif len(self.members) == _MOST_MEMBERS:
            self.fault = InputError("bad_row", f"{self.key}: has over {_MOST_MEMBERS} members")
        else:
            self.members[extension] = _Member.of(member)

    def read_text(self, extension: str) -> str:
        """The text in a member. Raises :class:`InputError` for one that is too long or no text."""
        name = f"{self.key}: its {extension}"
        if self.members[extension].size > 4 * CELL_LIMIT:
            raise InputError("bad_row", f"{name}: holds over {CELL_LIMIT:,} characters")
        return decode_text(self.read(extension), name)

    def read(self, extension: str) -> bytes:
        """The bytes of a member. Raises :class:`EOFError` where the archive breaks off."""
        member = self.members[extension]
        if member.obstacle:
            raise InputError("bad_row", f"{self.key}: its member {extension!r} {member.obstacle}")
        there = self.file.seek(0, os.SEEK_END) - member.place
        if there < member.size:
            raise EOFError(f"its {extension} breaks off after {there} of {member.size} bytes")
        self.file.seek(member.place)
        return self.file.read(member.size)

    def image(self) -> str:
        """The extension of its image. Raises :class:`InputError` where it has none, or more than one."""
        images = [extension for extension in self.members if f".{extension}" in IMAGE_SUFFIXES]
        if len(images) > 1:
            raise InputError("bad_row", f"{self.key}: which member is the image? ({named(images)})")
        if images:
            return images[0]
        unread = [extension for extension in self.members if f".{extension}" in UNREAD_SUFFIXES]
        if unread:
            raise _unread(f"{self.key}.{unread[0]}", f".{unread[0]}")
        parts = [e for e in self.members if f".{e.rpartition('.')[2]}" in IMAGE_SUFFIXES]
        more = f"; {named(parts)} may be another picture: an image is called {self.key}.png" if parts else ""
        raise InputError("missing_image", f"{self.key}: has no image{more}")


@dataclass(frozen=True)
class WebDatasetTable(Table):
    """Tar files ("shards") in order, of which only headers and the wanted members are read.

    The image of a sample is the member whose whole extension is an image's (``a.png``, and not
    ``a.depth.png``); the text is ``txt``, or ``text`` of ``json``; the id is that of ``json``
    or the sample's key. Columns that are named are members, or keys of ``json``. A mark is the number of
    a shard and a byte in it.
    """

    paths: tuple[Path, ...]
    name: str

    @property
    def source(self) -> str:
        return self.name

    @property
    def usual(self) -> Usual:
        return {"id": (_ID,), "image": (_IMAGE,), "text": (_TEXT,)}

    def fingerprint(self, texts: Sequence[str]) -> dict[str, Any]:
        return {"shards": {path.name: file_fingerprint(path) for path in self.paths}}

    def records(self, roles: Mapping[str, str], mark: Mark = None) -> Iterator[Record]:
        first, place = mark or (0, 0)
        for shard in range(first, len(self.paths)):
            with open_file(self.paths[shard]) as file:
                yield from _shard_records(file, shard, place if shard == first else 0)

    def cells(self, content: Any, roles: Mapping[str, str]) -> Mapping[str, Any]:
        sample: _Sample = content
        try:
            return _sample_cells(sample, roles)
        except InputError:
            raise
        except Exception as error:  # noqa: BLE001 - tarfile raises anything on hostile data
            raise InputError("damaged_shard", f"{sample.key}: cannot be read ({error})") from None


_ID, _IMAGE, _TEXT = "its id", "its image", "its text"
"""The columns of a sample that nobody has named."""


def _sample_cells(sample: _Sample, roles: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "json" in sample.members:
        column, text = roles.get("id", _ID), sample.read_text("json")
        try:
            found = parse_object(text, "id" if column == _ID else column)
        except InputError as error:
            raise InputError(error.kind, f"{sample.key}: its json: {error}") from None
    texts = "txt" in sample.members
    cells = {_ID: found.get("id"), _TEXT: sample.read_text("txt") if texts else found.get("text")}
    for name in roles.values():
        if name == _IMAGE:
            cells[name] = sample.read(sample.image())
        elif name == roles.get("image") and name in sample.members:
            cells[name] = sample.read(name)
        elif name in found:
            cells[name] = found[name]
        elif name in sample.members:
            cells[name] = sample.read_text(name)
        elif name not in cells:
            raise InputError("bad_row", f"{sample.key}: has no member {name!r}, and its json no such key")
    return cells


def _shard_records(file: BinaryIO, shard: int, place: int) -> Iterator[Record]:
    """Samples of one archive. One that breaks off ends with a record that says so."""
    sample: _Sample | None = None
    lost: list[Record] = []
    try:
        if packed := compression(file.read(16)):
            raise tarfile.ReadError(packed)
        file.seek(place)
        archive = tarfile.TarFile(fileobj=file, tarinfo=_CheckedHeader)
        for member in archive:
            archive.members = []  # type: ignore[attr-defined] # it keeps all headers, perhaps millions
            if archive.offset <= member.offset:  # it would read the same members again, for ever
                raise tarfile.ReadError("a member has a negative size")
            key, extension = _split(member.name)
            is_read = member.isfile() and (member.size <= _MEMBER_LIMIT or member.issparse())
            is_part = is_read or member.islnk() or member.issym()
            if not (extension and is_part) or is_hidden(member.name):
                continue
            if sample is None or sample.key != key:
                if sample is not None:
                    yield sample.record
                sample = _Sample(key, [shard, member.offset], file)
            sample.add(extension, member)
        _check_end(file, archive.offset)
    except Exception as error:  # noqa: BLE001 - tarfile raises anything on hostile data
        name = f"shard {file.name}"
        reason = str(error) or type(error).__name__
        fault = InputError("damaged_shard", f"{name}: damaged archive ({reason})")
        lost = [Record(fault, [shard, file.tell()], name)]
    if sample is not None:
        yield sample.record
    yield from lost


_MEMBER_LIMIT = 1 << 30
"""Bytes of the largest member that is read."""

_MOST_MEMBERS = 1000
"""Members of the largest sample."""

_MOST_GLOBAL = 100
"""Keys that global headers may set, together."""

_EXTENSION_LIMIT = 1 << 16
"""Bytes of the largest header that extends another one, with a long name for example."""

_EXTENSIONS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class _CheckedHeader(tarfile.TarInfo):
    """A header that is refused before tarfile acts on a size that cannot be true."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _CheckedHeader:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in _EXTENSIONS and header.size > _EXTENSION_LIMIT):
            raise tarfile.ReadError(f"a header says that it holds {header.size:,} bytes")
        return header

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _CheckedHeader:  # called before each header
        # Each header gets a copy of all keys.
        if len(archive.pax_headers or ()) > _MOST_GLOBAL:
            raise tarfile.ReadError(f"global headers set over {_MOST_GLOBAL} keys")
        return super().fromtarfile(archive)


def _check_end(file: BinaryIO, place: int) -> None:
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
