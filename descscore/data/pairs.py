"""Records of a preference data set: an image with a description and a caption of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from descscore.errors import DataError, ImageError
from descscore.images import check_path


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
class Pair:
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
class PairSet:
    """A whole data set: the usable pairs and the rows left out, both in the order of the data."""

    source: str
    pairs: tuple[Pair, ...]
    unusable: tuple[Unusable, ...]

    def splits(self) -> dict[str, int]:
        """Usable pairs by split, in the order in which the splits first occur."""
        return dict(Counter(pair.split for pair in self.pairs))

    def split(self, name: str) -> tuple[Pair, ...]:
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


def sort_rows(source: str, rows: Iterable[Row], keep_equal: bool = False) -> PairSet:
    """Tell usable rows from others. keep_equal: whether a description equal to its caption is usable.

    Raises :class:`DataError` where not one row is usable.
    """
    pairs: list[Pair] = []
    unusable: list[Unusable] = []
    for row in rows:
        fault = _fault(row, keep_equal)
        if fault is None:
            pairs.append(_pair(row))
        else:
            unusable.append(Unusable(row.source, row.number, row.id, row.split, *fault))
    result = PairSet(source, tuple(pairs), tuple(unusable))
    if not pairs:
        first = f"; the first: {unusable[0]}" if unusable else ""
        raise DataError(f"{source}: none of its {len(unusable)} rows can be used{first}")
    return result


def _pair(row: Row) -> Pair:
    return Pair(
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
