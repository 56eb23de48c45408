"""The report's sections on what models can do at all: retrieval, grounding, captions, classes."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from descscore.eval.formatting import (
    counted,
    listing,
    percent,
    percent_interval,
    plain,
    sentence,
    signed,
    signed_interval,
)
from descscore.eval.report.page import Bullets, Column, Paragraph, Section, Table

Json: TypeAlias = dict[str, Any]

CLIP_B32 = 151_277_313
"""Parameters of OpenAI's CLIP ViT-B/32, on which published CLIPScores rest."""


def results_section(report: Json) -> Section:
    """The main numbers of each model in sentences, then what the models are."""
    said = tuple(line for model in report["models"] for line in _main_results(report, model["name"]))
    columns: dict[str, Column] = {
        "model": "name",
        "parameters": lambda model: f"{model['parameters']:,}",
        "text tower tuned": lambda model: "yes" if model["tuned"] else "no",
        "purpose read-out": lambda model: "yes" if model["readout"] else "no",
        "signature": "signature",
    }
    table = Table.of("models-table", "The models", report["models"], columns)
    names = Paragraph(
        "A model is tuned where training changed its text tower. A purpose read-out gives the probability "
        "that a text is a description. A signature names all that decides a score."
    )
    return Section("results", "Main results", (*([Bullets(said)] if said else []), table, names))


def _main_results(report: Json, name: str) -> Iterator[str]:
    for part in report["human"]:
        rows = {
            row["metric"]: row
            for row in part["rows"]
            if (row["raters"], row["question"]) == ("BLV", "overall")
        }
        if name in rows:
            yield (
                f"{name}: its scores correlate {_r(rows[name])} with the overall ratings that blind and "
                f"low-vision (BLV) readers gave {counted(rows[name]['n'], 'description')}; text length alone "
                f"reaches {_r(rows['length'])}. +1 is full agreement, 0 is none."
            )
    for part in report["preference"]:
        own = {
            row["question"]: row for row in part["rows"] if (row["metric"], row["subset"]) == (name, "all")
        }
        text = f"{name}, {part['data']}: prefers the description to the caption in {_share(own['caption'])}"
        if "other" in own:
            text += f", and to another image's description in {_share(own['other'])}"
        yield text + f" ({counted(part['pairs'], 'pair')})."


def _r(row: Json) -> str:
    return f"{signed(row['r'])} (95 % interval {signed_interval(row['low'], row['high'])})"


def _share(row: Json) -> str:
    return f"{percent(row['value'])} (95 % interval {percent_interval(row['low'], row['high'])})"


def reading_section(report: Json) -> Section:
    """What the numbers mean, and what they can and cannot show."""
    items = [
        "A score here is meant to say how well a text would replace an image for someone who cannot see it. "
        "BLV readers are blind and low-vision readers.",
        "Intervals are 95 % intervals. Texts of one image are not independent, so intervals resample "
        "whole images.",
    ]
    items += [line for part in report["human"] for line in _human_limits(part)]
    items += [line for line in _model_limits(report["models"]) if line]
    return Section("reading", "What these numbers can and cannot show", (Bullets(tuple(items)),))


def _human_limits(part: Json) -> Iterator[str]:
    yield (
        "A higher irrelevance rating means less irrelevant information, so higher is better there too. "
        "Imaginability was not asked after the image."
    )
    if part["critical_r"] is not None:
        yield (
            f"{counted(part['joined'], 'description')} of {counted(part['images'], 'image')}: even if all "
            f"were independent, |r| < {plain(part['critical_r'])} would not be significant at 5 %."
        )
    reach = _reach(part["differences"])
    if reach is not None:
        yield (
            "The difference between two metrics' correlations with BLV readers' overall ratings is known to "
            f"within {plain(reach)} (half of the intervals' median width). These ratings can tell a metric "
            "that follows readers closely from one that does not; they cannot rank metrics closer than that."
        )
    yield (
        "These are few images and few readers: the ratings say little about other kinds of images, texts or "
        "readers."
    )


def _reach(differences: Sequence[Json]) -> float | None:
    """Median half-width of the intervals for BLV readers' overall ratings."""
    widths = [
        (row["high"] - row["low"]) / 2
        for row in differences
        if (row["raters"], row["question"]) == ("BLV", "overall") and row["low"] is not None
    ]
    return statistics.median(widths) if widths else None


def _model_limits(models: Sequence[Json]) -> Iterator[str]:
    small = [model for model in models if model["parameters"] < CLIP_B32 / 2]
    if small:
        sizes = listing([f"{model['name']} has {model['parameters'] / 1e6:.1f}" for model in small])
        yield (
            f"Small models: {sizes} million parameters; OpenAI's CLIP ViT-B/32, on which published "
            f"CLIPScores rest, has {CLIP_B32 / 1e6:.0f} million. A small model's figures are its own; they "
            "are no estimate of what the same method reaches with a larger model."
        )


