"""What the page on contexts and references shows of the numbers that the study measured."""

from __future__ import annotations

from typing import Any, TypeAlias

from descscore.errors import DataError
from descscore.eval.human.caption_ratings import PUBLISHED as PUBLISHED_TAUS
from descscore.eval.markdown_table import table
from descscore.eval.report.number_format import counted, plain, signed, signed_interval

Json: TypeAlias = dict[str, Any]

DATA_FILE, PAGE_FILE = "context.json", "context_and_references.md"
MARKS = ("<!-- measured -->", "<!-- /measured -->")
_DIGITS = 3

PUBLISHED = {
    ("BLV", None, "overall"): (0.075, 0.201),
    ("BLV", None, "imaginability"): (0.105, 0.182),
    ("BLV", None, "relevance"): (0.085, 0.202),
    ("BLV", None, "irrelevance"): (0.089, 0.142),
    ("sighted", "before", "overall"): (-0.014, 0.238),
    ("sighted", "before", "imaginability"): (0.065, 0.315),
    ("sighted", "before", "relevance"): (0.000, 0.190),
    ("sighted", "before", "irrelevance"): (-0.167, -0.019),
    ("sighted", "after", "overall"): (0.138, 0.331),
    ("sighted", "after", "relevance"): (0.106, 0.240),
    ("sighted", "after", "irrelevance"): (-0.080, 0.052),
}
"""r of CLIPScore without and with context, by raters, phase and question (Kreiss et al. 2022)."""


def put_in(text: str, found: Json) -> str:
    """The page with everything between its marks made from ``found``; :class:`DataError` without marks."""
    start, end = MARKS
    before, _, rest = text.partition(start)
    _, mark, after = rest.partition(end)
    if not mark:
        raise DataError(f"{PAGE_FILE}: lacks the lines {start} and {end}")
    return f"{before}{start}\n{measured(found)}{end}{after}"


def measured(found: Json) -> str:
    """What was measured, as Markdown; every number in it is from ``found`` or published."""
    row = found["models"][0]["contexts"][0]["rows"][0]
    notes = (
        f"Pearson's r with the mean ratings of the {row['n']} descriptions of {row['images']} images in",
        "`kreiss2022`. Intervals of 95 % come from a bootstrap over whole images",
        f"({found['resamples']:,} resamples, seed {found['seed']}). Published: CLIPScore without and",
        "with context (OpenAI CLIP ViT-B/32, with the prefix).",
    )
    parts = [" ".join(notes) + "\n", *map(_context_part, found["models"]), _reference_part(found)]
    used = [part["signature"] for model in found["models"] for part in model["contexts"]]
    signatures = "\n".join(f"- `{signature}`" for signature in used)
    return "\n".join([*parts, f"Signatures:\n\n{signatures}\n"])


def _context_part(model: Json) -> str:
    whole, cut = model["contexts"]
    change = "change (95 %)"
    head = ["raters", "question", "published", "r", "r in context", change, "with prefix", change]
    rows = table(head, [_cells(row) for row in whole["rows"]])
    return f"### Context: {model['model']}\n\n{_reading(whole, cut)}\n\n{rows}"


def _cells(row: Json) -> list[str]:
    before, after = PUBLISHED[row["raters"], row["phase"], row["question"]]
    return [
        row["raters"] if row["phase"] is None else f"{row['raters']}, {row['phase']} the image",
        row["question"],
        f"{_r(before)} → {_r(after)}",
        _r(row["r"]),
        _r(row["r_context"]),
        _change(row["change"]),
        f"{_r(row['r_prefix'])} → {_r(row['r_prefix_context'])}",
        _change(row["change_prefix"]),
    ]


def _r(value: float | None) -> str:
    return signed(value, _DIGITS)


def _change(change: Json) -> str:
    return f"{_r(change['value'])} ({signed_interval(change['low'], change['high'], _DIGITS)})"


def _reading(whole: Json, cut: Json) -> str:
    """What the table says, in words. cut: the same with articles cut, as published."""
    rows, texts = whole["rows"], whole["texts"]
    published = sum(after > before for before, after in PUBLISHED.values())
    norm, context_norm = texts["mean_norm"], texts["mean_context_norm"]
    said = (
        f"The published r rises with context in {published} of {len(PUBLISHED)} rows.",
        f"Under the text policy `{whole['policy']}` it {_rises(rows, 'change')}; with the prefix it",
        f"{_rises(rows, 'change_prefix')}. {_verdict(rows)}",
        f"Of {counted(texts['articles'], 'article')} {texts['articles_over']} are over",
        f"{texts['context_length']} tokens; cut to that, as published (`{cut['policy']}`), r",
        f"{_rises(cut['rows'], 'change')}; with the prefix it {_rises(cut['rows'], 'change_prefix')}.",
        f"Raw embeddings have a mean length of {plain(norm)} (descriptions) and {plain(context_norm)}",
        f"(articles), so that in the second form of the formula the image weighs {plain(norm)} and the",
        f"context {signed(context_norm - norm)} on average. The mean cosine of a description and its",
        f"article is {signed(texts['mean_context_cosine'])}.",
    )
    return " ".join(said)


def _rises(rows: list[Json], key: str) -> str:
    """In how many rows r rises, and in how many the change's interval leaves out 0 on either side."""
    changes = [row[key] for row in rows]
    rises = sum((change["value"] or 0) > 0 for change in changes)
    above, below = _sure(changes)
    return (
        f"rises in {rises} of {len(rows)} (the change's interval lies above 0 in {above}, below 0 in {below})"
    )


def _sure(changes: list[Json]) -> tuple[int, int]:
    """How many changes have an interval above 0, and how many one below 0."""
    known = [change for change in changes if change["low"] is not None]
    return sum(change["low"] > 0 for change in known), sum(change["high"] < 0 for change in known)


def _verdict(rows: list[Json]) -> str:
    """A gain counts as seen where its interval lies above 0: a sign alone is half chance."""
    seen, _ = _sure([row["change"] for row in rows])
    if not seen:
        return "The published gain is not seen: no rise can be told from none."
    return f"The published gain is seen in {seen} of {counted(len(rows), 'row')}."


def _reference_part(found: Json) -> str:
    pairs = found["models"][0]["taus"]["pairs"]
    rows = [
        [model["model"], _tau(model["taus"]["score"]), _tau(model["taus"]["reference_score"])]
        for model in found["models"]
    ]
    alone, with_references = (PUBLISHED_TAUS[name][0] for name in ("CLIP-S", "RefCLIP-S"))
    rows.append(["CLIP-S, RefCLIP-S (published)", f"{alone:.1f}", f"{with_references:.1f}"])
    said = (
        f"Kendall's tau-c, times 100, with the expert ratings of {pairs:,} pairs in Flickr8k (captions, not",
        "descriptions). References are the photo's own five captions; pairs of a photo with one of them",
        "are left out.",
    )
    shown = table(["model", "without references (cosine)", "with references"], rows)
    return f"### References\n\n{' '.join(said)}\n\n{shown}"


def _tau(value: float | None) -> str:
    return "not defined" if value is None else f"{100 * value:.1f}"
