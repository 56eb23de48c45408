"""People's ratings of descriptions: those of Kreiss et al. 2022, and a user's own CSV file.

The folder ``kreiss2022`` holds ratings, 1 to 5, of 68 descriptions of 18 images by blind and
low-vision (BLV) readers, and by sighted readers before and after they saw the image (Kreiss et al.,
Context Matters for Image Descriptions for Accessibility, EMNLP 2022). A user's file has one rating a
row (:func:`read_ratings`).
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from descscore.errors import DataError, UsageError, is_blank
from descscore.tables.cells import named
from descscore.tables.parquet import ParquetTable
from descscore.tables.reader import Columns, Reader
from descscore.tables.rows import Row
from descscore.tables.text_tables import read_csv

_BLANK = frozenset({"", "na", "nan", "null", "none"})


def place(row: Row) -> str:
    """Where a CSV file has a row, for error messages."""
    return f"{row.source}: line {row.line}"


def number_in(row: Row, column: str) -> float | None:
    """The cell as a number, None if it is blank or NA; anything else is a :class:`DataError`."""
    text = row.cells[column].strip()
    if text.lower() in _BLANK or is_blank(text):
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{place(row)}: {column} is {text[:40]!r}, not a number")
    return value


def read_rows(path: Path, required: Iterable[str] = (), empty: bool = False) -> list[Row]:
    """All rows of a CSV file with a header. empty: whether it may have no rows.

    Raises :class:`DataError` as :func:`descscore.tables.text_tables.read_csv`, and for a file
    without rows.
    """
    rows = read_csv(path, required)
    if not rows and not empty:
        raise DataError(f"{path}: holds no rows")
    return rows


def parquet_rows(path: Path, columns: Columns) -> Iterator[Row]:
    """The rows of a Parquet table with these columns. Raises :class:`DataError` for a row with a fault."""
    for row in Reader(ParquetTable(path), columns, {}, path.parent).rows():
        if row.fault is not None:
            raise DataError(f"{path}: {row.fault}")
        yield row


def text_key(text: str) -> str:
    """A key that is equal for texts that count as the same: in Unicode NFC, without blanks at the ends."""
    return unicodedata.normalize("NFC", text).strip()


def digest(*paths: Path) -> str:
    """Eight hex digits of the SHA-256 of the files, for signatures."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()[:8]


ATTENTION_CHECKS = frozenset({"guitar", "640px-parc_agen"})
"""Images that only checked whether sighted raters paid attention; never part of any number."""

QUESTIONS = {
    "overall": "q_overall",
    "imaginability": "q_reconstructivity",
    "relevance": "q_relevance",
    "irrelevance": "q_irrelevance",
}
"""The questions and their columns in the published files."""
_SIGHTED = tuple(
    (phase, question, column + suffix)
    for phase, suffix in (("before", ".preimg"), ("after", ".postimg"))
    for question, column in QUESTIONS.items()
    if (phase, question) != ("after", "imaginability")
)
"""What sighted raters were asked, with its column: phase, question, column."""

NOTES = (
    "irrelevance: the scale runs from too much to not too much irrelevant information, "
    "so a higher rating means less of it and is the better one.",
    "imaginability was not asked after the image, so there is no such row.",
    "raters: BLV readers never saw the images; sighted readers rated before and after seeing them.",
)


@dataclass(frozen=True)
class Item:
    """A rated text."""

    key: str
    """What scores are joined by."""
    text: str
    cluster: str
    """The image it belongs to."""
    image: Path | None = None
    context: str | None = None
    """The text around the image, if raters read one."""


@dataclass(frozen=True)
class Panel:
    """One question to one group of raters."""

    raters: str
    phase: str | None
    """``before`` or ``after`` seeing the image, None if that does not apply."""
    question: str
    ratings: tuple[tuple[float, ...], ...]
    """For each item its ratings; empty if nobody rated it."""


@dataclass(frozen=True)
class Drop:
    """Something that was left out, and how many."""

    what: str
    count: int


@dataclass(frozen=True)
class Judgments:
    """Rated items with all panels' ratings in the items' order."""

    items: tuple[Item, ...]
    panels: tuple[Panel, ...]
    drops: tuple[Drop, ...]
    notes: tuple[str, ...]
    source: str
    """Folder or file and digest."""


def find_folder(data: Path, folder: str, file: str) -> Path:
    """``data`` or ``data/folder``, the one that holds ``file``; :class:`DataError` if neither does."""
    for candidate in (data, data / folder):
        if (candidate / file).is_file():
            return candidate
    raise DataError(f"{data}: holds neither {file} nor {folder}/{file}; give its folder with --data")


