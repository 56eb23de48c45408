"""What every format has in common: columns by role, checks of cells, ids, and images below a root."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias

from descscore.errors import DataError, ImageError, InputError, TextError
from descscore.tables.rows import Row, normal_split

CELL_LIMIT = 1 << 20
"""Longest cell of text, in characters, in every format."""

BATCH_ROWS = 64
"""Rows of a table with images that are in memory together: with photos of 1 MB each, 64 MB."""

Mark: TypeAlias = "list[int] | None"
"""Where a reader can begin without reading what lies before, in the format's own terms."""


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns by role. None: the usual names, or no such column is read."""

    image: str | None = None
    description: str | None = None
    caption: str | None = None
    split: str | None = None
    id: str | None = None
    group: str | None = None
    context: str | None = None
    text: str | None = None
    references: str | None = None


Usual: TypeAlias = "Mapping[str, tuple[str, ...]]"
"""The names that a column of each role usually has, the first choice first."""

SCORING: Usual = {"id": ("id",), "image": ("image",), "text": ("text",)}
PREFERENCE: Usual = {
    "image": ("image", "filename", "file_name", "path"),
    "description": ("description",),
    "caption": ("caption",),
    "split": ("split",),
    "id": ("id", "filename", "file_name"),
    "group": ("group", "book", "article_id", "article"),
    "context": ("context",),
}
_NEEDED = frozenset({"image", "text", "description", "caption"})


class Record(NamedTuple):
    """A row's cells by column name, or what is wrong with it; the line on which a text file has it."""

    cells: Mapping[str, Any]
    fault: InputError | None = None
    line: int | None = None


@dataclass(frozen=True)
class Scan:
    """rows: how many a table holds. marks: where row 0, ``step``, ``2 * step``... begins."""

    rows: int
    marks: Sequence[Mark]


