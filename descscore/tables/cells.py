"""Cells of tables in any format: their longest text, its coding, ids, JSON, and how messages quote them."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from descscore.errors import InputError, TextError, is_blank

CELL_LIMIT = 1 << 20
"""Longest cell of text, in characters, in every format."""

ID_LIMIT = 1000
"""Longest id in a column, in characters."""

_MOST_PARTS = 1 << 20
"""Most brackets, commas and colons of a JSON object. What stands between two of them may take 30 times the
memory of its text."""

MESSAGE_LIMIT = 400
"""Longest message of a row's fault, in characters."""


SAVE_AS_UTF8 = "; save it as UTF-8 (in Excel: 'CSV UTF-8')"
"""The cure that messages give for a table in another encoding."""


class Number(float):
    """A number with a point or an exponent, or of too many digits for Python, and how it is written."""

    __slots__ = ("written",)
    written: str

    def __new__(cls, text: str) -> Number:
        number = super().__new__(cls, text)
        number.written = text
        return number


def load_json(text: str, **hooks: Any) -> Any:
    """As ``json.loads``, which refuses a text for one number of over 4,300 digits: that is a Number here."""
    try:
        return json.loads(text, **hooks)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return json.loads(text, parse_int=_whole_number, **hooks)


def _whole_number(text: str) -> int | Number:
    try:
        return int(text)
    except ValueError:
        return Number(text)


def id_text(value: object) -> str | None:
    """An id as a string; None if it is blank, or if a cell of its kind cannot be an id."""
    if value is None or value == "" or isinstance(value, (Mapping, bytes)):
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        return str(int(value))  # a column of whole numbers with gaps is kept as floats
    if isinstance(value, (bool, list)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def is_unicode(value: str) -> bool:
    """Whether a string has no surrogates, which stand for bytes that are not valid."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def parse_references(cell: object) -> object:
    """The references in a table's cell: a list as it is, or a JSON list in a string; blank is none.

    Raises:
        TextError: The string holds anything else (kind ``bad_references``).
    """
    if not isinstance(cell, str):
        return cell
    if is_blank(cell):
        return None
    try:
        value = load_json(cell)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise TextError("bad_references", f"references {cell[:40]!r}: expected a JSON list of texts")
    return value


def parse_object(text: str, id_column: str | None = None) -> dict[str, Any]:
    """A JSON object, with the number in ``id_column`` as it is written.

    Raises:
        InputError: There is no object, or one with a key twice (kind ``bad_row``).
    """
    if len(text) > _MOST_PARTS and sum(map(text.count, "[{,:")) > _MOST_PARTS:
        raise InputError("bad_row", f"its JSON has over {_MOST_PARTS:,} parts")
    try:
        cells = load_json(text, object_pairs_hook=_unique)
        value = None if not (id_column and isinstance(cells, dict)) else cells.get(id_column)
        if isinstance(value, float) or (value == 0 and value is not False):
            cells[id_column] = json.loads(text, parse_int=str, parse_float=str)[id_column]
    except (ValueError, RecursionError) as error:
        raise InputError("bad_row", f"not valid JSON ({error})") from None
    if not isinstance(cells, dict):
        raise InputError("bad_row", f"expected an object, got {type(cells).__name__}")
    return cells


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    cells = dict(pairs)
    if len(cells) < len(pairs):
        name = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise InputError("bad_row", f"the object has key {named([name])} more than once")
    return cells


_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""How a cell begins that a spreadsheet would run, or would run without its apostrophes."""


def to_csv_cell(text: str) -> str:
    """A text for a cell of a CSV file, with an apostrophe before what a spreadsheet would run."""
    return f"'{text}" if _FORMULA.match(text) else text


def from_csv_cell(cell: str) -> str:
    """The text for which :func:`to_csv_cell` gave ``cell``."""
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell


_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def text_coding(head: bytes) -> tuple[str, int]:
    """The coding of a text that begins with ``head``, and the length of its byte order mark."""
    mark, name = next((pair for pair in _BYTE_ORDER_MARKS if head.startswith(pair[0])), (b"", "utf-8"))
    return name, len(mark)


_COMPRESSED = {
    "gzip": b"\x1f\x8b",
    "bzip2": b"BZh91AY&SY",
    "xz": b"\xfd7zXZ\0",
    "zstd": b"\x28\xb5\x2f\xfd",
    "ZIP": b"PK\x03\x04",
}


_OLD_WORKBOOK = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_PARTS_OF_WORKBOOKS = (b"xl/work", b"opendocument.spreadsheet")
"""What the first bytes of a ZIP file hold if it is a workbook under another name."""

WORKBOOK = "is an Office file such as an Excel workbook; save the table as 'CSV UTF-8'"


def compression(head: bytes) -> str:
    """What a message says of a file that begins with ``head`` if it is compressed; '' if it is not."""
    kind = next((kind for kind, mark in _COMPRESSED.items() if head.startswith(mark)), "")
    is_workbook = kind == "ZIP" and any(part in head[: 1 << 16] for part in _PARTS_OF_WORKBOOKS)
    if is_workbook or head.startswith(_OLD_WORKBOOK):
        return WORKBOOK
    return kind and f"is compressed with {kind}; unpack it first"


def decode_text(data: bytes, name: str) -> str:
    """A whole text, from UTF-8 or from UTF-16 with a byte order mark, without the line end that editors add.

    Raises:
        InputError: It is something else, or longer than :data:`CELL_LIMIT`; the message begins with ``name``.
    """
    coding, start = text_coding(data)
    try:
        # A text of more bytes is too long, whatever they mean.
        text = data[start:].decode(coding).rstrip("\r\n") if len(data) <= 4 * CELL_LIMIT else None
    except UnicodeDecodeError:
        raise InputError("wrong_encoding", f"{name}: is not UTF-8 text; save it as UTF-8") from None
    if text is None or len(text) > CELL_LIMIT:
        raise InputError("bad_row", f"{name}: holds over {CELL_LIMIT:,} characters")
    return text


def cut(text: str, most: int = 200) -> str:
    """A text, cut in its middle, for a message: input is never repeated at length."""
    return text if len(text) <= most else f"{text[: most - 33]}...{text[-30:]}"


def short(text: str, most: int = 100) -> str:
    """As :func:`cut`, on one line."""
    return " ".join(cut(text, most).split())


def named(values: Iterable[str], most: int = 3) -> str:
    """The first few of ``values`` for an error message, each quoted and cut."""
    whole = list(values)
    quoted = ", ".join(repr(v if len(v) <= 60 else v[:57] + "...") for v in whole[:most])
    return quoted + (f" and {len(whole) - most} more" if len(whole) > most else "")
