"""Concadia in the format of its release: ``wiki_split.json`` beside the folder ``resized``.

Source: Kreiss et al. 2022, Concadia (arXiv 2104.08376).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from descscore.errors import DataError, InputError
from descscore.tables.reader import Columns, FileTable, Mark, Record, Scan, Usual, unmarked

SPLIT_FILE = "wiki_split.json"
IMAGE_FOLDER = "resized"

_FIELDS = {
    **{"image": "filename", "id": "filename", "split": "split", "group": "article_id"},
    **{"description": "description", "caption": "caption", "context": "context"},
}


@dataclass(frozen=True)
class ConcadiaTable(FileTable):
    """The entries of ``wiki_split.json`` in its order; the group of a row is its article."""

    def roles(self, columns: Columns, usual: Usual) -> dict[str, str]:
        """The fields of the format, whatever ``columns`` says."""
        return dict(_FIELDS)

    def scan(self, step: int) -> Scan:
        return unmarked(len(self._entries()), step)

    def records(self, roles: Mapping[str, str], start: int, mark: Mark) -> Iterator[Record]:
        for number, entry in enumerate(self._entries()[start:], start + 1):
            if isinstance(entry, dict):
                # Texts are fields ``{"raw": text, "tokens": [...]}``.
                yield Record({k: v.get("raw") if isinstance(v, dict) else v for k, v in entry.items()})
            else:
                yield Record({}, InputError("bad_row", f"entry {number} of 'images' is not an object"))

    def _entries(self) -> list[Any]:
        try:
            data = json.loads(self.path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror or error}") from None
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.path}: is not UTF-8 text ({error.reason} at byte {error.start})"
            ) from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.path}: not valid JSON ({error})") from None
        entries = data.get("images") if isinstance(data, dict) else None
        if not isinstance(entries, list):
            raise DataError(f"{self.path}: no list 'images' in it; expected Concadia's {SPLIT_FILE}")
        return entries
