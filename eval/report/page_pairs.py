"""The report's sections on pairs of a description and a caption: preference, hostile texts, probability."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

from descscore.eval.formatting import (
    UNDEFINED,
    counted,
    listing,
    percent,
    percent_interval,
    plain,
    sentence,
)
from descscore.eval.report import plots
from descscore.eval.report.page import Block, Bullets, Column, Figure, Paragraph, Section, Table

Json: TypeAlias = dict[str, Any]

WINS: dict[str, Column] = {
    "n": "n",
    "wins": lambda row: percent(row["value"]),
    "95 % interval": lambda row: percent_interval(row["low"], row["high"]),
    "ties": "ties",
}
"""Columns of a share of pairs that something wins."""


def preference_section(entries: Sequence[Json]) -> Section:
    """entries: the report's ``preference``."""
    blocks = (
        Bullets(
            (
                "How often a score prefers the description to the caption of the same image, and to "
                "the descriptions of other images (grounding). A tie is not a win.",
                "A text-only style classifier can do the first, and any matcher of images and texts the "
                "second. A score that stands for the quality of a description needs both.",
                '"Longer wins" prefers the longer text. The text-only n-grams are fitted on the training '
                "texts of openstax and never see an image. CLIPScore is the published one (OpenAI "
                'ViT-B/32, with the prefix "A photo depicts").',
            )
        ),
    )
    return Section("preference", "Description or caption", blocks, tuple(map(_preference_part, entries)))


def _preference_part(entry: Json) -> Section:
    data, rows = entry["data"], entry["rows"]
    over = {"caption": "its caption", "other": f"descriptions of {entry['others']} other images"}
    columns: dict[str, Column] = {
        "metric": "metric",
        "description over": lambda row: over[row["question"]],
        "pairs": "subset",
        **WINS,
    }
    caption = f"How often the description wins, {data}"
    table = Table.of(f"preference-{data}-table", caption, rows, columns, names=3)
    figure = Figure(
        f"preference-{data}-bars",
        f"Description preferred to caption, all pairs and by length quartile, {data}",
        preference_alt(rows),
        table.key,
        partial(plots.preference_bars, rows),
    )
    return Section(f"preference-{data}", data, (counts(entry), figure, table))


def preference_alt(rows: Sequence[Json]) -> str:
    """The bars in words: each metric over all pairs, then from the shortest to the longest quartile."""
    own = [row for row in rows if row["question"] == "caption"]
    said = []
    for metric in dict.fromkeys(row["metric"] for row in own):
        values = [row for row in own if row["metric"] == metric]
        text = f"{metric} prefers the description in {percent(values[0]['value'])} of all pairs"
        if len(values) > 1:
            parts = listing([percent(row["value"]) for row in values[1:]])
            text += f", by length from the shortest to the longest quartile in {parts}"
        said.append(f"{text}.")
    return " ".join(["Bar chart with intervals.", *said])


def sanity_section(entries: Sequence[Json]) -> Section:
    """entries: the report's ``sanity``."""
    attacks = {row["attack"]: row["what"] for part in entries for row in part["rows"]}
    blocks: tuple[Block, ...] = (
        Paragraph(
            "How often a hostile text has a higher cosine with the image than the real description. "
            "Ties are no wins. A score that cannot be gamed stays far below 50 %. Two of the texts are mild: "
            "the prefix that adds nothing, and the description cut short. There 50 % means that the score "
            "takes no notice."
        ),
        Bullets(tuple(sentence(f"{name}: {what}") for name, what in attacks.items())),
    )
    return Section("sanity", "Can it be gamed?", blocks, tuple(map(_sanity_part, entries)))


def _sanity_part(entry: Json) -> Section:
    data, rows = entry["data"], entry["rows"]
    columns: dict[str, Column] = {
        "metric": "metric",
        "hostile text": "attack",
        **WINS,
        "left out": "left_out",
    }
    caption = f"How often a hostile text scores over the description, {data}"
    table = Table.of(f"sanity-{data}-table", caption, rows, columns, names=2)
    figure = Figure(
        f"sanity-{data}-shares",
        f"Hostile texts that score over the description, {data}",
        sanity_alt(rows),
        table.key,
        partial(plots.attack_shares, rows),
    )
    return Section(f"sanity-{data}", data, (counts(entry), figure, table))


