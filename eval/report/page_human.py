"""The report's section on people's ratings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

from descscore.eval.report import plots
from descscore.eval.report.page import (
    Block,
    Bullets,
    Figure,
    Paragraph,
    Section,
    Table,
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

Json: TypeAlias = dict[str, Any]

HEAD = (
    "question",
    "metric",
    "n",
    "r",
    "95 % interval",
    "p",
    "Spearman",
    "Kendall",
    "r given length",
    "95 % interval given length",
    "r given log length",
    "ceiling",
)


def human_section(found: Json) -> Section:
    """found: one entry of the report's ``human``."""
    groups = list(dict.fromkeys((row["raters"], row["phase"]) for row in found["rows"]))
    parts = [_raters_part(found, *group) for group in groups]
    parts += [_scatter_part(found, i) for i in range(len(found["scatter"]))]
    if found["differences"]:
        parts.append(_difference_part(found))
    dropped = [f"{drop['what']}: {drop['count']}" for drop in found["drops"]]
    blocks: list[Block] = [
        Paragraph(
            f"{counted(found['joined'], 'rated description')} of {counted(found['images'], 'image')} "
            f"({found['data']}). Left out: {listing(dropped)}."
        )
    ]
    if found["published"]:
        names = listing(found["published"])
        blocks.append(
            Paragraph(f"Published scores of the same descriptions stand beside the models: {names}.")
        )
    blocks += [Bullets(tuple(map(sentence, found["notes"]))), _reliability_table(found["rows"])]
    return Section("human", "Agreement with people's ratings", tuple(blocks), tuple(parts))


def who(raters: str, phase: str | None) -> str:
    """A group of raters in words."""
    return f"{raters} readers" + ("" if phase is None else f", {phase} seeing the image")


def _raters_part(found: Json, raters: str, phase: str | None) -> Section:
    rows = [row for row in found["rows"] if (row["raters"], row["phase"]) == (raters, phase)]
    name = who(raters, phase)
    key = f"human-{slug(raters)}-{slug(phase or 'all')}"
    table = Table(
        f"{key}-table", f"Correlations with the mean ratings of {name}", HEAD, _cells(rows), names=2
    )
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


def _cells(rows: Sequence[Json]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            row["question"],
            row["metric"],
            str(row["n"]),
            signed(row["r"]),
            signed_interval(row["low"], row["high"]),
            p_value(row["p"]),
            signed(row["spearman"]),
            signed(row["kendall"]),
            signed(row["partial_r"]),
            signed_interval(row["partial_low"], row["partial_high"]),
            signed(row["partial_r_log_length"]),
            plain(row["ceiling"]),
        )
        for row in rows
    )


def _reliability_table(rows: Sequence[Json]) -> Table:
    """One row a group of raters and question: they are the same for every metric."""
    panels = {(row["raters"], row["phase"], row["question"]): row for row in rows}
    return Table(
        "human-reliability-table",
        "How far raters agree: split-half reliability, and the ceiling that it sets",
        ("readers", "question", "descriptions", "reliability", "ceiling", "remark"),
        tuple(
            (
                who(raters, phase),
                question,
                str(row["n"]),
                plain(row["reliability"]),
                plain(row["ceiling"]),
                row["reliability_reason"] or "none",
            )
            for (raters, phase, question), row in panels.items()
        ),
        names=2,
    )


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


def _scatter_part(found: Json, index: int) -> Section:
    of = found["scatter"][index]
    name, questions = of["model"], of["questions"]
    key = f"scatter-{index + 1}"
    table = Table(
        f"{key}-table",
        f"The points of these plots: cosine under {name} and mean rating by BLV readers",
        ("description", "image", "cosine", *questions),
        tuple(
            (
                str(point["item"]),
                point["image"],
                signed(point["cosine"], 3),
                *(plain(point[question]) for question in questions),
            )
            for point in of["points"]
        ),
        folded=True,
    )
    figures = tuple(
        Figure(
            f"{key}-{slug(question)}",
            f"{name} against {question}, rated by BLV readers",
            scatter_alt(of, question, _row_of(found["rows"], name, question)),
            table.key,
            partial(plots.scatter, of, question),
        )
        for question in questions
        if any(point[question] is not None for point in of["points"])
    )
    return Section(key, f"Scores of {name} and ratings by BLV readers", (*figures, table))


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


def _difference_part(found: Json) -> Section:
    models = {of["model"] for of in found["scatter"]}
    rows = [row for row in found["differences"] if row["raters"] == "BLV" and row["first"] in models]
    table = Table(
        "human-differences-table",
        "Correlation of the first metric minus that of the second, BLV readers",
        ("question", "first", "second", "n", "difference of r", "95 % interval", "p"),
        tuple(
            (
                row["question"],
                row["first"],
                row["second"],
                str(row["n"]),
                signed(row["difference"]),
                signed_interval(row["low"], row["high"]),
                p_value(row["p"]),
            )
            for row in rows
        ),
        names=3,
    )
    said = tuple(
        stop(f"{row['first']} and {row['second']} ({row['question']}): {row['reason']}")
        for row in rows
        if row["reason"]
    )
    more: tuple[Block, ...] = (Paragraph("Not defined:"), Bullets(said)) if said else ()
    text = Paragraph("Both correlations are recomputed in each resample. p is against no difference.")
    return Section("human-differences", "Differences between metrics", (text, table, *more))