def read_kreiss(data: Path) -> Judgments:
    """The published ratings of the 68 descriptions that BLV people rated.

    data: the folder ``kreiss2022`` or the one that holds it. Ratings of attention
    checks and of descriptions that only sighted people rated are left out and
    counted; if one of the files has no rows, the descriptions are those of the other.
    Raises :class:`DataError` on missing files or columns, ratings outside 1..5, and a
    rater who rated one description twice.
    """
    folder = find_folder(data, "kreiss2022", "blv_ratings.csv")
    blv_path, sighted_path = folder / "blv_ratings.csv", folder / "sighted_ratings.csv"
    columns = [column for *_, column in _SIGHTED]
    blv_needed = ["participant", "img_id", "description", *QUESTIONS.values()]
    blv_all = read_rows(blv_path, blv_needed, empty=True)
    sighted_needed = ["anon_worker_id", "img_id", "img_file", "description", *columns]
    sighted_all = read_rows(sighted_path, sighted_needed, empty=bool(blv_all))
    blv = [row for row in blv_all if row.cells["img_id"] not in ATTENTION_CHECKS]
    sighted = [row for row in sighted_all if not _is_check(row)]
    files = {row.cells["img_id"]: row.cells["img_file"] for row in sighted}
    items = _items(blv or sighted, files, folder / "images")
    rated = {item.key for item in items}
    shared = [row for row in sighted if text_key(row.cells["description"]) in rated]
    panels = [_panel("BLV", None, q, blv, "participant", c, items) for q, c in QUESTIONS.items() if blv]
    panels += [
        _panel("sighted", phase, question, shared, "anon_worker_id", column, items)
        for phase, question, column in (_SIGHTED if shared else ())
    ]
    others = {text_key(row.cells["description"]) for row in sighted} - rated
    checks = len(blv_all) - len(blv) + len(sighted_all) - len(sighted)
    drops = (
        Drop("descriptions that only sighted people rated", len(others)),
        Drop("ratings of attention checks", checks),
        Drop("blank ratings", _blanks(blv, QUESTIONS.values()) + _blanks(shared, columns)),
    )
    source = f"kreiss2022#{digest(blv_path, sighted_path)}"
    return Judgments(items, tuple(panels), drops, NOTES, source)


def collect(
    items: tuple[Item, ...], rated: Iterable[tuple[Row, str, str, float | None]]
) -> tuple[tuple[float, ...], ...]:
    """Each item's ratings from (row, rater, item, value); blank ones are passed over.

    Raises :class:`DataError` if one rater rated an item twice, with the place of the second.
    """
    seen: set[tuple[str, str]] = set()
    ratings: dict[str, list[float]] = {item.key: [] for item in items}
    for row, rater, item, value in rated:
        if (rater, item) in seen:
            raise DataError(f"{place(row)}: rater {rater!r} rates {named([item])} a second time")
        seen.add((rater, item))
        if value is not None and item in ratings:
            ratings[item].append(value)
    return tuple(map(tuple, ratings.values()))


def _panel(
    raters: str,
    phase: str | None,
    question: str,
    rows: list[Row],
    rater_column: str,
    column: str,
    items: tuple[Item, ...],
) -> Panel:
    rated = ((r, r.cells[rater_column], text_key(r.cells["description"]), _rating(r, column)) for r in rows)
    return Panel(raters, phase, question, collect(items, rated))


def _rating(row: Row, column: str) -> float | None:
    value = number_in(row, column)
    if value is not None and not 1 <= value <= 5:
        raise DataError(f"{place(row)}: {column} is {value:g}, ratings run from 1 to 5")
    return value


def _items(rows: list[Row], files: dict[str, str], images: Path) -> tuple[Item, ...]:
    """The described items in order of appearance; one text must belong to one image and one article."""
    cluster: dict[str, str] = {}
    context: dict[str, str | None] = {}
    for row in rows:
        key, article = text_key(row.cells["description"]), row.cells.get("article_text")
        image = row.cells["img_id"]
        if cluster.setdefault(key, image) != image:
            raise DataError(
                f"{place(row)}: {named([key])} belongs to image {image!r}, earlier to {cluster[key]!r}"
            )
        if context.setdefault(key, article) != article:
            raise DataError(f"{place(row)}: {named([key])} stands in another article_text than before")
    photos = _photos(images)
    by_stem = {Path(name).stem: photo for name, photo in photos.items()}
    return tuple(
        # Without sighted raters no file name is known; an image may then have its id as its name.
        Item(key, key, image, photos.get(text_key(files.get(image, ""))) or by_stem.get(image), context[key])
        for key, image in cluster.items()
    )


