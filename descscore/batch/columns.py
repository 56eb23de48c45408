"""Which cells of a table make a row: their names, and the rows made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from descscore.batch.input_row import Cells, ImageRoot, InputRow, make_row
from descscore.errors import DataError, InputError


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
