"""Cases for the documentation: ``python -m reproduce.explanation_cases docs --data DIR``.

Explains both texts of every pair. Writes how often explanations do what they should, three
pairs where they do and three where they do not: as numbers into a file, and from the file
into a page. Rules choose the pairs. The texts belong to others and are not copied.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import click

from descscore.errors import DataError, UsageError
from descscore.eval.formatting import markdown_table
from descscore.eval.statistics.proportions import proportion
from descscore.eval.word_kinds import kinds_of
from descscore.eval.words import Explained, WordOptions, WordRow, explain_pairs, occurrences, report
from descscore.explanations.explainer import ExplainOptions
from descscore.explanations.explanation import Explanation
from descscore.scorer import DescScorer
from descscore.tables.rows import PreferencePair
from reproduce.performance_page import put_in

DATA_FILE, PAGE_FILE, PART = "explanation_cases.json", "explanations.md", "cases"

Json: TypeAlias = Mapping[str, Any]

SOURCE = "A brown dog runs over wet sand towards the sea, a stick in its mouth."
"""A description of our own; in the counterfactual every caption takes on its purpose."""

_RANKS = (0.25, 0.5, 0.75)
_LISTED = 12
_LARGEST_Q = 0.05


@dataclass(frozen=True)
class Case:
    """One pair, explained."""

    pair: PreferencePair
    description: Explanation
    caption: Explanation

    @property
    def margin(self) -> float:
        """Cosine of the description minus that of the caption."""
        return self.description.score.cosine - self.caption.score.cosine

    @property
    def gap(self) -> float:
        """Log-odds of the description minus those of the caption."""
        return _log_odds(self.description) - _log_odds(self.caption)

    @property
    def change(self) -> float:
        """What the caption's cosine gains with the purpose of a description."""
        return self.caption.counterfactual.change if self.caption.counterfactual else 0.0

    @property
    def agree(self) -> bool:
        """Whether in both texts the strongest word's part has the sign that leaving it out gives."""
        return all(_strongest(text)[1] * _strongest(text)[2] > 0 for text in (self.description, self.caption))

    @property
    def works(self) -> bool:
        """Whether score, read-out and word parts all are as they should be."""
        return self.description.score.score > 0 and self.margin > 0 and self.gap > 0 and self.agree

    @property
    def contradiction(self) -> float:
        """How far parts and leaving out contradict each other on a strongest word; 0 where they do not."""
        both = [_strongest(text)[1:] for text in (self.description, self.caption)]
        return max(min(abs(a), abs(b)) if a * b < 0 else 0.0 for a, b in both)


def _log_odds(text: Explanation) -> float:
    assert text.purpose is not None  # checked when the cases are made
    return text.purpose.log_odds


def _strongest(text: Explanation) -> tuple[int, float, float]:
    """The word with the largest part of the log-odds: its place, the part, and what leaving it out loses."""
    place = max(range(len(text.words)), key=lambda i: abs(text.words[i].purpose or 0.0))
    word = text.words[place]
    return place, word.purpose or 0.0, word.leave_one_out_purpose or 0.0


def make_cases(scorer: DescScorer, pairs: Sequence[PreferencePair]) -> tuple[list[Case], Explained]:
    """Every pair that can be scored. Raises :class:`UsageError` for a model without a read-out."""
    purpose = scorer.model.purpose
    if purpose is None or purpose.readout is None:
        raise UsageError(f"model {scorer.model.name}: has no purpose read-out to show cases of")
    explained = explain_pairs(scorer, pairs, ExplainOptions(source=SOURCE))
    cases = [Case(p, *both) for p, both in zip(explained.pairs, explained.explanations, strict=True)]
    return cases, explained


_KINDS_OF_FAILURE: dict[str, Callable[[Case], float]] = {
    "The caption scores higher": lambda case: case.margin,
    "The read-out takes the caption for the description": lambda case: case.gap,
    "Parts and leaving out contradict each other": lambda case: -case.contradiction,
}
"""What may go wrong, each with a number that is under 0 where it does; the lower, the worse."""