def unmarked(rows: int, step: int) -> Scan:
    """The scan of a table that finds any row by its number."""
    return Scan(rows, [None] * -(-rows // step))


class Table(ABC):
    """A table in one format. A copy of it can be sent to another process."""

    numbered: ClassVar[bool] = True
    """Whether messages need a row's number, since nothing else in them names the row."""

    @property
    @abstractmethod
    def source(self) -> str:
        """What the table is called in messages."""

    @abstractmethod
    def names(self, wanted: Collection[str]) -> list[str]:
        """The names of its columns: of those ``wanted`` all that are there, of the others at least some."""

    @abstractmethod
    def fingerprint(self, texts: Sequence[str]) -> dict[str, Any]:
        """What changes when the table does, in plain JSON types. texts: columns that must count."""

    @abstractmethod
    def scan(self, step: int) -> Scan:
        """Count the rows, and mark every ``step``-th."""

    @abstractmethod
    def records(self, roles: Mapping[str, str], start: int, mark: Mark) -> Iterator[Record]:
        """Records from row ``start`` (0-based) on, with at least the columns that ``roles`` names."""

    def roles(self, columns: Columns, usual: Usual) -> dict[str, str]:
        """The column of each role. Raises :class:`DataError` for repeated and for missing columns."""
        choices = usual_choices(columns, usual)
        names = self.names({name for role in choices.values() for name in role})
        check_unique_names(self.source, names)
        return _resolve(self.source, names, columns, choices)


def usual_choices(columns: Columns, usual: Usual) -> dict[str, tuple[str, ...]]:
    """The names to look for, by role."""
    given = {item.name: getattr(columns, item.name) for item in fields(Columns)}
    choices = {role: usual.get(role, ()) if name is None else (name,) for role, name in given.items()}
    return {role: names for role, names in choices.items() if names}


def _resolve(
    source: str, present: Sequence[str], columns: Columns, choices: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    roles: dict[str, str] = {}
    for role, names in choices.items():
        name = next((name for name in names if name in present), None)
        if name is not None:
            roles[role] = name
        elif role in _NEEDED or getattr(columns, role) is not None:
            purpose = "" if names == (role,) else f" for the {role}"
            there = named(present, 20) or "none"
            wanted = " or ".join(map(repr, names))
            raise DataError(f"{source}: no column {wanted}{purpose}; its columns are {there}")
    return roles


def check_unique_names(source: str, names: Iterable[str]) -> None:
    """Raise :class:`DataError` where two columns have one name."""
    for name, count in Counter(names).items():
        if count > 1 and name:
            raise DataError(f"{source}: has column {named([name])} {count} times")


def named(values: Iterable[str], most: int = 3) -> str:
    """The first few of ``values`` for an error message, each quoted and cut."""
    whole = list(values)
    quoted = ", ".join(repr(v if len(v) <= 60 else v[:57] + "...") for v in whole[:most])
    return quoted + (f" and {len(whole) - most} more" if len(whole) > most else "")


class TableBytes:
    """Image bytes of a table, read again a few rows at a time.

    Made for reading in order: going back begins anew.
    """

    def __init__(self, table: Table, roles: Mapping[str, str]) -> None:
        self._table, self._roles = table, {role: roles[role] for role in ("id", "image") if role in roles}
        self._records: Iterator[Record] = iter(())
        self._next = -BATCH_ROWS
        self._image: object = None

    def get(self, index: int) -> bytes | None:
        """Bytes of row ``index`` (0-based). Raises :class:`ImageError` for a table no longer readable."""
        try:
            if not 0 <= index - self._next < BATCH_ROWS and index != self._next - 1:
                self._records, self._next = self._table.records(self._roles, index, None), index
            while self._next <= index:
                record = next(self._records)
                self._next += 1
                self._image = record.cells.get(self._roles["image"])
        except (OSError, StopIteration, DataError) as error:
            reason = f"{self._table.source} row {index + 1}: cannot be read ({error})"
            raise ImageError("unreadable_image", reason) from None
        value = self._image.get("bytes") if isinstance(self._image, Mapping) else self._image
        return value if isinstance(value, bytes) else None

    def __getstate__(self) -> dict[str, Any]:
        # An open file does not travel to another process; a fresh reader opens its own.
        return {"table": self._table, "roles": self._roles}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


@dataclass(frozen=True)
class Reader:
    """The rows of a table. A copy of it can be sent to another process."""

    table: Table
    columns: Columns
    usual: Usual
    root: ImageRoot
    split: str = ""
    """The split of rows in a table without such a column."""

    @property
    def source(self) -> str:
        """What the table is called in messages."""
        return self.table.source

    @cached_property
    def roles(self) -> dict[str, str]:
        """The column of each role. Raises :class:`DataError` for repeated and for missing columns."""
        return self.table.roles(self.columns, self.usual)

    @cached_property
    def _store(self) -> TableBytes:
        return TableBytes(self.table, self.roles)

    def fingerprint(self) -> dict[str, Any]:
        """What changes when the table does, in plain JSON types."""
        return self.table.fingerprint(
            [self.roles[role] for role in ("text", "context", "references") if role in self.roles]
        )

    def scan(self, step: int) -> Scan:
        """Count the rows, and mark every ``step``-th. Raises :class:`DataError` as :attr:`roles`."""
        self.roles  # noqa: B018 - checks the columns
        return self.table.scan(step)

    def rows(self, start: int = 0, mark: Mark = None) -> Iterator[Row]:
        """Rows from number ``start`` (0-based) on; ``mark`` is what :meth:`scan` gives for it."""
        for number, record in enumerate(self.table.records(self.roles, start, mark), start + 1):
            yield self._row(number, record)

    def _row(self, number: int, record: Record) -> Row:
        cells = {role: record.cells.get(column) for role, column in self.roles.items()}
        image = references = None
        try:
            if record.fault is not None:
                raise record.fault
            self._check_cells(record.cells)
            references = parse_references(cells.get("references"))
            if "image" in self.roles:
                image = self._image(cells["image"])
            fault = None
        except InputError as error:
            # An image error on its own: a text that is empty or decorative comes before it.
            fault = self._placed(number, error)
        group = cells.get("group")
        return Row(
            source=self.source,
            number=number,
            id=self._id(number, cells.get("id")),
            image=image,
            text=cells.get("text"),
            description=cells.get("description"),
            caption=cells.get("caption"),
            context=cells.get("context"),
            references=references,
            split=normal_split(cells.get("split")) if "split" in self.roles else self.split,
            group=None if group is None or group == "" else str(group),
            fault=fault,
            line=record.line,
            cells=record.cells,
            store=self._store if isinstance(image, bytes) else None,
        )

    def _placed(self, number: int, error: InputError) -> InputError:
        """The error with the row's number, unless it names a path or an archive's member."""
        if not self.table.numbered or error.kind in ("url_not_supported", "outside_image_root"):
            return error
        return type(error)(error.kind, f"row {number}: {error}")

    def _check_cells(self, cells: Mapping[str, Any]) -> None:
        """Raise :class:`InputError` for a cell that is too long or no Unicode; where roles are
        given, only their cells count.
        """
        for column in dict.fromkeys(self.roles.values()) or cells:
            value = cells.get(column)
            if not isinstance(value, str) or column == self.roles.get("image"):
                continue
            if len(value) > CELL_LIMIT:
                raise InputError(
                    "bad_row",
                    f"column {column!r} holds {len(value):,} characters, over the limit of {CELL_LIMIT:,}",
                )
            if not is_unicode(value):
                raise InputError("wrong_encoding", f"column {column!r} is not UTF-8 text")

    def _image(self, value: object) -> str | bytes:
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            if not value:
                raise ImageError("empty_image", "its image holds no bytes")
            return value
        if value is None or (isinstance(value, str) and not value.strip()):
            raise ImageError("missing_image", "has no image")
        if not isinstance(value, str):
            raise ImageError("bad_image_type", f"the image is {type(value).__name__}, not a path")
        return self.root.find(value)

    def _id(self, number: int, value: object) -> str:
        text = _id_text(value)
        if text is not None:
            return text.encode("utf-8", "backslashreplace").decode()
        return f"{self._id_prefix}{number}"

    @cached_property
    def _id_prefix(self) -> str:
        """What precedes a row's number where it stands for an id, so that no row's own id is the same.

        Nothing in most tables; ``row-``, ``row--`` and so on where ids look like numbered rows.
        Only a table with an id column and a row without an id is read for this.
        """
        if "id" not in self.roles:
            return ""
        column = self.roles["id"]
        taken: set[str] = set()
        for record in self.table.records({"id": column}, 0, None):
            match = _NUMBERED.fullmatch(_id_text(record.cells.get(column)) or "")
            if match:
                taken.add(match[1])
        prefix = ""
        while prefix in taken:
            prefix = f"{prefix or 'row'}-"
        return prefix


_NUMBERED = re.compile(r"((?:row-+)?)[0-9]+")


def _id_text(value: object) -> str | None:
    """An id as a string, None for a blank one and for what is no string or number."""
    if value is None or value == "" or isinstance(value, (Mapping, bytes)):
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a column of whole numbers with gaps is kept as floats
    if isinstance(value, (bool, list)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def is_unicode(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def parse_references(cell: object) -> object:
    """The references in a table's cell: a list as it is, or a JSON list in a string; blank is none.

    Raises :class:`TextError` with kind ``bad_references`` for any other string.
    """
    if not isinstance(cell, str):
        return cell
    if not cell.strip():
        return None
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise TextError("bad_references", f"references {cell[:40]!r}: expected a JSON list of texts")
    return value


@dataclass(frozen=True)
class ImageRoot:
    """The folder where relative image paths begin. They may not leave it, by ``..`` or by a link."""

    folder: str

    def find(self, path: str) -> str:
        """The file that a row's image path stands for; absolute paths stay as they are.

        Raises :class:`ImageError` with kind ``url_not_supported``, ``bad_image_type`` (no path
        at all) or ``outside_image_root``.
        """
        if re.match(r"(?i)([a-z][a-z0-9+.-]*://|data:)", path):
            hint = "addresses are never fetched; download the image and give the file's path"
            raise ImageError("url_not_supported", f"{path[:100]}: {hint}")
        _check_is_path(path)
        if os.path.isabs(path) or "\0" in path:
            return path
        file = os.path.join(self.folder, path)
        if not _is_plain(self.folder, path) and not _is_below(self.folder, file):
            raise ImageError("outside_image_root", f"{path}: leads out of the image root {self.folder}")
        return file


_LOOKS = {
    "base64 data": r"(?:iVBORw0KGgo|/9j/[24]|R0lGOD[dl]h|UklGR|SUkqA|TU0AK)[\w+/=\s]*",
    "the text of Python's bytes": r"b(['\"]).*\1",
    "JSON": r"\{.*\}|\[.*\]",
    "markup": r"<.*>",
    "hexadecimal data": r"(?:89504e47|ffd8ff|47494638)[0-9a-fA-F]*",
}
_SHORT, _NAME_LIMIT, _PATH_LIMIT = 100, 255, 4096


def _check_is_path(path: str) -> None:
    """Raise :class:`ImageError` for a cell that cannot be a path, and say what it looks like."""
    if len(path) <= _SHORT:
        return
    text, long_name = path.strip(), max(map(len, path.split("/"))) > _NAME_LIMIT
    look = next((look for look, form in _LOOKS.items() if re.fullmatch(form, text, re.DOTALL)), "")
    if not look and long_name and re.fullmatch(r"[\w+/=-]+", text, re.ASCII):
        look = "base64 data"
    if not (look or long_name or len(path) > _PATH_LIMIT):
        return
    guess = f"looks like {look}" if look else "is too long for a path"
    raise ImageError(
        "bad_image_type",
        f"the image is text of {len(path):,} characters that {guess} ({path[:20]!r}...); "
        "give a path, or bytes in a Parquet file",
    )


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
    root, file = os.path.realpath(folder), os.path.realpath(path)
    return file == root or file.startswith(root.rstrip(os.sep) + os.sep)


def file_fingerprint(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file; of one over 4 GiB, those of its ends and the time of its last change."""
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
