"""The report's sections on what models can do at all: retrieval, grounding, captions, classes."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from descscore.eval.report.page import (
    Bullets,
    Paragraph,
    Section,
    Table,
    counted,
    listing,
    percent,
    percent_interval,
    plain,
    sentence,
    signed,
    signed_interval,
)

# The report's first and last sections: main results, what they can show, what is missing, how to repeat.


Json: TypeAlias = dict[str, Any]

CLIP_B32 = 151_277_313
"""Parameters of OpenAI's CLIP ViT-B/32, on which published CLIPScores rest."""


def results_section(report: Json) -> Section:
    """The main numbers of each model in sentences, then what the models are."""
    said = tuple(line for model in report["models"] for line in _main_results(report, model["name"]))
    table = Table(
        "models-table",
        "The models",
        ("model", "parameters", "text tower tuned", "purpose read-out", "signature"),
        tuple(
            (
                model["name"],
                f"{model['parameters']:,}",
                "yes" if model["tuned"] else "no",
                "yes" if model["readout"] else "no",
                model["signature"],
            )
            for model in report["models"]
        ),
    )
    return Section("results", "Main results", (Bullets(said), table) if said else (table,))


def _main_results(report: Json, name: str) -> Iterator[str]:
    for part in report["human"]:
        rows = {
            row["metric"]: row
            for row in part["rows"]
            if (row["raters"], row["question"]) == ("BLV", "overall")
        }
        if name in rows:
            yield (
                f"{name}: correlation {_r(rows[name])} with BLV readers' overall ratings of "
                f"{counted(rows[name]['n'], 'description')}; text length alone reaches {_r(rows['length'])}."
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
            "How far two metrics' correlations with BLV readers' overall ratings lie apart is known to "
            f"within {plain(reach)} (the intervals' median half-width). These ratings can tell a metric that "
            "follows readers closely from one that does not; they cannot rank metrics that lie closer."
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
            f"CLIPScores rest, has {CLIP_B32 / 1e6:.0f} million. What a small model shows is how it behaves "
            "itself; it is no estimate of what the same method reaches with a larger model."
        )


def missing_section(report: Json) -> Section:
    """What was not measured, and for want of which files."""
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
        f"seed {drawn['seed']}. The models' signatures stand under main results; all numbers with all their "
        "digits are in report.json, from which this text is made."
    )
    signatures = [sentence(f"ratings and metrics: {part['signature']}") for part in report["human"]]
    return Section("repeat", "How to repeat it", (text, *map(Paragraph, signatures), table))


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
