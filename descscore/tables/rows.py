"""Rows of tables, and what is made of them.

A :class:`Row` comes from any table. A :class:`PreferenceSet` holds those that have an image with a
description and a caption. :func:`find_image` turns an image's path in a table into a file.
"""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from descscore.errors import DataError, ImageError, InputError, is_blank
from descscore.images import PATH_LIMIT, address_fault, check_is_path, check_path, read_image_file
from descscore.tables.cells import cut

MAX_LISTED = 20
"""Most rows that a message lists one by one."""


class StoredImage(Protocol):
    """An image file that is read when asked for; ``str()`` names its place."""

    def check(self) -> None:
        """Raise :class:`ImageError` if there is nothing to read. Does not decode."""

    def read(self) -> bytes:
        """The bytes of the image file. Raises :class:`ImageError` if it cannot be read."""


@dataclass(frozen=True)
class FileImage:
    """An image in a file of its own."""

    path: Path

    def check(self) -> None:
        check_path(self.path)

    def read(self) -> bytes:
        return read_image_file(self.path)

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Row:
    """One row of a table, as a reader found it. Texts are unchecked.

    A cell is None where the table has no column for it.
    """

    source: str
    """The file or data set."""
    number: int
    """1 for the first row of data."""
    id: str
    """The id as written. A row without one gets its number, or ``row-`` and its number."""
    image: str | bytes | None = None
    """A path, or the bytes of an image file. None with a fault, or where no image is read."""
    image_as_written: str | None = None
    """The image's path as the table has it; None where it has none."""
    text: object = None
    """The text to score."""
    description: object = None
    """The text that stands in for the image."""
    caption: object = None
    """The text that adds to the image."""
    context: object = None
    """The text around the image."""
    references: object = None
    """A list of good descriptions."""
    split: str = ""
    """``train``, ``val``, ``test`` or another name in lower case; '' for none."""
    group: str | None = None
    """What folds must not divide, such as a book or an article."""
    fault: InputError | None = None
    """Why the row cannot be used, known before anything is decoded."""
    line: int | None = None
    """The line of a text file on which the row begins, from 1."""
    cells: Mapping[str, Any] = field(default_factory=dict)
    """The cells by column name, where no roles say which are read; empty otherwise."""
    stored: StoredImage | None = field(default=None, compare=False)
    """The image as a handle that holds no bytes."""


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
        return f"{self.source} row {self.number} ({self.id[:60]}): {self.detail}"


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
        pairs = tuple(pair for pair in self.pairs if pair.split == wanted)
        if pairs:
            return pairs
        left_out = sum(row.split == wanted for row in self.unusable)
        there = ", ".join(f"{split or '(none)'} {n}" for split, n in self.splits().items()) or "none at all"
        more = f"; {left_out} of its rows cannot be used" if left_out else ""
        hint = "; give the empty split '' for data without splits" if set(self.splits()) == {""} else ""
        raise DataError(
            f"{self.source}: no usable pairs in split {name!r}{more} (pairs by split: {there}){hint}"
        )

    def reasons(self) -> dict[str, int]:
        """Rows left out, counted by reason."""
        return dict(Counter(row.reason for row in self.unusable))

    def unusable_lines(self, most: int = 5) -> list[str]:
        """A line of counts, then a line for each row left out: ``most`` of them, and how many follow."""
        first = f"{len(self.unusable)} rows of the data set not usable{self._counted_reasons()}"
        return [first, *some_lines(map(str, self.unusable), most)]

    def summary(self) -> str:
        """A line of counts, then a line for each row left out, :data:`MAX_LISTED` at most."""
        splits = ", ".join(f"{split or '(no split)'} {n}" for split, n in self.splits().items())
        left_out = f"{len(self.unusable)} rows not usable{self._counted_reasons()}"
        first = f"{self.source}: {len(self.pairs)} pairs ({splits}), {left_out}"
        return "\n".join([first, *some_lines(map(str, self.unusable), MAX_LISTED)])

    def _counted_reasons(self) -> str:
        counts = ", ".join(f"{reason} {n}" for reason, n in self.reasons().items())
        return counts and f" ({counts})"


