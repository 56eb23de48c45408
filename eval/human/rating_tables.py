"""Ratings gathered elsewhere: a CSV file with one rating a row."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias, get_args

from descscore.errors import DataError, UsageError
from descscore.eval.csv_tables import Row, digest, named, read_rows, text_key
from descscore.eval.human.ratings import Drop, Item, Judgments, Panel, collect

Groups: TypeAlias = Literal["auto", "raters", "items"]
"""What the column ``group`` groups: the raters (blind, sighted), or the items (one image's texts)."""

COLUMNS = ("item", "rater", "question", "value", "group")


def read_ratings(path: Path, groups: Groups = "auto") -> Judgments:
    """Ratings in long form: columns ``item, rater, question, value, group``, in any order.

    group: by ``groups``, either of raters, each reported on its own, or of items
    that are not independent (those of one image), which are resampled together.
    ``auto`` takes it for raters where every rater has one group, for items where
    every item has one and raters meet several; where both hold, the file cannot tell
    and an error asks. Optional columns: ``text``, the item's text where ``item``
    is only its name; ``image``, which items share, so that ``group`` is the raters';
    ``context``, the text around the item's image.
    Blank values are left out and counted. Raises :class:`DataError`, also where a
    rater answers a question on an item twice.
    """
    if groups not in get_args(Groups):
        raise UsageError(f"groups {groups!r}: choose one of {', '.join(get_args(Groups))}")
    rows = read_rows(path, COLUMNS)
    role = _role(path, rows, groups)
    items = _items(rows, role)
    panels = _panels(rows, role, items)
    blanks = sum(row.number("value") is None for row in rows)
    notes = (
        f"the column group of {path.name} is taken to group {role}.",
        *_text_note(rows),
        *_cluster_note(items),
    )
    return Judgments(items, panels, (Drop("blank ratings", blanks),), notes, f"{path.name}#{digest(path)}")


def _role(path: Path, rows: list[Row], groups: Groups) -> str:
    if groups != "auto":
        return groups
    if "image" in rows[0].cells or len({row["group"] for row in rows}) == 1:
        return "raters"
    by_rater = _one_group_each(rows, "rater")
    by_item = _one_group_each(rows, "item")
    if by_rater != by_item:
        return "raters" if by_rater else "items"
    both = "both every rater and every item has" if by_rater else "neither every rater nor every item has"
    raise DataError(f"{path}: {both} one group, so say whether groups are of raters or of items")


def _one_group_each(rows: list[Row], column: str) -> bool:
    pairs = {(row[column], row["group"]) for row in rows}
    return len(pairs) == len({name for name, _ in pairs})


def _items(rows: list[Row], role: str) -> tuple[Item, ...]:
    """Items in order of appearance; their text and cluster must be the same in every row."""
    found: dict[str, Item] = {}
    for row in rows:
        key = text_key(row["item"])
        if not key:
            raise DataError(f"{row.place}: item is blank")
        cluster = row.cells.get("image") or (row["group"] if role == "items" else key)
        item = Item(key, text_key(row.cells.get("text") or key), cluster, context=row.cells.get("context"))
        if found.setdefault(key, item) != item:
            raise DataError(
                f"{row.place}: {named([key])} has another text, image, group or context than before"
            )
    return tuple(found.values())


def _panels(rows: list[Row], role: str, items: tuple[Item, ...]) -> tuple[Panel, ...]:
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        raters = row["group"] if role == "raters" else "all"
        grouped.setdefault((raters, row["question"]), []).append(row)
    panels = []
    for (raters, question), part in grouped.items():
        values = collect((r, r["rater"], text_key(r["item"]), r.number("value")) for r in part)
        ratings = tuple(tuple(values.get(item.key, ())) for item in items)
        panels.append(Panel(raters, None, question, ratings))
    return tuple(panels)


def _text_note(rows: list[Row]) -> tuple[str, ...]:
    if "text" in rows[0].cells:
        return ()
    return ("there is no column text, so lengths are those of the column item.",)


def _cluster_note(items: tuple[Item, ...]) -> tuple[str, ...]:
    if len({item.cluster for item in items}) < len(items):
        return ()
    return ("no two items share an image, so every item is resampled on its own.",)
