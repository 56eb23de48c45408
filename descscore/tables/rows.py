"""Which cells of a table make a row: their names, and the rows made of them."""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from descscore.context import parse_references
from descscore.errors import DataError, ImageError, InputError
from descscore.images import check_path

# Records of a preference data set: an image with a description and a caption of it.


class StoredImage(Protocol):
    """An image file that is read when asked for; ``str()`` says where it lies."""

    def check(self) -> None:
        """Raise :class:`ImageError` where there is nothing to read. Does not decode."""

    def read(self) -> bytes:
        """The bytes of the image file. Raises :class:`ImageError` where there are none."""


@dataclass(frozen=True)
class FileImage:
    """An image in a file of its own."""

    path: Path

    def check(self) -> None:
        check_path(self.path)

    def read(self) -> bytes:
        path = check_path(self.path)
        try:
            return path.read_bytes()
        except OSError as error:
            raise ImageError("unreadable_image", f"{path}: {error.strerror or error}") from None

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class NoImage:
    """The place of an image that a row does not have."""

    where: str

    def check(self) -> None:
        self.read()

    def read(self) -> bytes:
        raise ImageError("missing_image", f"{self.where}: has no image")

    def __str__(self) -> str:
        return self.where


@dataclass(frozen=True)
class Row:
    """One row as a reader found it, texts unchecked.

    number: 1 for the first row of data in ``source``, the file or data set it
    stands in. group: what rows must not be split across, such as a book or an
    article; None where the data do not say.
    """

    source: str
    number: int
    image: StoredImage
    description: object
    caption: object
    split: str
    id: str
    group: str | None
    context: str


@dataclass(frozen=True)
class PreferencePair:
    """An image with a description and a caption; the fields are as in :class:`Row`."""

    image: StoredImage
    description: str
    caption: str
    split: str
    id: str
    group: str | None
    context: str
    source: str
    number: int


@dataclass(frozen=True)
class Unusable:
    """A row that was left out. reason: a short, stable word; detail: for people."""

    source: str
    number: int
    id: str
    split: str
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.source} row {self.number} ({self.id}): {self.detail}"


@dataclass(frozen=True)
class PreferenceSet:
    """A whole data set: the usable pairs and the rows left out, both in the order of the data."""

    source: str
    pairs: tuple[PreferencePair, ...]
    unusable: tuple[Unusable, ...]

    def splits(self) -> dict[str, int]:
        """Usable pairs by split, in the order in which the splits first occur."""
        return dict(Counter(pair.split for pair in self.pairs))

    def split(self, name: str) -> tuple[PreferencePair, ...]:
        """The pairs of one split. Raises :class:`DataError` where it has none."""
        wanted = normal_split(name)
        found = tuple(pair for pair in self.pairs if pair.split == wanted)
        if found:
            return found
        left_out = sum(row.split == wanted for row in self.unusable)
        there = ", ".join(f"{split or '(none)'} {n}" for split, n in self.splits().items()) or "none at all"
        more = f"; {left_out} of its rows cannot be used" if left_out else ""
        raise DataError(f"{self.source}: no usable pairs in split {name!r}{more} (pairs by split: {there})")

    def reasons(self) -> dict[str, int]:
        """Rows left out, counted by reason."""
        return dict(Counter(row.reason for row in self.unusable))

    def summary(self) -> str:
        """A line of counts, then a line for each row left out."""
        splits = ", ".join(f"{split or '(no split)'} {n}" for split, n in self.splits().items())
        lines = [f"{self.source}: {len(self.pairs)} pairs ({splits}), {len(self.unusable)} rows not usable"]
        if self.unusable:
            lines[0] += " (" + ", ".join(f"{reason} {n}" for reason, n in self.reasons().items()) + ")"
        return "\n".join([*lines, *(f"  {row}" for row in self.unusable)])


_SPLIT_NAMES = {"validation": "val", "valid": "val", "dev": "val", "training": "train", "testing": "test"}


def normal_split(name: object) -> str:
    """A split's name in lower case, its usual synonyms as ``train``, ``val`` or ``test``; '' for none."""
    text = "" if name is None else str(name).strip().lower()
    return _SPLIT_NAMES.get(text, text)