def some_lines(rows: Iterable[str], most: int = 5) -> list[str]:
    """The first of the lines for a list, indented, and how many follow."""
    lines = [f"  {row}" for row in rows]
    return lines[:most] + [f"  and {len(lines) - most} more"] * (len(lines) > most)


_SPLIT_NAMES = {"validation": "val", "valid": "val", "dev": "val", "training": "train", "testing": "test"}


def normal_split(name: object) -> str:
    """A split's name in lower case, its usual synonyms as ``train``, ``val`` or ``test``; '' for none."""
    text = "" if name is None else str(name).strip().lower()
    return _SPLIT_NAMES.get(text, text)


def sort_rows(source: str, rows: Iterable[Row], keep_equal: bool = False) -> PreferenceSet:
    """Sort usable rows from others. Raises :class:`DataError` where not one is usable.

    source: What the data set is called; keep_equal: whether a description equal to its caption is usable.
    """
    pairs: list[PreferencePair] = []
    unusable: list[Unusable] = []
    for row in rows:
        try:
            pairs.append(_pair(row, keep_equal))
        except InputError as error:
            # The row's place is named beside the detail.
            detail = str(error).removeprefix(f"row {row.number}: ")
            unusable.append(Unusable(row.source, row.number, row.id, row.split, error.kind, detail))
    if not pairs:
        first = f"; the first: {unusable[0]}" if unusable else ""
        raise DataError(f"{source}: none of its {len(unusable)} rows can be used{first}")
    return PreferenceSet(source, tuple(pairs), tuple(unusable))


def _pair(row: Row, keep_equal: bool) -> PreferencePair:
    """The pair of a row. Raises :class:`InputError` where it is not usable."""
    if row.fault is not None and not isinstance(row.fault, ImageError):
        raise row.fault
    description, caption = _text("description", row.description), _text("caption", row.caption)
    # Only texts equal to the letter: what else is the same to a model depends on its tokenizer.
    if description == caption and not keep_equal:
        short = description.strip()[:40]
        raise InputError("equal_texts", f"description and caption are the same ({short!r})")
    if row.fault is not None or row.stored is None:
        raise row.fault or ImageError("missing_image", "has no image")
    row.stored.check()
    context, place = str(row.context or ""), (row.source, row.number)
    return PreferencePair(row.stored, description, caption, row.split, row.id, row.group, context, *place)


def _text(name: str, text: object) -> str:
    if text is None or (isinstance(text, str) and is_blank(text)):
        raise InputError(f"empty_{name}", f"the {name} is empty")
    if not isinstance(text, str):
        raise InputError("not_text", f"the {name} is not text but {type(text).__name__} ({str(text)[:40]!r})")
    return text


def find_image(root: str, path: str, others: Iterable[str] = (), start: Path | None = None) -> str:
    """The file that a row's image path stands for.

    Args:
        root: The folder that no path may leave: not by ``..``, not by a link, and not by being absolute.
            The root ``/`` allows every file.
        path: What the image's cell holds.
        others: Further folders in which an absolute path may lie.
        start: The folder where relative paths begin; by default the root.

    Raises:
        ImageError: It is an address (kind ``url_not_supported``), no path at all
            (``bad_image_type``), or leads out of the root (``outside_image_root``).
    """
    if re.match(r"(?i)([a-z][a-z0-9+.-]*://|data:|file:/)", path[:PATH_LIMIT]):
        raise address_fault(path)
    check_is_path(path)
    if "\0" in path:
        return path
    file = os.path.join(root if start is None else start, path)
    if not any(is_below(folder, file) for folder in (root, *(others if os.path.isabs(path) else ()))):
        raise ImageError("outside_image_root", f"{cut(path)}: leads out of the image root {root!r}")
    return file


def is_below(root: str, file: str) -> bool:
    """Whether ``file`` is below the folder ``root`` when all links are followed."""
    root, file = os.path.join(os.getcwd(), root), os.path.join(os.getcwd(), file)
    folder, name = os.path.split(file)
    if name in ("", "..") or os.path.islink(file):
        folder, name = os.path.realpath(file), ""
    return (_real_folder(folder) + name).startswith(_real_folder(root))


@functools.lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    """The folder's path without links, with a slash at its end. Most images lie in few folders."""
    return os.path.join(os.path.realpath(folder), "")
