"""Check lists of images and texts before they are scored, and gather what is wrong with each row."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from descscore.errors import InputError, UsageError
from descscore.images import ImageSource


def as_list(name: str, values: Sequence[Any]) -> list[Any]:
    """A list of the rows; one path or text where a list belongs would be taken letter by letter."""
    if isinstance(values, (str, bytes, os.PathLike, Image.Image)):
        raise UsageError(f"{name}: expected a list, got one {type(values).__name__}")
    return list(values)


def check_pairs(images: Sequence[ImageSource], texts: Sequence[str]) -> list[tuple[ImageSource, str]]:
    """Pairs of image and text, row by row; :class:`UsageError` where there is not one of each."""
    images, texts = as_list("images", images), as_list("texts", texts)
    if len(images) != len(texts):
        raise UsageError(f"{len(images)} images but {len(texts)} texts: a pair needs one of each")
    return list(zip(images, texts, strict=True))


def check_column(name: str, values: Sequence[Any] | None, count: int) -> list[Any]:
    """One value a pair, None for all where none are given; :class:`UsageError` for another number."""
    if values is None:
        return [None] * count
    column = as_list(name, values)
    if len(column) != count:
        raise UsageError(f"{len(column)} {name} but {count} pairs: give one a pair, None where there is none")
    return column


def image_identity(image: ImageSource) -> object:
    """What makes two image arguments the same image: the path, or the object itself."""
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    return id(image)


def each(
    values: Sequence[Any],
    function: Callable[[Any], Any],
    problems: dict[int, InputError],
    rows: Sequence[int] | None = None,
) -> list[Any]:
    """``function`` of each value; what cannot be used goes into ``problems`` by its row."""
    out = []
    for row, value in zip(rows or range(len(values)), values, strict=True):
        try:
            out.append(function(value))
        except InputError as error:
            problems.setdefault(row, error)
    return out


def rows_error(
    problems: Mapping[int, InputError], name: Callable[[int], str] = "row {}".format
) -> InputError:
    """One error for all rows that cannot be scored, of the first row's class and kind.

    name: what to call a row in the message.
    """
    shown = sorted(problems.items())[:10]
    lines = "; ".join(f"{name(row)}: {error}" for row, error in shown)
    more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
    first = shown[0][1]
    return type(first)(first.kind, lines + more, problems)
