"""What every reader of inputs gives: rows in order, and enough to find a row again."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from descscore.errors import ImageError, InputError
from descscore.references import parse_references

Mark: TypeAlias = "list[int] | None"
"""Where a reader can begin without reading what lies before, in the reader's own terms."""


@dataclass(frozen=True)
class InputRow:
    """One row of an input. image: a path, the bytes of an image file, or None with a fault.
    fault: why the row cannot be scored, known before anything is decoded. context,
    references: what stands beside the pair, where such columns are read.
    """

    id: str
    image: str | bytes | None
    text: object
    fault: InputError | None = None
    context: object = None
    references: object = None


@dataclass(frozen=True)
class Cells:
    """The cells that a row of a table is made of, as they are there.

    image: path, bytes, a mapping with ``bytes`` and ``path`` as ``datasets`` writes it, or None.
    references: a list, a JSON list in a string, blank, or None.
    """

    id: object
    image: object
    text: object
    context: object = None
    references: object = None


@dataclass(frozen=True)
class Scan:
    """rows: how many an input holds. marks: where row 0, ``step``, ``2 * step``... begins."""

    rows: int
    marks: Sequence[Mark]


class Input(Protocol):
    """An opened input; a copy of it can be sent to another process."""

    @property
    def source(self) -> str:
        """What the input is called in messages."""

    def fingerprint(self) -> dict[str, Any]:
        """What changes when the input does, in plain JSON types."""

    def scan(self, step: int) -> Scan:
        """Count the rows, and mark every ``step``-th."""

    def rows(self, start: int = 0, mark: Mark = None) -> Iterator[InputRow]:
        """Rows from number ``start`` (0-based) on; ``mark`` is what :meth:`scan` said of ``start``."""


@dataclass(frozen=True)
class ImageRoot:
    """Where relative image paths begin, and what they may not leave (by ``..`` or by a link)."""

    folder: str

    def find(self, path: str) -> str:
        """The file that a row's image path stands for; absolute paths stay as they are.

        Raises :class:`ImageError` with kind ``url_not_supported`` or ``outside_image_root``.
        """
        if re.match(r"(?i)([a-z][a-z0-9+.-]*://|data:)", path):
            hint = "addresses are never fetched; download the image and give the file's path"
            raise ImageError("url_not_supported", f"{path[:200]}: {hint}")
        if os.path.isabs(path) or "\0" in path:
            return path
        found = os.path.join(self.folder, path)
        if not _is_plain(self.folder, path) and not _is_below(self.folder, found):
            raise ImageError("outside_image_root", f"{path[:200]}: leads out of the image root {self.folder}")
        return found


def _is_plain(folder: str, path: str) -> bool:
    """Whether ``path`` goes down from ``folder`` only, through no link: the usual case, found out quickly."""
    below, _, name = path.rpartition("/")
    if name in ("", "..") or os.path.islink(os.path.join(folder, path)):
        return False
    return not below or _is_plain_folder(folder, below)


@functools.lru_cache(maxsize=4096)
def _is_plain_folder(folder: str, path: str) -> bool:
    return _is_plain(folder, path)


def _is_below(folder: str, path: str) -> bool:
    root, found = os.path.realpath(folder), os.path.realpath(path)
    return found == root or found.startswith(root.rstrip(os.sep) + os.sep)


def make_row(number: int, cells: Cells, root: ImageRoot) -> InputRow:
    """A row of a table. number: 0-based; the id of a row without one is its 1-based number."""
    row_id = str(number + 1) if cells.id is None or cells.id == "" else str(cells.id)
    try:
        references = parse_references(cells.references)
        image = _image(cells.image, number, root)
    except InputError as error:
        return InputRow(row_id, None, cells.text, error)
    return InputRow(row_id, image, cells.text, None, cells.context, references)


def _image(image: object, number: int, root: ImageRoot) -> str | bytes:
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, bytes):
        return image
    if image is None or (isinstance(image, str) and not image.strip()):
        raise ImageError("missing_image", f"row {number + 1}: has no image")
    if not isinstance(image, str):
        raise ImageError(
            "bad_image_type", f"row {number + 1}: the image is {type(image).__name__}, not a path"
        )
    return root.find(image)


def file_fingerprint(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file; of one over 4 GiB, those of its ends and the time of its last change."""
    import hashlib

    stat = path.stat()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if stat.st_size <= _WHOLE:
            while block := file.read(_BLOCK):
                digest.update(block)
            return {"bytes": stat.st_size, "sha256": digest.hexdigest()}
        digest.update(file.read(_BLOCK))
        file.seek(-_BLOCK, os.SEEK_END)
        digest.update(file.read(_BLOCK))
    return {"bytes": stat.st_size, "ends_sha256": digest.hexdigest(), "changed_ns": stat.st_mtime_ns}


_WHOLE, _BLOCK = 4 << 30, 1 << 22
