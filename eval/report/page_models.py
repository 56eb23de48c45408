"""The report's sections on what models can do at all: retrieval, grounding, captions, classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from descscore.eval.report.number_format import percent, percent_interval, sentence, signed
from descscore.eval.report.page import Bullets, Paragraph, Section, Table

Json: TypeAlias = dict[str, Any]


def quality_section(found: Sequence[Json]) -> Section:
    """found: the report's ``quality``."""
    text = (
        "Whether a score has a hold on the image at all. Recall is a rank statistic of one gallery and "
        "has no interval. Grounding: how often a description scores higher with its own photo than "
        "with another."
    )
    table = Table(
        "quality-table",
        "Retrieval and grounding",
        ("model", "measure", "value", "95 % interval", "n", "chance"),
        tuple(
            (
                row["model"],
                row["name"],
                percent(row["value"]),
                percent_interval(row["low"], row["high"]) if row["low"] is not None else "none",
                f"{row['n']} {row['unit']}s",
                percent(row["chance"]),
            )
            for part in found
            for row in part["rows"]
        ),
        names=2,
    )
    return Section("quality", "Retrieval and grounding", (Paragraph(text), table))


def captions_section(found: Json) -> Section:
    """found: one entry of the report's ``captions``."""
    models = dict.fromkeys(row["model"] for row in found["rows"])
    cells = []
    for model in models:
        own = {row["set"]: row for row in found["rows"] if row["model"] == model}
        cells.append(
            (model, *(_tau(own[name]["tau"]) for name in ("expert", "crowdflower")), "measured here")
        )
    for row in found["published"]:
        cells.append((row["metric"], *(signed(row[k], 1) for k in ("expert", "crowdflower")), "published"))
    table = Table(
        "captions-table",
        "Kendall's tau with the ratings of Flickr8k captions, times 100",
        ("metric", "expert (tau-c)", "CrowdFlower (tau-b)", "source"),
        tuple(cells),
    )
    counts = [
        f"{row['set']}: {row['pairs']} pairs, {row['ratings']} ratings, "
        f"{row['left_out']} own captions left out"
        + (f"; not defined: {row['reason']}" if row["reason"] else "")
        for row in found["rows"]
    ]
    notes = Bullets(tuple(map(sentence, (*found["notes"], *dict.fromkeys(counts)))))
    return Section("captions", "Ratings of Flickr8k captions", (notes, table))


def _tau(value: float | None) -> str:
    return signed(None if value is None else 100 * value, 1)


def zero_shot_section(found: Sequence[Json]) -> Section:
    """found: the report's ``zeroshot``."""
    table = Table(
        "zeroshot-table",
        "Zero-shot classification: the class whose prompt has the highest cosine",
        ("model", "data", "accuracy", "95 % interval", "macro-F1", "images", "classes", "chance", "prompt"),
        tuple(
            (
                row["model"],
                part["data"],
                percent(row["accuracy"]),
                percent_interval(row["low"], row["high"]),
                percent(row["macro_f1"]),
                str(row["n"]),
                str(row["classes"]),
                percent(1 / row["classes"]),
                row["prompt"],
            )
            for part in found
            for row in part["rows"]
        ),
        names=2,
    )
    return Section("zeroshot", "Zero-shot classification", (table,))