def sort_rows(source: str, rows: Iterable[Row], keep_equal: bool = False) -> PreferenceSet:
    """Tell usable rows from others. keep_equal: whether a description equal to its caption is usable.

    Raises :class:`DataError` where not one row is usable.
    """
    pairs: list[PreferencePair] = []
    unusable: list[Unusable] = []
    for row in rows:
        fault = _fault(row, keep_equal)
        if fault is None:
            pairs.append(_pair(row))
        else:
            unusable.append(Unusable(row.source, row.number, row.id, row.split, *fault))
    result = PreferenceSet(source, tuple(pairs), tuple(unusable))
    if not pairs:
        first = f"; the first: {unusable[0]}" if unusable else ""
        raise DataError(f"{source}: none of its {len(unusable)} rows can be used{first}")
    return result


def _pair(row: Row) -> PreferencePair:
    return PreferencePair(
        image=row.image,
        description=str(row.description),
        caption=str(row.caption),
        split=row.split,
        id=row.id,
        group=row.group,
        context=row.context,
        source=row.source,
        number=row.number,
    )


def _fault(row: Row, keep_equal: bool) -> tuple[str, str] | None:
    """Why a row cannot be used, as reason and detail."""
    checks: tuple[Callable[[], tuple[str, str] | None], ...] = (
        lambda: _text_fault("description", row.description),
        lambda: _text_fault("caption", row.caption),
        lambda: None if keep_equal else _equal_fault(str(row.description), str(row.caption)),
        lambda: _image_fault(row.image),
    )
    return next((fault for check in checks if (fault := check()) is not None), None)


def _text_fault(name: str, text: object) -> tuple[str, str] | None:
    if text is None or (isinstance(text, str) and not text.strip()):
        return f"empty_{name}", f"the {name} is empty"
    if not isinstance(text, str):
        return "not_text", f"the {name} is not text but {type(text).__name__} ({str(text)[:40]!r})"
    return None


def _equal_fault(description: str, caption: str) -> tuple[str, str] | None:
    # Only texts equal to the letter: what else is the same to a model depends on its tokenizer.
    if description == caption:
        return "equal_texts", f"description and caption are the same ({description.strip()[:40]!r})"
    return None


def _image_fault(image: StoredImage) -> tuple[str, str] | None:
    try:
        image.check()
    except ImageError as error:
        return error.kind, str(error)
    return None


# What every reader of inputs gives: rows in order, and enough to find a row again.


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


@dataclass(frozen=True)
class ColumnNames:
    """Columns of a table. id: None means ``id`` where there is one; rows without an id are numbered.
    context, references: None means that none are read, whatever columns there are.
    """

    id: str | None = None
    image: str = "image"
    text: str = "text"
    context: str | None = None
    references: str | None = None

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that have to be there."""
        return tuple(filter(None, (self.id, self.image, self.text, *self.beside)))

    @property
    def beside(self) -> tuple[str, ...]:
        """The columns of contexts and references that are read."""
        return tuple(filter(None, (self.context, self.references)))

    def wanted(self, present: Iterable[str]) -> list[str]:
        """The columns to read where those ``present`` are there."""
        return sorted({*self.needed, *({"id"} & set(present) if self.id is None else ())})

    def check(self, source: str, present: Iterable[str]) -> None:
        """Raise :class:`DataError` for a column that is asked for and not among ``present``."""
        names = list(present)
        for name in self.needed:
            if name not in names:
                there = ", ".join(map(repr, names)) or "none"
                raise DataError(f"{source}: no column {name!r}; its columns are {there}")

    def pick(self, cells: Mapping[str, Any]) -> Cells:
        """The cells of one row by their names; None for one that is not there."""
        names = (self.id or "id", self.image, self.text, self.context, self.references)
        return Cells(*(None if name is None else cells.get(name) for name in names))


def checked_row(number: int, cells: Cells, root: ImageRoot) -> InputRow:
    """As :func:`make_row`, with a fault where id or text is not valid Unicode."""
    row = make_row(number, cells, root)
    for name, value in (("id", row.id), ("text", cells.text)):
        if isinstance(value, str) and not _is_unicode(value):
            fault = InputError("wrong_encoding", f"row {number + 1}: its {name} is not UTF-8")
            clean = row.id.encode("utf-8", "backslashreplace").decode()
            return InputRow(clean, None, None, fault)
    return row


def _is_unicode(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
