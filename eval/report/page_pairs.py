"""The report's sections on pairs of a description and a caption: preference, hostile texts, probability."""

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
    percent,
    percent_interval,
    plain,
    sentence,
)

Json: TypeAlias = dict[str, Any]


def preference_section(found: Sequence[Json]) -> Section:
    """found: the report's ``preference``."""
    blocks = (
        Bullets(
            (
                "How often a score prefers the description to the caption of the same image, and to "
                "the descriptions of other images (grounding). A tie is not a win.",
                "The first can be had by a text-only style classifier, the second by any matcher of "
                "images and texts. A score that stands for the quality of a description needs both.",
                '"Longer wins" prefers the longer text. The text-only n-grams are fitted on the training '
                "texts of openstax and never see an image. CLIPScore is the published one (OpenAI "
                'ViT-B/32, with the prefix "A photo depicts").',
            )
        ),
    )
    return Section("preference", "Description or caption", blocks, tuple(map(_preference_part, found)))


def _preference_part(found: Json) -> Section:
    data, rows = found["data"], found["rows"]
    over = {"caption": "its caption", "other": f"descriptions of {found['others']} other images"}
    table = Table(
        f"preference-{data}-table",
        f"How often the description wins, {data}",
        ("metric", "description over", "pairs", "n", "wins", "95 % interval", "ties"),
        tuple(
            (
                row["metric"],
                over[row["question"]],
                row["subset"],
                str(row["n"]),
                percent(row["value"]),
                percent_interval(row["low"], row["high"]),
                str(row["ties"]),
            )
            for row in rows
        ),
        names=3,
    )
    figure = Figure(
        f"preference-{data}-bars",
        f"Description preferred to caption, all pairs and by length quartile, {data}",
        preference_alt(rows),
        table.key,
        partial(plots.preference_bars, rows),
    )
    return Section(f"preference-{data}", data, (counts(found), figure, table))


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


def sanity_section(found: Sequence[Json]) -> Section:
    """found: the report's ``sanity``."""
    attacks = {row["attack"]: row["what"] for part in found for row in part["rows"]}
    blocks: tuple[Block, ...] = (
        Paragraph(
            "How often a hostile text has a higher cosine with the image than the real description. "
            "Ties are no wins. A score that cannot be gamed stays far below 50 %. Two of the texts are mild, "
            "the prefix that adds nothing and the description cut short: there 50 % would say that the score "
            "does not care."
        ),
        Bullets(tuple(sentence(f"{name}: {what}") for name, what in attacks.items())),
    )
    return Section("sanity", "Can it be gamed?", blocks, tuple(map(_sanity_part, found)))


def _sanity_part(found: Json) -> Section:
    data, rows = found["data"], found["rows"]
    table = Table(
        f"sanity-{data}-table",
        f"How often a hostile text scores over the description, {data}",
        ("metric", "hostile text", "n", "wins", "95 % interval", "ties", "left out"),
        tuple(
            (
                row["metric"],
                row["attack"],
                str(row["n"]),
                percent(row["value"]),
                percent_interval(row["low"], row["high"]),
                str(row["ties"]),
                str(row["left_out"]),
            )
            for row in rows
        ),
        names=2,
    )
    figure = Figure(
        f"sanity-{data}-shares",
        f"Hostile texts that score over the description, {data}",
        sanity_alt(rows),
        table.key,
        partial(plots.attack_shares, rows),
    )
    return Section(f"sanity-{data}", data, (counts(found), figure, table))


def sanity_alt(rows: Sequence[Json]) -> str:
    """The shares in words: each metric's attacks from the most to the least successful."""
    said = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        own = [row for row in rows if row["metric"] == metric and row["value"] is not None]
        ranked = sorted(own, key=lambda row: -row["value"])
        shares = listing([f"{row['attack']} {percent(row['value'])}" for row in ranked])
        said.append(f"{metric}: {shares}.")
    return " ".join(["Dot plot with intervals; hostile texts from the most to the least successful.", *said])


def probability_section(found: Sequence[Json]) -> Section:
    """found: the report's ``probability``."""
    without = list(dict.fromkeys(name for part in found for name in part["without_readout"]))
    blocks: list[Block] = [
        Paragraph(
            "description_probability is read from a text alone, off the subspace in which a tuned model "
            "keeps a text's purpose. Where the curve follows the diagonal, a stated probability is the share "
            "of texts that are descriptions. Log-loss is in nats; lower is better."
        )
    ]
    if without:
        blocks.append(Paragraph(f"Without a read-out, and so without this probability: {listing(without)}."))
    parts = tuple(_probability_part(part) for part in found if part["rows"])
    return Section("probability", "Probability of being a description", tuple(blocks), parts)


def _probability_part(found: Json) -> Section:
    data, rows = found["data"], found["rows"]
    losses = Table(
        f"probability-{data}-losses",
        f"Log-loss of the probability, {data}",
        ("model", "texts", "images", "log-loss", "95 % interval", "log-loss of guessing", "Brier score"),
        tuple(
            (
                row["model"],
                str(row["texts"]),
                str(row["images"]),
                plain(row["log_loss"], 3),
                _loss_interval(row),
                plain(row["guessing"], 3),
                plain(row["brier"], 3),
            )
            for row in rows
        ),
    )
    bins = Table(
        f"probability-{data}-bins",
        f"Reliability curve, {data}",
        ("model", "probability over", "up to", "texts", "mean probability", "descriptions", "95 % interval"),
        tuple(
            (
                row["model"],
                percent(one["start"], 0),
                percent(one["stop"], 0),
                str(one["n"]),
                percent(one["predicted"]),
                percent(one["observed"]),
                percent_interval(one["low"], one["high"]),
            )
            for row in rows
            for one in row["bins"]
        ),
        names=2,
    )
    figure = Figure(
        f"probability-{data}-curve",
        f"Predicted probability and share of descriptions, {data}",
        reliability_alt(rows),
        bins.key,
        partial(plots.reliability, rows),
    )
    return Section(f"probability-{data}", data, (counts(found), losses, figure, bins))


def _loss_interval(row: Json) -> str:
    if row["low"] is None or row["high"] is None:
        return "not defined"
    return f"{plain(row['low'], 3)} to {plain(row['high'], 3)}"


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
    return " ".join(["Reliability curve beside the diagonal.", *said])


def counts(found: Json) -> Paragraph:
    """How many pairs were measured, and how many rows could not be used."""
    reasons = [f"{reason.replace('_', ' ')} {count}" for reason, count in found["unusable"].items()]
    rest = f"rows that could not be used: {listing(reasons)}" if reasons else "every row could be used"
    return Paragraph(f"{counted(found['pairs'], 'pair')} of the test split; {rest}.")
