"""Folders of images, each with its text in a file beside it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from descscore.errors import DataError, InputError, UsageError
from descscore.tables.reader import CELL_LIMIT, Columns, FileTable, Mark, Record, Scan, Usual, unmarked
from descscore.tables.text_tables import decode_text

IMAGE_SUFFIXES = frozenset(
    [
        *(".apng", ".avif", ".bmp", ".dib", ".gif", ".icns", ".ico", ".jfif", ".jpe", ".jpeg", ".jpg"),
        *(".j2c", ".j2k", ".jp2", ".jpc", ".jpf", ".jpx", ".mpo", ".pbm", ".pcx", ".pgm", ".png"),
        *(".pnm", ".ppm", ".qoi", ".sgi", ".tga", ".tif", ".tiff", ".webp"),
    ]
)
"""Endings of image files, in lower case."""

UNREAD_SUFFIXES = frozenset(
    [
        *(".ai", ".arw", ".cr2", ".cr3", ".dng", ".emf", ".eps", ".heic", ".heif", ".hif", ".jxl", ".nef"),
        *(".orf", ".pdf", ".psd", ".raf", ".raw", ".rw2", ".svg", ".svgz", ".wmf", ".xcf"),
    ]
)
"""Endings of pictures whose formats are not read: such a file is a row where it has a text."""


def is_hidden(path: str) -> bool:
    """Whether a path below a folder or in an archive is one that systems leave behind: its name or
    a folder's begins with a dot, or it lies in macOS's ``__MACOSX``.
    """
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


class _Pair(NamedTuple):
    """Paths below the folder: of an image and its text, one of which may be missing."""

    image: str | None
    text: str | None


@dataclass(frozen=True)
class FolderTable(FileTable):
    """Images below a folder; the text of ``a/b.jpg`` is in ``a/b.txt`` or ``a/b.jpg.txt``.

    The id is the path below the folder; rows come in the order of folders and names. An image
    without a text, and a text without an image, are rows with their fault. Hidden files are no rows.
    """

    numbered: ClassVar[bool] = False

    def roles(self, columns: Columns, usual: Usual) -> dict[str, str]:
        """The same for every folder. Raises :class:`UsageError` where other columns are asked for."""
        other = columns.context or columns.references
        if other:
            raise UsageError(f"{self.path}: a folder of images has no column {other!r}; give a table")
        return {"id": "id", "image": "image", "text": "text"}

    def fingerprint(self, texts: Sequence[str]) -> dict[str, Any]:
        """Names, sizes and times of change of all images and texts: touching one counts as a change."""
        digest = hashlib.sha256()
        for folder, names in self._folders():
            for name in names:
                if _suffix(name) in IMAGE_SUFFIXES or _suffix(name) == ".txt":
                    below = os.path.normpath(os.path.join(folder, name))
                    stat = os.stat(os.path.join(self.path, below))
                    line = f"{os.fsencode(below)!r} {stat.st_size} {stat.st_mtime_ns}\n"
                    digest.update(line.encode())
        return {"files_sha256": digest.hexdigest()}

    def scan(self, step: int) -> Scan:
        rows = sum(1 for _ in self._pairs())
        if not rows:
            raise DataError(f"{self.path}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return unmarked(rows, step)

    def records(self, roles: Mapping[str, str], start: int, mark: Mark) -> Iterator[Record]:
        for number, pair in enumerate(self._pairs()):
            if number >= start:
                yield self._record(pair)

    def _folders(self) -> Iterator[tuple[str, list[str]]]:
        """Folders, relative, with the names of their files: one folder's names in memory at a time."""
        for folder, below, names in os.walk(self.path):
            below[:] = sorted(name for name in below if not is_hidden(name))
            yield os.path.relpath(folder, self.path), sorted(name for name in names if not is_hidden(name))

    def _pairs(self) -> Iterator[_Pair]:
        for folder, names in self._folders():
            for pair in _pairs_of(names):
                yield _Pair(*(name and os.path.normpath(os.path.join(folder, name)) for name in pair))

    def _record(self, pair: _Pair) -> Record:
        path = str(pair.image or pair.text)
        name = path.encode("utf-8", "backslashreplace").decode()
        cells: dict[str, Any] = {"id": name, "image": pair.image}
        try:
            # Plain errors, no image errors: a row without its text is not one whose text is empty.
            if pair.text is None:
                raise InputError("missing_text", f"{name}: no text file beside it")
            if pair.image is None:
                raise InputError("missing_image", f"{name}: no image beside this text")
            if _suffix(pair.image) in UNREAD_SUFFIXES:
                raise InputError("not_an_image", f"{name}: images in the format {_suffix(name)} are not read")
            text = _read_text(os.path.join(self.path, pair.text))
        except InputError as error:
            return Record(cells, error)
        return Record(cells | {"text": text})


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
    for name in sorted([*images, *alone]):
        yield _Pair(None, name) if _suffix(name) == ".txt" else _Pair(name, _text_of(name, texts))


def _text_of(image: str, texts: Mapping[str, str]) -> str | None:
    return texts.get(_without_suffix(image)) or texts.get(image)


def _without_suffix(name: str) -> str:
    return os.path.splitext(name)[0]


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _read_text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(_TEXT_BYTES + 1)
    except OSError as error:
        raise InputError("missing_text", f"{path}: {error.strerror or error}") from None
    if len(data) > _TEXT_BYTES:
        raise InputError("bad_row", f"{path}: holds over {CELL_LIMIT:,} characters")
    return decode_text(data, path)


_TEXT_BYTES = 4 * CELL_LIMIT
"""As many bytes as the longest text may have."""