def choose(cases: Sequence[Case]) -> tuple[list[Case], list[tuple[str, Case]]]:
    """Three pairs at the quartiles of the margin among those that work, and the worst of three kinds.

    Raises :class:`DataError` where there are too few.
    """
    working = sorted((case for case in cases if case.works), key=lambda case: case.margin)
    if len(working) < len(_RANKS):
        raise DataError(f"only {len(working)} of {len(cases)} pairs work; {len(_RANKS)} are needed")
    good = [working[round(rank * (len(working) - 1))] for rank in _RANKS]
    bad: list[tuple[str, Case]] = []
    for kind, worst in _KINDS_OF_FAILURE.items():
        left = [case for case in cases if case not in [c for _, c in bad] and worst(case) < 0]
        if not left:
            raise DataError(f"no case where: {kind.lower()}")
        bad.append((kind, min(left, key=worst)))
    return good, bad


def to_json(cases: Sequence[Case], explained: Explained, signature: str) -> dict[str, Any]:
    """All that the page shows; of the data, only single words and names of files.

    Raises :class:`DataError` where there are too few cases of a kind.
    """
    good, bad = choose(cases)
    return {
        "signature": signature,
        "pairs": len(cases),
        "source": SOURCE,
        "converged": explained.converged,
        "shares": _shares(cases),
        "works": [_case(case) for case in good],
        "fails": [{"kind": kind} | _case(case) for kind, case in bad],
        "marks": _marks(explained),
    }


def _shares(cases: Sequence[Case]) -> list[dict[str, Any]]:
    shares = {
        "the description scores higher than the caption": [c.margin > 0 for c in cases],
        "the read-out puts the description above the caption": [c.gap > 0 for c in cases],
        "the strongest word's part has the sign that leaving it out gives, in both texts": [
            c.agree for c in cases
        ],
        "with the purpose of a description the caption scores higher": [c.change > 0 for c in cases],
    }
    estimates = {name: proportion([float(hit) for hit in hits]) for name, hits in shares.items()}
    return [
        {"name": name, "value": share.value, "low": share.low, "high": share.high}
        for name, share in estimates.items()
    ]


def _case(case: Case) -> dict[str, Any]:
    return {
        "id": case.pair.id,
        "margin": case.margin,
        "gap": case.gap,
        "change": case.change,
        "description": _text(case.description),
        "caption": _text(case.caption),
    }


def _text(text: Explanation) -> dict[str, Any]:
    """strongest: the strongest word for the purpose, by its number and kinds."""
    place, part, left_out = _strongest(text)
    kinds = sorted(kinds_of(text.words)[place])
    return {
        "score": text.score.score,
        "cosine": text.score.cosine,
        "clip_score": text.score.clip_score,
        "log_odds": _log_odds(text),
        "probability": text.score.description_probability,
        "words": len(text.words),
        "strongest": {"number": place + 1, "kinds": kinds, "part": part, "left_out": left_out},
    }


def _marks(explained: Explained) -> dict[str, Any]:
    """Kinds of word, and single words, that move the purpose: means with intervals over images."""
    measured = report(occurrences(explained), WordOptions())[0]
    sure = [row for row in measured.words if row.q is not None and row.q < _LARGEST_Q]
    up = [row for row in sure if (row.mean.value or 0) > 0]
    down = [row for row in reversed(sure) if (row.mean.value or 0) < 0]
    return {
        "kinds": [
            {
                "kind": row.kind,
                "n": row.mean.n,
                "difference": row.difference.value,
                "low": row.difference.low,
                "high": row.difference.high,
            }
            for row in measured.kinds
        ],
        "description": _listed(up),
        "caption": _listed(down),
        "agreement": measured.agreement.value if measured.agreement else None,
    }


def _listed(rows: Sequence[WordRow]) -> list[dict[str, Any]]:
    return [{"word": row.word, "n": row.mean.n, "mean": row.mean.value, "q": row.q} for row in rows[:_LISTED]]


