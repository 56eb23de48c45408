"""The report's section on people's ratings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

from descscore.eval.formatting import (
    counted,
    listing,
    p_value,
    plain,
    sentence,
    signed,
    signed_interval,
    slug,
    stop,
)
from descscore.eval.report import plots
from descscore.eval.report.page import Block, Bullets, Column, Figure, Paragraph, Section, Table

Json: TypeAlias = dict[str, Any]

TERMS = (
    "Metrics: each model's score is its cosine of image and description. Length is the number of characters "
    "of the description. CLIPScore is the published score under OpenAI's CLIP; SPURTS rates the text alone.",
    "n is the number of descriptions. r is Pearson's correlation of a metric with the mean ratings, from "
    "\N{MINUS SIGN}1 to +1, and p its p-value against 0.",
    "Spearman is the correlation of the ranks. Kendall (tau) compares pairs of descriptions: +1 where scores "
    "and ratings put every pair in the same order.",
    "Reliability is how far two random halves of the raters agree.",
)
"""What the columns mean."""

COLUMNS: dict[str, Column] = {
    "question": "question",
    "metric": "metric",
    "n": "n",
    "r": lambda row: signed(row["r"]),
    "95 % interval": lambda row: signed_interval(row["low"], row["high"]),
    "p": lambda row: p_value(row["p"]),
    "Spearman": lambda row: signed(row["spearman"]),
    "Kendall": lambda row: signed(row["kendall"]),
    "r given length": lambda row: signed(row["partial_r"]),
    "95 % interval given length": lambda row: signed_interval(row["partial_low"], row["partial_high"]),
    "r given log length": lambda row: signed(row["partial_r_log_length"]),
    "ceiling": lambda row: plain(row["ceiling"]),
}


def human_section(entry: Json) -> Section:
    """entry: one entry of the report's ``human``."""
    groups = list(dict.fromkeys((row["raters"], row["phase"]) for row in entry["rows"]))
    parts = [_raters_part(entry, *group) for group in groups]
    parts += [_scatter_part(entry, i) for i in range(len(entry["scatter"]))]
    if entry["differences"]:
        parts.append(_difference_part(entry))
    dropped = [f"{drop['what']}: {drop['count']}" for drop in entry["drops"]]
    blocks: list[Block] = [
        Paragraph(
            f"{counted(entry['joined'], 'rated description')} of {counted(entry['images'], 'image')} "
            f"({entry['data']}). Left out: {listing(dropped)}."
        )
    ]
    if entry["published"]:
        names = listing(entry["published"])
        blocks.append(Paragraph(f"The tables also show published scores of the same descriptions: {names}."))
    blocks += [Bullets((*TERMS, *map(sentence, entry["notes"]))), _reliability_table(entry["rows"])]
    return Section("human", "Agreement with people's ratings", tuple(blocks), tuple(parts))


def who(raters: str, phase: str | None) -> str:
    """A group of raters in words."""
    return f"{raters} readers" + ("" if phase is None else f", {phase} seeing the image")


def _raters_part(entry: Json, raters: str, phase: str | None) -> Section:
    rows = [row for row in entry["rows"] if (row["raters"], row["phase"]) == (raters, phase)]
    name = who(raters, phase)
    key = f"human-{slug(raters)}-{slug(phase or 'all')}"
    caption = f"Correlations with the mean ratings of {name}"
    table = Table.of(f"{key}-table", caption, rows, COLUMNS, names=2)
    figure = Figure(
        f"{key}-forest",
        f"Correlation with {name}: estimates, 95 % intervals and ceilings",
        forest_alt(rows, name),
        table.key,
        partial(plots.forest, rows),
    )
    reasons = _reasons(rows)
    more = (Paragraph("Not defined:"), Bullets(reasons)) if reasons else ()
    return Section(key, sentence(name).removesuffix("."), (figure, table, *more))


def forest_alt(rows: Sequence[Json], name: str) -> str:
    """The forest plot in words: each question's ceiling, highest metric, and all with their r."""
    said = []
    for question in dict.fromkeys(row["question"] for row in rows):
        own = [row for row in rows if row["question"] == question]
        values = listing([f"{row['metric']} {signed(row['r'])}" for row in own])
        ceiling = plain(own[0]["ceiling"])
        said.append(f"{question}: {values}; ceiling {ceiling}.")
    return f"Forest plot of Pearson correlations with the mean ratings of {name}. " + " ".join(
        map(sentence, said)
    )


