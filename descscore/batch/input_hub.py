"""Read pairs from a data set through ``datasets``: from the hub, its local cache, or a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from descscore.batch.columns import ColumnNames, checked_row
from descscore.batch.input_row import ImageRoot, InputRow, Mark, Scan
from descscore.errors import DataError

_BATCH_ROWS = 64


@dataclass(frozen=True)
class HubInput:
    """One split of a data set, which ``datasets`` keeps on disk and maps into memory."""

    name: str
    subset: str | None
    split: str
    columns: ColumnNames
    root: ImageRoot

    @property
    def source(self) -> str:
        return f"{self.name}[{self.split}]"

    @cached_property
    def _data(self) -> Any:
        import datasets

        try:
            data = datasets.load_dataset(self.name, self.subset, split=self.split)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise DataError(
                f"{self.name}: cannot be loaded as a data set, split {self.split} ({reason})"
            ) from error
        self.columns.check(self.source, data.column_names)
        if isinstance(data.features[self.columns.image], datasets.Image):
            data = data.cast_column(self.columns.image, datasets.Image(decode=False))
        return data

    def __getstate__(self) -> dict[str, Any]:
        # Another process loads the data set itself.
        return {key: value for key, value in self.__dict__.items() if key != "_data"}

    def fingerprint(self) -> dict[str, Any]:
        """Number of rows and hash of all texts, contexts and references."""
        digest = hashlib.sha256()
        names = [self.columns.text, *self.columns.beside]
        for batch in self._data.select_columns(list(dict.fromkeys(names))).iter(1024):
            for name in names:
                digest.update(repr(batch[name]).encode("utf-8", "surrogatepass"))
        return {"rows": len(self._data), "texts_sha256": digest.hexdigest()}

    def scan(self, step: int) -> Scan:
        rows = len(self._data)
        return Scan(rows, [None] * -(-rows // step))

    def rows(self, start: int = 0, mark: Mark = None) -> Iterator[InputRow]:
        wanted = self.columns.wanted(self._data.column_names)
        data = self._data.select_columns(wanted)
        for first in range(start, len(data), _BATCH_ROWS):
            cells = data[first : first + _BATCH_ROWS]
            for i in range(len(cells[self.columns.text])):
                row = {name: cells[name][i] for name in wanted}
                yield checked_row(first + i, self.columns.pick(row), self.root)
