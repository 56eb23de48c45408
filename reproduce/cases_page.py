"""The cases in the documentation as Markdown, from the file of their numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from descscore.eval.report.page import table
from reproduce.performance_page import put_in

DATA_FILE, PAGE_FILE, PART = "explanation_cases.json", "explanations.md", "cases"

Json: TypeAlias = Mapping[str, Any]


def write(found: Json, folder: Path) -> None:
    """The file, and the marked part of the page beside it.

    Raises :class:`~descscore.errors.DataError`, and writes nothing, where the page lacks its marks.
    """
    page = folder / PAGE_FILE
    text = put_in(page.read_text(encoding="utf-8"), PART, to_markdown(found))
    (folder / DATA_FILE).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page.write_text(text, encoding="utf-8")


def to_markdown(found: Json) -> str:
    """The measured part of the page."""
    parts = [
        f"Model: `{found['signature']}`. {found['pairs']} pairs, {2 * found['pairs']} texts.\n",
        table(["how often", "share", "95 % interval"], list(_shares(found))),
    ]
    for number, case in enumerate(found["works"], start=1):
        parts += [f"### Works, {number}: `{case['id']}`\n", _case(case)]
    for number, case in enumerate(found["fails"], start=1):
        parts += [f"### Does not work, {number}: `{case['id']}`\n", f"{case['kind']}.\n", _case(case)]
    return "\n".join([*parts, *_marks(found["marks"])])


def _shares(found: Json) -> Iterator[list[str]]:
    yield ["the parts of a text add up", f"{100 * found['converged']:.1f} %", ""]
    for row in found["shares"]:
        between = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
        yield [row["name"], f"{100 * row['value']:.1f} %", between]


def _case(case: Json) -> str:
    both = (case["description"], case["caption"])
    rows = [
        ["score", *(f"{text['score']:.3f}" for text in both)],
        ["cosine", *(f"{text['cosine']:+.3f}" for text in both)],
        ["base's score", *(f"{text['clip_score']:.3f}" for text in both)],
        [
            "log-odds (probability) of being a description",
            *(f"{text['log_odds']:+.2f} ({text['probability']:.2f})" for text in both),
        ],
        ["strongest word for the purpose", *(_strongest(text) for text in both)],
        ["with a description's purpose", "", f"cosine changes by {case['change']:+.3f}"],
    ]
    return table(["what", "description", "caption"], rows)


def _strongest(text: Json) -> str:
    """The strongest word by its number and kind, its part, and what leaving it out loses."""
    word = text["strongest"]
    kinds = ", ".join(word["kinds"]) or "another word"
    return (
        f"word {word['number']} of {text['words']} ({kinds}): "
        f"{word['part']:+.2f}, left out {word['left_out']:+.2f}"
    )


def _marks(marks: Json) -> Iterator[str]:
    yield "### Marks of a description and of a caption\n"
    yield "Mean part of a word in the log-odds of being a description, less that of all other words:\n"
    rows = [
        [row["kind"], str(row["n"]), _signed(row["difference"]), _between(row["low"], row["high"])]
        for row in marks["kinds"]
    ]
    yield table(["kind of word", "occurrences", "difference", "95 % interval"], rows)
    for name in ("description", "caption"):
        listed = _words(marks[name])
        yield f"Single words taken for marks of a {name} (mean part, q < 0.05): {listed}.\n"
    if marks["agreement"] is not None:
        yield f"Correlation of a word's part with what leaving it out loses: r {marks['agreement']:.2f}.\n"


def _words(rows: Sequence[Json]) -> str:
    return ", ".join(f"`{row['word']}` {row['mean']:+.2f}" for row in rows) or "none"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:+.2f} to {high:+.2f}"
