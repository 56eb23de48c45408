"""Errors that descscore raises, each with the exit code that the command line gives it.

Every message names the file, row or value that caused it, so that a caller who scores
many inputs can tell which one to look at. An error's ``kind`` is a short, stable word for
tables and logs, such as ``missing_image``.
"""

from __future__ import annotations

from collections.abc import Mapping


class DescscoreError(Exception):
    """Base of every error that descscore raises on purpose."""

    exit_code = 1
    kind = "error"


class UsageError(DescscoreError):
    """The call itself is wrong: an unknown option value, lists of unequal length."""

    exit_code = 2
    kind = "usage"


class ModelError(DescscoreError):
    """A model is not there, or cannot be read or used."""

    kind = "model"


class InputError(DescscoreError):
    """One image or text cannot be scored.

    Args:
        kind: Why not, in one word (see :class:`ImageError`, :class:`TextError`).
        message: The same for people, with the file or value.
        rows: Where a list was scored, the error of each row that cannot be scored; else empty.
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