def _photos(folder: Path) -> dict[str, Path]:
    """Photos by name in Unicode NFC: some file systems hand names back decomposed."""
    if not folder.is_dir():
        return {}
    return {unicodedata.normalize("NFC", path.name): path for path in sorted(folder.iterdir())}


def _is_check(row: Row) -> bool:
    return row.cells["img_id"] in ATTENTION_CHECKS or Path(row.cells["img_file"]).stem in ATTENTION_CHECKS


def _blanks(rows: list[Row], columns: Iterable[str]) -> int:
    return sum(number_in(row, column) is None for column in columns for row in rows)


Groups: TypeAlias = Literal["auto", "raters", "items"]
"""What the column ``group`` groups: the raters (blind, sighted), or the items (one image's texts)."""

COLUMNS = ("item", "rater", "question", "value", "group")


def read_ratings(path: Path, groups: Groups = "auto") -> Judgments:
    """Ratings in long form: columns ``item, rater, question, value, group``, in any order.

    The column ``group`` holds groups of raters, each reported on its own, or groups of items that are
    not independent (those of one image), which are resampled together. Blank values are left out and
    counted. Optional columns are ``text``, the item's text if ``item`` is only a name; ``image``,
    the image that items share, so that ``group`` is the raters'; and ``context``, the text around the
    item's image.

    Args:
        path: The CSV file.
        groups: What ``group`` groups. ``auto`` means raters if every rater has only one group, and
            items if every item has only one group.

    Raises:
        DataError: The file is wrong, ``auto`` fits both or neither, or a rater answers a question
            about an item twice.
    """
    if groups not in get_args(Groups):
        raise UsageError(f"groups {groups!r}: choose one of {', '.join(get_args(Groups))}")
    rows = read_rows(path, COLUMNS)
    role = _role(path, rows, groups)
    items = _named_items(rows, role)
    panels = _panels(rows, role, items)
    blanks = _blanks(rows, ["value"])
    notes = [f"the column group of {path.name} is taken to group {role}."]
    if "text" not in rows[0].cells:
        notes.append("there is no column text, so lengths are those of the column item.")
    if len({item.cluster for item in items}) == len(items):
        notes.append("no two items share an image, so every item is resampled on its own.")
    drops = (Drop("blank ratings", blanks),)
    return Judgments(items, panels, drops, tuple(notes), f"{path.name}#{digest(path)}")


def _role(path: Path, rows: list[Row], groups: Groups) -> str:
    if groups != "auto":
        return groups
    if "image" in rows[0].cells or len({row.cells["group"] for row in rows}) == 1:
        return "raters"
    by_rater = _one_group_each(rows, "rater")
    by_item = _one_group_each(rows, "item")
    if by_rater != by_item:
        return "raters" if by_rater else "items"
    both = "both every rater and every item has" if by_rater else "neither every rater nor every item has"
    raise DataError(f"{path}: {both} one group, so say whether groups are of raters or of items")


def _one_group_each(rows: list[Row], column: str) -> bool:
    pairs = {(row.cells[column], row.cells["group"]) for row in rows}
    return len(pairs) == len({name for name, _ in pairs})


def _named_items(rows: list[Row], role: str) -> tuple[Item, ...]:
    """Items in order of appearance; their text and cluster must be the same in every row."""
    items: dict[str, Item] = {}
    for row in rows:
        key = text_key(row.cells["item"])
        if is_blank(key):
            raise DataError(f"{place(row)}: item is blank")
        image, text = (row.cells.get(column) or "" for column in ("image", "text"))
        cluster = (row.cells["group"] if role == "items" else key) if is_blank(image) else image
        item = Item(key, key if is_blank(text) else text_key(text), cluster, context=row.cells.get("context"))
        if items.setdefault(key, item) != item:
            raise DataError(
                f"{place(row)}: {named([key])} has another text, image, group or context than before"
            )
    return tuple(items.values())


def _panels(rows: list[Row], role: str, items: tuple[Item, ...]) -> tuple[Panel, ...]:
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        raters = row.cells["group"] if role == "raters" else "all"
        grouped.setdefault((raters, row.cells["question"]), []).append(row)
    return tuple(
        Panel(
            raters,
            None,
            question,
            collect(
                items, ((r, r.cells["rater"], text_key(r.cells["item"]), number_in(r, "value")) for r in part)
            ),
        )
        for (raters, question), part in grouped.items()
    )
