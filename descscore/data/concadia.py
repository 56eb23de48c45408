"""Read Concadia in the format of its release: ``wiki_split.json`` beside ``resized/``.

Source: Kreiss et al. 2022, Concadia (arXiv 2104.08376).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from descscore.data.pairs import FileImage, NoImage, Row, StoredImage, normal_split
from descscore.errors import DataError

SPLIT_FILE = "wiki_split.json"
IMAGE_FOLDER = "resized"


def read_concadia(path: Path, image_root: Path | None = None) -> Iterator[Row]:
    """Rows of ``wiki_split.json`` in its order; the group of a row is its article.

    path: the file, or the folder that holds it. image_root: by default ``resized``
    beside the file. Raises :class:`DataError` for a missing or damaged file.
    """
    file = path / SPLIT_FILE if path.is_dir() else path
    root = file.parent / IMAGE_FOLDER if image_root is None else image_root
    for number, entry in enumerate(_entries(file), start=1):
        if not isinstance(entry, dict):
            raise DataError(f"{file}: entry {number} of 'images' is not an object")
        yield _row(file, root, number, entry)


def _entries(file: Path) -> list[Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{file}: not valid JSON ({error})") from None
    entries = data.get("images") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{file}: no list 'images' in it; expected Concadia's {SPLIT_FILE}")
    return entries


def _row(file: Path, root: Path, number: int, entry: dict[str, Any]) -> Row:
    name, article = entry.get("filename"), entry.get("article_id")
    image: StoredImage = FileImage(root / str(name)) if name else NoImage(f"{file} row {number}")
    return Row(
        source=str(file),
        number=number,
        image=image,
        description=_raw(entry, "description"),
        caption=_raw(entry, "caption"),
        split=normal_split(entry.get("split")),
        id=str(name or number),
        group=None if article is None else str(article),
        context=str(_raw(entry, "context") or ""),
    )


def _raw(entry: dict[str, Any], key: str) -> object:
    """The running text of a field ``{"raw": text, "tokens": [...]}``."""
    field = entry.get(key)
    return field.get("raw") if isinstance(field, dict) else field
