"""The errors that descscore raises, with their exit codes on the command line.

Every message names the file, row or value that caused it, because callers score many inputs
at once. An error's ``kind`` is a short, stable word for tables and logs, such as
``missing_image``.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence

import regex


class DescscoreError(Exception):
    """Base of every error that descscore raises on purpose."""

    exit_code = 1
    kind = "error"


class UsageError(DescscoreError):
    """The call itself is wrong: an unknown option value, lists of unequal length."""

    exit_code = 2
    kind = "usage"


class ModelError(DescscoreError):
    """A model is missing, or cannot be read or used."""

    kind = "model"


class InputError(DescscoreError):
    """One image or text cannot be scored.

    Args:
        kind: The reason in one word (see :class:`ImageError`, :class:`TextError`).
        message: The reason in a sentence, with the file or value.
        rows: The error of each row that cannot be scored; empty unless a list was scored.
    """

    def __init__(self, kind: str, message: str, rows: Mapping[int, InputError] | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.rows = dict(rows or {})

    def __reduce__(self) -> tuple[type, tuple[str, str, dict[int, InputError]]]:
        # Worker processes pickle these errors. Exceptions are rebuilt from ``args``, which lacks ``kind``.
        return (type(self), (self.kind, str(self), self.rows))


class ImageError(InputError):
    """An image cannot be scored (missing, damaged, not an image, too large, a URL)."""


class TextError(InputError):
    """A text cannot be scored (empty, blank, not text, too long under the text policy ``error``)."""


class DataError(DescscoreError):
    """A data set lacks a file, a column or rows that were asked for."""

    kind = "data"


class StorageError(DescscoreError):
    """A database cannot be read or written: missing, read-only, full, locked, or not one of ours."""

    kind = "storage"


def rows_error(
    problems: Mapping[int, InputError], name: Callable[[int], str] | None = "row {}".format
) -> InputError:
    """One error for all rows that cannot be scored, with the class and kind of the first row's error.

    Args:
        problems: The error of each such row; at least one.
        name: The name of a row in the message; None if the caller knows no rows, as for a single image.
            Then the message says each problem once.
    """
    ordered = sorted(problems.items())
    first = ordered[0][1]
    messages = [str(error) if name is None else f"{name(row)}: {error}" for row, error in ordered]
    return type(first)(first.kind, first_ten(list(dict.fromkeys(messages))), problems)


def first_ten(problems: Sequence[str], separator: str = "; ") -> str:
    """Problems on one line: the first ten, and the number of the others."""
    more = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
    return separator.join([*problems[:10], *more])


_CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


_SEEN = regex.compile(r"[^\s\p{Z}\p{Cc}\p{Default_Ignorable_Code_Point}\u2800\ufff9-\ufffc\U0001d159]")
"""What a person can see or a screen reader says: no blank, zero-width character, filler or blank Braille."""

_ENTITY = regex.compile(r"&(?:amp;)*(?:#[0-9]{1,8}|#[xX][0-9a-fA-F]{1,8}|[A-Za-z][A-Za-z0-9]{1,31});?")
_MOST_UNESCAPED = 8


def is_blank(text: str) -> bool:
    """Whether nobody can see anything of ``text``, also where HTML's entities stand for its characters."""
    for _ in range(_MOST_UNESCAPED):
        if _SEEN.search(_ENTITY.sub("", text)):
            return False
        plain = html.unescape(text)
        if plain == text:
            break
        text = plain
    return not _SEEN.search(text)


def shown(text: object) -> str:
    r"""``text`` for a terminal or a page, with control characters shown (as ``\u001b``) and not obeyed.

    Line ends stay. Characters that reverse the order of what follows count as control characters, and so do
    those that XML forbids. JSON stays valid JSON of the same value.
    """
    return _CONTROLS.sub(lambda match: json.dumps(match[0])[1:-1], str(text))
