"""Read CSV files into rows, with errors that name file and line."""

from __future__ import annotations

import csv
import hashlib
import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from descscore.errors import DataError

_BLANK = frozenset({"", "na", "nan", "null", "none"})


@dataclass(frozen=True)
class Row:
    """One row of a CSV file, its cells by column name and its place for error messages."""

    place: str
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]

    def number(self, column: str) -> float | None:
        """The cell as a number, None where it is blank or NA; anything else is a :class:`DataError`."""
        text = self.cells[column].strip()
        if text.lower() in _BLANK:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DataError(f"{self.place}: {column} is {text[:40]!r}, not a number")
        return value


def read_rows(path: Path, required: Iterable[str] = (), empty: bool = False) -> list[Row]:
    """All rows of a UTF-8 CSV file with a header. empty: whether it may have no rows.

    Raises :class:`DataError` where the file is missing or unreadable, has no rows,
    lacks a required column, or has a row of another length than its header.
    """
    try:
        # utf-8-sig: spreadsheet programs write a byte order mark, which would join the first name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or ())
            check_columns(path, columns, required)
            rows = [_row(path, reader.line_num, cells) for cells in reader]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV file ({error})") from None
    if not rows and not empty:
        raise DataError(f"{path}: holds no rows")
    return rows


def check_columns(path: Path, columns: list[str], required: Iterable[str]) -> None:
    """Raise a :class:`DataError` that names the missing columns and those there are."""
    missing = [column for column in required if column not in columns]
    if missing:
        raise DataError(f"{path}: lacks column {', '.join(missing)} (has {', '.join(columns) or 'none'})")


def text_key(text: str) -> str:
    """What makes two texts the same for a join: Unicode NFC, blanks at both ends off."""
    return unicodedata.normalize("NFC", text).strip()


def digest(*paths: Path) -> str:
    """Eight hex digits of the SHA-256 of the files, for signatures."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()[:8]


def named(values: Iterable[str], shown: int = 3) -> str:
    """The first few of ``values`` for an error message, each quoted and cut."""
    listed = list(values)
    quoted = ", ".join(repr(v if len(v) <= 60 else v[:57] + "...") for v in listed[:shown])
    return quoted + (f" and {len(listed) - shown} more" if len(listed) > shown else "")


def _row(path: Path, line: int, cells: dict[str, str]) -> Row:
    place = f"{path}: line {line}"
    # csv puts surplus cells under the key None and fills missing ones with None.
    if None in cells or None in cells.values():
        raise DataError(f"{place}: has more or fewer cells than the header")
    return Row(place, cells)