def _reliability_table(rows: Sequence[Json]) -> Table:
    """One row a group of raters and question: they are the same for every metric."""
    panels = {(row["raters"], row["phase"], row["question"]): row for row in rows}
    columns: dict[str, Column] = {
        "readers": lambda row: who(row["raters"], row["phase"]),
        "question": "question",
        "descriptions": "n",
        "reliability": lambda row: plain(row["reliability"]),
        "ceiling": lambda row: plain(row["ceiling"]),
        "remark": lambda row: row["reliability_reason"] or "none",
    }
    caption = "How far raters agree: split-half reliability, and the ceiling that it sets"
    return Table.of("human-reliability-table", caption, list(panels.values()), columns, names=2)


def _reasons(rows: Sequence[Json]) -> tuple[str, ...]:
    """Why numbers are not defined, each once."""
    said = []
    for row in rows:
        where = f"({row['question']})"
        if row["reason"]:
            said.append(f"r of {row['metric']} {where}: {row['reason']}")
        if row["partial_reason"] and row["partial_reason"] != row["reason"]:
            said.append(f"r of {row['metric']} given length {where}: {row['partial_reason']}")
    return tuple(dict.fromkeys(map(stop, said)))


def _scatter_part(entry: Json, index: int) -> Section:
    of = entry["scatter"][index]
    name, questions = of["model"], of["questions"]
    key = f"scatter-{index + 1}"
    columns: dict[str, Column] = {
        "description": "item",
        "image": "image",
        "cosine": lambda point: signed(point["cosine"], 3),
    }
    columns |= {question: partial(_rating, question) for question in questions}
    caption = f"The points of these plots: cosine under {name} and mean rating by BLV readers"
    table = Table.of(f"{key}-table", caption, of["points"], columns, folded=True)
    figures = tuple(
        Figure(
            f"{key}-{slug(question)}",
            f"{name} against {question}, rated by BLV readers",
            scatter_alt(of, question, _row_of(entry["rows"], name, question)),
            table.key,
            partial(plots.scatter, of, question),
        )
        for question in questions
        if any(point[question] is not None for point in of["points"])
    )
    return Section(key, f"Scores of {name} and ratings by BLV readers", (*figures, table))


def _rating(question: str, point: Json) -> str:
    return plain(point[question])


def _row_of(rows: Sequence[Json], metric: str, question: str) -> Json:
    wanted = ("BLV", metric, question)
    return next(row for row in rows if (row["raters"], row["metric"], row["question"]) == wanted)


def scatter_alt(of: Json, question: str, row: Json) -> str:
    """The scatter plot in words: how many points, where the line runs, and r with its interval."""
    kept = [point for point in of["points"] if point[question] is not None]
    cosines = [point["cosine"] for point in kept]
    ratings = [point[question] for point in kept]
    text = (
        f"Scatter plot of {counted(len(kept), 'description')}: cosine under {of['model']} from "
        f"{signed(min(cosines))} to {signed(max(cosines))}, mean {question} rating from "
        f"{plain(min(ratings))} to {plain(max(ratings))}. "
    )
    line = of["lines"][question]
    if line is None:
        return text + "No line is fitted."
    start, stop = (line["intercept"] + line["slope"] * x for x in (min(cosines), max(cosines)))
    way = "rises" if stop > start else "falls"
    r = f"r = {signed(row['r'])}, 95 % interval {signed_interval(row['low'], row['high'])}"
    return text + f"The fitted line {way} from {plain(start)} to {plain(stop)}; {r}."


def _difference_part(entry: Json) -> Section:
    models = {of["model"] for of in entry["scatter"]}
    rows = [row for row in entry["differences"] if row["raters"] == "BLV" and row["first"] in models]
    columns: dict[str, Column] = {
        "question": "question",
        "first": "first",
        "second": "second",
        "n": "n",
        "difference of r": lambda row: signed(row["difference"]),
        "95 % interval": lambda row: signed_interval(row["low"], row["high"]),
        "p": lambda row: p_value(row["p"]),
    }
    caption = "Correlation of the first metric minus that of the second, BLV readers"
    table = Table.of("human-differences-table", caption, rows, columns, names=3)
    said = tuple(
        stop(f"{row['first']} and {row['second']} ({row['question']}): {row['reason']}")
        for row in rows
        if row["reason"]
    )
    more: tuple[Block, ...] = (Paragraph("Not defined:"), Bullets(said)) if said else ()
    text = Paragraph("Both correlations are recomputed in each resample. p is against no difference.")
    return Section("human-differences", "Differences between metrics", (text, table, *more))