def missing_section(report: Json) -> Section:
    """What was not measured, and which files it needs."""
    said = tuple(
        f"{entry['section']} on {entry['data']}"
        + ("" if entry["what"] == "all" else f", {entry['what']}")
        + f": not measured: {listing(entry['missing'])} missing."
        for entry in report["not_measured"]
    )
    text = Paragraph("Everything that a report can hold was measured.")
    return Section("missing", "What was not measured", (Bullets(said) if said else text,))


def repeat_section(report: Json) -> Section:
    """Versions, seeds and digests: all that the numbers depend on."""
    files = {
        file: digest
        for value in report.values()
        if isinstance(value, list)
        for part in value
        if isinstance(part, dict)
        for file, digest in part.get("files", {}).items()
    }
    table = Table(
        "files-table",
        "Files measured on, with the first 8 hex digits of their SHA-256",
        ("file", "SHA-256"),
        tuple(sorted(files.items())),
    )
    drawn = report["resampling"]
    text = Paragraph(
        f"descscore {report['descscore']}. Bootstrap of the correlations: {drawn['resamples']} resamples, "
        f"seed {drawn['seed']}. The models' signatures are under main results. report.json has all numbers "
        "with all their digits; this text is made from it."
    )
    signatures = [sentence(f"ratings and metrics: {part['signature']}") for part in report["human"]]
    return Section("repeat", "How to repeat it", (text, *map(Paragraph, signatures), table))


def quality_section(entries: Sequence[Json]) -> Section:
    """entries: the report's ``quality``."""
    text = (
        "Whether a score depends on the image at all. Recall@k is the share of images (texts) with a right "
        "text (image) among the k with the highest cosine; it ranks within one gallery and has no interval. "
        "Grounding is how often a description scores higher with its own photo than with another."
    )
    columns: dict[str, Column] = {
        "model": "model",
        "measure": "name",
        "value": lambda row: percent(row["value"]),
        "95 % interval": lambda row: (
            "none" if row["low"] is None else percent_interval(row["low"], row["high"])
        ),
        "n": lambda row: f"{row['n']} {row['unit']}s",
        "chance": lambda row: percent(row["chance"]),
    }
    rows = [row for part in entries for row in part["rows"]]
    table = Table.of("quality-table", "Retrieval and grounding", rows, columns, names=2)
    return Section("quality", "Retrieval and grounding", (Paragraph(text), table))


def captions_section(entry: Json) -> Section:
    """entry: one entry of the report's ``captions``."""
    rows = [
        {"metric": model, "source": "measured here"}
        | {row["set"]: row["tau"] and 100 * row["tau"] for row in entry["rows"] if row["model"] == model}
        for model in dict.fromkeys(row["model"] for row in entry["rows"])
    ]
    rows += [row | {"source": "published"} for row in entry["published"]]
    columns: dict[str, Column] = {
        "metric": "metric",
        "expert (tau-c)": lambda row: signed(row["expert"], 1),
        "CrowdFlower (tau-b)": lambda row: signed(row["crowdflower"], 1),
        "source": "source",
    }
    caption = "Kendall's tau with the ratings of Flickr8k captions, times 100"
    table = Table.of("captions-table", caption, rows, columns)
    counts = [
        f"{row['set']}: {row['pairs']} pairs, {row['ratings']} ratings, "
        f"{row['left_out']} own captions left out"
        + (f"; not defined: {row['reason']}" if row["reason"] else "")
        for row in entry["rows"]
    ]
    meaning = "Kendall's tau says how far two orders agree: 1 where they are the same, 0 by chance."
    notes = Bullets((meaning, *map(sentence, (*entry["notes"], *dict.fromkeys(counts)))))
    return Section("captions", "Ratings of Flickr8k captions", (notes, table))


def zero_shot_section(entries: Sequence[Json]) -> Section:
    """entries: the report's ``zeroshot``."""
    columns: dict[str, Column] = {
        "model": "model",
        "data": "data",
        "accuracy": lambda row: percent(row["accuracy"]),
        "95 % interval": lambda row: percent_interval(row["low"], row["high"]),
        "macro-F1": lambda row: percent(row["macro_f1"]),
        "images": "n",
        "classes": "classes",
        "chance": lambda row: percent(1 / row["classes"]),
        "prompt": "prompt",
    }
    rows = [row | {"data": part["data"]} for part in entries for row in part["rows"]]
    caption = "Zero-shot classification: the class whose prompt has the highest cosine"
    table = Table.of("zeroshot-table", caption, rows, columns, names=2)
    text = Paragraph(
        "Accuracy is the share of images whose own class wins. Macro-F1 is the mean of the classes' F1, the "
        "harmonic mean of precision and recall: each class counts alike."
    )
    return Section("zeroshot", "Zero-shot classification", (text, table))
