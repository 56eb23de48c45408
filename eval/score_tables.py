"""Scores of texts from anybody's CSV file, and their join with rated items."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from descscore.errors import DataError
from descscore.eval.csv_tables import check_columns, digest, named, read_rows, text_key
from descscore.eval.human.ratings import ATTENTION_CHECKS, Drop, Item
from descscore.eval.statistics.correlation import Array, numbers

TEXT_COLUMNS = ("texts", "text", "description", "item")
SCORE_COLUMNS = {"clipscore": "CLIPScore", "SPURTS_score": "SPURTS", "score": "", "cosine": ""}
"""Columns looked for where none is named; the first two are the published files', with their metric."""


@dataclass(frozen=True)
class Scores:
    """A metric's score by text. checks: texts of attention checks. source: file and digest."""

    metric: str
    values: dict[str, float]
    checks: frozenset[str]
    source: str


@dataclass(frozen=True)
class Joined:
    """Scores in the items' order, ``(n,)``, with what was left out and where they come from."""

    metric: str
    values: Array
    drops: tuple[Drop, ...]
    source: str


def read_scores(path: Path, text_column: str | None = None, score_column: str | None = None) -> Scores:
    """Scores from a CSV file; columns not named are found by :data:`TEXT_COLUMNS`, :data:`SCORE_COLUMNS`.

    Raises :class:`DataError` where a column is missing or not clear, a score is not
    a number, or a text occurs twice.
    """
    rows = read_rows(path)
    columns = list(rows[0].cells)
    text = _column(path, columns, text_column, list(TEXT_COLUMNS))
    score = _column(path, columns, score_column, list(SCORE_COLUMNS))
    repeated = [key for key, times in Counter(text_key(row[text]) for row in rows).items() if times > 1]
    if repeated:
        raise DataError(f"{path}: more than one row for {named(repeated)}")
    values: dict[str, float] = {}
    for row in rows:
        value = row.number(score)
        if value is None:
            raise DataError(f"{row.place}: {score} is blank for {named([row[text]])}")
        values[text_key(row[text])] = value
    checks = frozenset(
        text_key(row[text]) for row in rows if row.cells.get("imgstem_version") in ATTENTION_CHECKS
    )
    metric = SCORE_COLUMNS.get(score) or f"{path.stem}:{score}"
    return Scores(metric, values, checks, f"{path.name}#{digest(path)}")


def join(items: tuple[Item, ...], scores: Scores) -> Joined:
    """The score of each item; :class:`DataError` names items without one, surplus scores are counted."""
    missing = [item.key for item in items if item.key not in scores.values]
    if missing:
        raise DataError(
            f"{scores.source}: no {scores.metric} for {len(missing)} of {len(items)} rated texts: "
            f"{named(missing)}"
        )
    surplus = set(scores.values) - {item.key for item in items}
    checks = len(surplus & scores.checks)
    drops = (
        Drop(f"{scores.metric} scores of attention checks", checks),
        Drop(f"{scores.metric} scores of texts without ratings", len(surplus) - checks),
    )
    values = numbers(scores.metric, [scores.values[item.key] for item in items])
    return Joined(scores.metric, values, drops, scores.source)


def _column(path: Path, columns: list[str], asked: str | None, known: list[str]) -> str:
    if asked is not None:
        check_columns(path, columns, [asked])
        return asked
    found = [column for column in known if column in columns]
    if len(found) != 1:
        what = f"more than one of {', '.join(found)}" if found else f"none of {', '.join(known)}"
        raise DataError(f"{path}: has {what}; name the column (there are {', '.join(columns)})")
    return found[0]