def sanity_alt(rows: Sequence[Json]) -> str:
    """The shares in words: each metric's attacks from the most to the least successful."""
    said = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        own = [row for row in rows if row["metric"] == metric and row["value"] is not None]
        ranked = sorted(own, key=lambda row: -row["value"])
        shares = listing([f"{row['attack']} {percent(row['value'])}" for row in ranked])
        said.append(f"{metric}: {shares}.")
    return " ".join(["Dot plot with intervals; hostile texts from the most to the least successful.", *said])


def probability_section(entries: Sequence[Json]) -> Section:
    """entries: the report's ``probability``."""
    without = list(dict.fromkeys(name for part in entries for name in part["without_readout"]))
    blocks: list[Block] = [
        Paragraph(
            "description_probability is read from a text alone, off the subspace in which a tuned model "
            "keeps a text's purpose. Where the curve follows the diagonal, a stated probability is the share "
            "of texts that are descriptions. Log-loss is minus the mean logarithm of the probability given "
            "to what a text really is, in nats; the Brier score is the mean squared error. Lower is better."
        )
    ]
    if without:
        blocks.append(Paragraph(f"Without a read-out, and so without this probability: {listing(without)}."))
    parts = tuple(_probability_part(part) for part in entries if part["rows"])
    return Section("probability", "Probability of being a description", tuple(blocks), parts)


def _probability_part(entry: Json) -> Section:
    data, rows = entry["data"], entry["rows"]
    caption = f"Log-loss of the probability, {data}"
    losses = Table.of(f"probability-{data}-losses", caption, rows, LOSSES)
    lists = [{"model": row["model"]} | one for row in rows for one in row["bins"]]
    bins = Table.of(f"probability-{data}-bins", f"Reliability curve, {data}", lists, BINS, names=2)
    figure = Figure(
        f"probability-{data}-curve",
        f"Predicted probability and share of descriptions, {data}",
        reliability_alt(rows),
        bins.key,
        partial(plots.reliability, rows),
    )
    return Section(f"probability-{data}", data, (counts(entry), losses, figure, bins))


def _loss_interval(row: Json) -> str:
    if row["low"] is None or row["high"] is None:
        return UNDEFINED
    return f"{plain(row['low'], 3)} to {plain(row['high'], 3)}"


LOSSES: dict[str, Column] = {
    "model": "model",
    "texts": "texts",
    "images": "images",
    "log-loss": lambda row: plain(row["log_loss"], 3),
    "95 % interval": _loss_interval,
    "log-loss of guessing": lambda row: plain(row["guessing"], 3),
    "Brier score": lambda row: plain(row["brier"], 3),
}

BINS: dict[str, Column] = {
    "model": "model",
    "probability over": lambda row: percent(row["start"], 0),
    "up to": lambda row: percent(row["stop"], 0),
    "texts": "n",
    "mean probability": lambda row: percent(row["predicted"]),
    "descriptions": lambda row: percent(row["observed"]),
    "95 % interval": lambda row: percent_interval(row["low"], row["high"]),
}


def reliability_alt(rows: Sequence[Json]) -> str:
    """The curve in words: its ends, and the largest distance from the diagonal of each model."""
    said = []
    for row in rows:
        first, last = row["bins"][0], row["bins"][-1]
        worst = max(row["bins"], key=lambda one: abs(one["observed"] - one["predicted"]))
        said.append(
            f"{row['model']}: from {percent(first['observed'])} descriptions where it says "
            f"{percent(first['predicted'])} to {percent(last['observed'])} where it says "
            f"{percent(last['predicted'])}; farthest from the diagonal where it says "
            f"{percent(worst['predicted'])} and {percent(worst['observed'])} are."
        )
    return " ".join(["Reliability curve and the diagonal.", *said])


def counts(entry: Json) -> Paragraph:
    """How many pairs were measured, and how many rows could not be used."""
    reasons = [f"{reason.replace('_', ' ')} {count}" for reason, count in entry["unusable"].items()]
    rest = f"rows that could not be used: {listing(reasons)}" if reasons else "every row could be used"
    return Paragraph(f"{counted(entry['pairs'], 'pair')} of the test split; {rest}.")
