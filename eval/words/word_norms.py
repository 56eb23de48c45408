"""Word norms from a user's CSV, such as concreteness or imageability ratings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from descscore.errors import DataError
from descscore.eval.csv_tables import Row, read_rows
from descscore.eval.words.word_kinds import bare

_WORD_COLUMNS = ("word", "words")
_KNOWN = ("conc.m", "concreteness", "conc", "imag.m", "imageability", "imag")


def read_norms(
    path: Path, columns: Sequence[str] = (), word: str | None = None
) -> dict[str, dict[str, float]]:
    """Norms by column name, each a value by word in lower case; blank cells are passed over.

    columns: by default those that are usual for concreteness and imageability
    (``Conc.M``, ``IMAG`` and the like); word: by default ``Word`` or ``Words``. Raises
    :class:`DataError` that names the file and what is there.
    """
    rows = read_rows(path, [*columns, *([word] if word else [])])
    present = list(rows[0].cells)
    word = word or _find(path, present, _WORD_COLUMNS, "words")
    chosen = columns or [name for name in present if name.lower() in _KNOWN]
    if not chosen:
        _find(path, present, _KNOWN, "a norm")
    return {f"{path.name} {name}": _values(rows, word, name) for name in chosen}


def _find(path: Path, present: Sequence[str], known: Sequence[str], what: str) -> str:
    found = next((name for name in present if name.lower() in known), None)
    if found is None:
        raise DataError(f"{path}: no column known for {what}; name one of {', '.join(present)}")
    return found


def _values(rows: Sequence[Row], word: str, column: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in rows:
        value = row.number(column)
        if value is not None:
            found.setdefault(bare(row[word].strip()), value)
    return found