def write(cases: Json, folder: Path) -> None:
    """Write the file, and the part of the page between its marks.

    Raises :class:`DataError`, and writes nothing, where the page lacks its marks.
    """
    page = folder / PAGE_FILE
    text = put_in(page.read_text(encoding="utf-8"), PART, to_markdown(cases))
    (folder / DATA_FILE).write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page.write_text(text, encoding="utf-8")


def to_markdown(cases: Json) -> str:
    """The measured part of the page."""
    parts = [
        f"Model: `{cases['signature']}`. {cases['pairs']} pairs, {2 * cases['pairs']} texts.\n",
        markdown_table(["how often", "share", "95 % interval"], list(_share_rows(cases))),
    ]
    for number, case in enumerate(cases["works"], start=1):
        parts += [f"### Works, {number}: `{case['id']}`\n", _case_table(case)]
    for number, case in enumerate(cases["fails"], start=1):
        parts += [f"### Does not work, {number}: `{case['id']}`\n", f"{case['kind']}.\n", _case_table(case)]
    return "\n".join([*parts, *_mark_lines(cases["marks"])])


def _share_rows(cases: Json) -> Iterator[list[str]]:
    yield ["the parts of a text add up", f"{100 * cases['converged']:.1f} %", ""]
    for row in cases["shares"]:
        between = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
        yield [row["name"], f"{100 * row['value']:.1f} %", between]


def _case_table(case: Json) -> str:
    both = (case["description"], case["caption"])
    rows = [
        ["score", *(f"{text['score']:.3f}" for text in both)],
        ["cosine", *(f"{text['cosine']:+.3f}" for text in both)],
        ["score of the untuned model", *(f"{text['clip_score']:.3f}" for text in both)],
        [
            "log-odds (probability) of being a description",
            *(f"{text['log_odds']:+.2f} ({text['probability']:.2f})" for text in both),
        ],
        ["strongest word for the purpose", *(_strongest_word(text) for text in both)],
        ["with a description's purpose", "", f"cosine changes by {case['change']:+.3f}"],
    ]
    return markdown_table(["what", "description", "caption"], rows)


def _strongest_word(text: Json) -> str:
    """The strongest word by its number and kind, its part, and what leaving it out loses."""
    word = text["strongest"]
    kinds = ", ".join(word["kinds"]) or "another word"
    return (
        f"word {word['number']} of {text['words']} ({kinds}): "
        f"{word['part']:+.2f}, left out {word['left_out']:+.2f}"
    )


def _mark_lines(marks: Json) -> Iterator[str]:
    yield "### Marks of a description and of a caption\n"
    yield "Mean part of a word in the log-odds of being a description, minus that of all other words:\n"
    rows = [
        [row["kind"], str(row["n"]), _signed(row["difference"]), _between(row["low"], row["high"])]
        for row in marks["kinds"]
    ]
    yield markdown_table(["kind of word", "occurrences", "difference", "95 % interval"], rows)
    for name in ("description", "caption"):
        listed = _word_list(marks[name])
        yield f"Single words taken for marks of a {name} (mean part, q < 0.05): {listed}.\n"
    if marks["agreement"] is not None:
        yield f"Correlation of a word's part with what leaving it out loses: r {marks['agreement']:.2f}.\n"


def _word_list(rows: Sequence[Json]) -> str:
    return ", ".join(f"`{row['word']}` {row['mean']:+.2f}" for row in rows) or "none"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:+.2f} to {high:+.2f}"


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--data", required=True, help="Concadia folder, or another data set of pairs.")
@click.option("--split", default="test", show_default=True, help="Split to look at.")
@click.option("--model", default="default", show_default=True, help="Model with a purpose read-out.")
def main(folder: Path, data: str, split: str, model: str) -> None:
    """Write FOLDER/explanation_cases.json, and the part of the page there between its marks."""
    from descscore.tables.open import DataOptions, load_pairs

    scorer = DescScorer.from_pretrained(model, device="cpu")
    # Pairs with equal texts stay in: no description can win there, and that counts.
    pairs = load_pairs(data, DataOptions(keep_equal=True)).split(split)
    cases, explained = make_cases(scorer, pairs)
    write(to_json(cases, explained, scorer.signature), folder)


if __name__ == "__main__":
    main()
