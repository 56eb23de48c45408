"""Read pairs from a folder of images, each with its text in a file beside it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from descscore.errors import DataError, ImageError, InputError, TextError
from descscore.tables.rows import ImageRoot, InputRow, Mark, Scan

IMAGE_SUFFIXES = frozenset(
    [
        *(".avif", ".bmp", ".gif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
        *(".pgm", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
    ]
)
_TEXT_LIMIT = 1 << 20


@dataclass(frozen=True)
class FolderInput:
    """Images below a folder; the text of ``a/b.jpg`` is in ``a/b.txt`` or ``a/b.jpg.txt``.

    The id is the path below the folder; rows come in the order of folders and names.
    An image without a text, and a text without an image, are rows with their fault.
    """

    path: Path

    @property
    def source(self) -> str:
        return str(self.path)

    def fingerprint(self) -> dict[str, Any]:
        """Names, sizes and times of change of all images and texts: touching one counts as a change."""
        digest = hashlib.sha256()
        for name in self._files():
            stat = os.stat(os.path.join(self.path, name))
            digest.update(f"{os.fsencode(name)!r} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return {"files_sha256": digest.hexdigest()}

    def scan(self, step: int) -> Scan:
        rows = sum(1 for _ in self._pairs())
        if not rows:
            raise DataError(f"{self.path}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return Scan(rows, [None] * -(-rows // step))

    def rows(self, start: int = 0, mark: Mark = None) -> Iterator[InputRow]:
        root = ImageRoot(str(self.path))
        for number, (name, text) in enumerate(self._pairs()):
            if number >= start:
                yield self._row(name, text, root)

    def _files(self) -> Iterator[str]:
        """Paths below the folder, one folder's names in memory at a time."""
        for folder, below, names in os.walk(self.path):
            below.sort()
            for name in sorted(names):
                if _suffix(name) in IMAGE_SUFFIXES or _suffix(name) == ".txt":
                    yield os.path.relpath(os.path.join(folder, name), self.path)

    def _pairs(self) -> Iterator[tuple[str, str | None]]:
        """Image and text path of each row; the image is a text's own path where it has none."""
        for folder, below, names in os.walk(self.path):
            below.sort()
            there, here = set(names), os.path.relpath(folder, self.path)
            images = {name for name in names if _suffix(name) in IMAGE_SUFFIXES}
            stems = {os.path.splitext(name)[0] for name in images}
            for name in sorted(names):
                stem = os.path.splitext(name)[0]
                path = os.path.normpath(os.path.join(here, name))
                if name in images:
                    text = next((t for t in (f"{stem}.txt", f"{name}.txt") if t in there), None)
                    yield path, text and os.path.normpath(os.path.join(here, text))
                elif _suffix(name) == ".txt" and stem not in stems and stem not in images:
                    yield path, path

    def _row(self, name: str, text: str | None, root: ImageRoot) -> InputRow:
        identity = name.encode("utf-8", "backslashreplace").decode()
        try:
            if text is None:
                raise TextError("missing_text", f"{identity}: no text file beside it")
            if text == name:
                raise ImageError("missing_image", f"{identity}: no image beside this text")
            words = _read_text(os.path.join(self.path, text))
            return InputRow(identity, root.find(name), words)
        except InputError as error:
            return InputRow(identity, None, None, _as_input_error(error))


def _as_input_error(error: InputError) -> InputError:
    # A row without its text is not a row whose text is empty, so its fault comes first.
    return InputError(error.kind, str(error))


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _read_text(path: str) -> str:
    """The text of a file, without the line end that editors add."""
    try:
        with open(path, "rb") as file:
            data = file.read(_TEXT_LIMIT + 1)
        return data.decode("utf-8-sig").rstrip("\r\n")
    except OSError as error:
        raise TextError("missing_text", f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise TextError("wrong_encoding", f"{path}: is not UTF-8") from None
