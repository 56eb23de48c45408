"""One score for each rated text, from a user's CSV file or from a model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from descscore.errors import DataError
from descscore.eval.ratings import ATTENTION_CHECKS, Drop, Item, digest, number_in, place, read_rows, text_key
from descscore.eval.statistics.correlation import Array, numbers
from descscore.scorer import DescScorer
from descscore.tables.cells import named
from descscore.tables.text_tables import check_columns

TEXT_COLUMNS = ("texts", "text", "description", "item")
SCORE_COLUMNS = {"clipscore": "CLIPScore", "SPURTS_score": "SPURTS", "score": "", "cosine": ""}
"""Columns to look for if none is named; the first two are the published files', with their metric."""


@dataclass(frozen=True)
class Scores:
    """A metric's scores as read from a file."""

    metric: str
    values: dict[str, float]
    """Score by text."""
    checks: frozenset[str]
    """Texts of attention checks."""
    source: str
    """File name and digest."""


@dataclass(frozen=True)
class Joined:
    """A metric's scores of the rated items."""

    metric: str
    values: Array
    """Scores in the items' order, ``(n,)``."""
    drops: tuple[Drop, ...]
    source: str
    """A file name with its digest, or a model's signature."""


def read_scores(path: Path, text_column: str | None = None, score_column: str | None = None) -> Scores:
    """Scores from a CSV file; columns not named are found by :data:`TEXT_COLUMNS`, :data:`SCORE_COLUMNS`.

    Raises :class:`DataError` if a column is missing or not clear, a score is not
    a number, or a text occurs twice.
    """
    rows = read_rows(path)
    columns = list(rows[0].cells)
    text = _column(path, columns, text_column, list(TEXT_COLUMNS))
    score = _column(path, columns, score_column, list(SCORE_COLUMNS))
    repeated = [key for key, times in Counter(text_key(row.cells[text]) for row in rows).items() if times > 1]
    if repeated:
        raise DataError(f"{path}: more than one row for {named(repeated)}")
    values: dict[str, float] = {}
    for row in rows:
        value = number_in(row, score)
        if value is None:
            raise DataError(f"{place(row)}: {score} is blank for {named([row.cells[text]])}")
        values[text_key(row.cells[text])] = value
    checks = frozenset(
        text_key(row.cells[text]) for row in rows if row.cells.get("imgstem_version") in ATTENTION_CHECKS
    )
    metric = SCORE_COLUMNS.get(score) or f"{path.stem}:{score}"
    return Scores(metric, values, checks, f"{path.name}#{digest(path)}")


def join(items: tuple[Item, ...], scores: Scores) -> Joined:
    """Find the score of each item and count the scores of other texts.

    Raises :class:`DataError` that names the items without a score.
    """
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
    known_here = [column for column in known if column in columns]
    if len(known_here) != 1:
        what = f"more than one of {', '.join(known_here)}" if known_here else f"none of {', '.join(known)}"
        raise DataError(f"{path}: has {what}; name the column (there are {', '.join(columns)})")
    return known_here[0]


def model_metrics(items: tuple[Item, ...], model: str, context: bool = False) -> list[Joined]:
    """Load a model and compute the raw cosine of each item's text with its image.

    context: whether to compute the four metrics of :func:`context_metrics` instead.
    Raises :class:`DataError` that names the items whose image is missing.
    """
    item_images(items)  # before a model is loaded
    scorer = DescScorer.from_pretrained(model)
    return context_metrics(items, scorer, model) if context else [scorer_scores(items, scorer, model)]


def scorer_scores(items: tuple[Item, ...], scorer: DescScorer, name: str) -> Joined:
    """The raw cosine of each item's text with its image."""
    results = scorer.score_batch(item_images(items), [item.text for item in items])
    return Joined(name, numbers(name, [result.cosine for result in results]), (), scorer.signature)


def item_images(items: tuple[Item, ...]) -> list[Path]:
    """The image of each item. Raises :class:`DataError` if one is unknown."""
    missing = [item.key for item in items if item.image is None]
    if missing:
        raise DataError(
            f"a model needs images, and there is none for {len(missing)} of {len(items)} rated texts "
            f"({named(missing)}); score them elsewhere and give the scores as a CSV file"
        )
    return [item.image for item in items if item.image is not None]


PREFIX = "A photo depicts "
"""The prefix of Kreiss et al. 2022 for descriptions and of Hessel et al. 2021 for every text."""

VARIANTS = ("", " (context)", " (prefix)", " (prefix, context)")
"""Endings of the four metrics' names, after the model's name."""


def context_metrics(items: tuple[Item, ...], scorer: DescScorer, name: str) -> list[Joined]:
    """Four metrics: the cosine and the contextual score, each without and with the prefix.

    Raises :class:`DataError` that names the items without image or context.
    """
    metrics: list[Joined] = []
    for prefix in ("", PREFIX):
        texts, contexts = [prefix + item.text for item in items], [item.context for item in items]
        results = scorer.score_batch(item_images(items), texts, contexts=contexts)
        pairs = zip(items, results, strict=True)
        missing = [item.key for item, result in pairs if result.contextual_score is None]
        if missing:
            raise DataError(f"no context for {len(missing)} of {len(items)} rated texts ({named(missing)})")
        cosines, contextual = zip(*((r.cosine, r.contextual_score) for r in results), strict=True)
        for values, signature in ((cosines, scorer.signature), (contextual, results[0].signature)):
            called = name + VARIANTS[len(metrics)]
            source = f"{signature}|prefix:{prefix.strip()}" if prefix else signature
            metrics.append(Joined(called, numbers(called, values), (), source))
    return metrics
