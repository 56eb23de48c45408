"""Cases for the documentation: ``python -m descscore.eval.words.explanation_cases PAGE --data DIR``.

Explains both texts of every pair, and writes how often explanations do what they
should, three pairs where they do and three where they do not. Which pairs is decided
by rule, not by taste; texts are given by numbers only, since they are not ours to copy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from descscore.data.pairs import Pair
from descscore.errors import DataError, UsageError
from descscore.eval.statistics.proportions import proportion
from descscore.eval.words.word_kinds import kinds_of
from descscore.eval.words.words import Explained, WordOptions, explain_pairs, occurrences, report
from descscore.explanations.explainer import ExplainOptions
from descscore.explanations.explanation import Explanation
from descscore.scorer import DescScorer

SOURCE = "A brown dog runs over wet sand towards the sea, a stick in its mouth."
"""The description whose purpose every caption takes on in the counterfactual; ours."""

_MARKS = ("<!-- cases -->", "<!-- /cases -->")
_RANKS = (0.25, 0.5, 0.75)
_LISTED = 12


@dataclass(frozen=True)
class Case:
    """One pair, explained."""

    pair: Pair
    description: Explanation
    caption: Explanation

    @property
    def margin(self) -> float:
        """Cosine of the description less that of the caption."""
        return self.description.score.cosine - self.caption.score.cosine

    @property
    def gap(self) -> float:
        """Log-odds of the description less those of the caption."""
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


def _log_odds(found: Explanation) -> float:
    assert found.purpose is not None  # checked when the cases are made
    return found.purpose.log_odds


def _strongest(found: Explanation) -> tuple[int, float, float]:
    """The word with the largest part of the log-odds: its place, the part, and what leaving it out loses."""
    place = max(range(len(found.words)), key=lambda i: abs(found.words[i].purpose or 0.0))
    word = found.words[place]
    return place, word.purpose or 0.0, word.leave_one_out_purpose or 0.0


def make_cases(scorer: DescScorer, pairs: Sequence[Pair]) -> tuple[list[Case], Explained]:
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
"""What may go wrong, and a number under 0 where it does, the lower the worse."""


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


def to_markdown(cases: Sequence[Case], explained: Explained, signature: str) -> str:
    """The measured part of the page."""
    good, bad = choose(cases)
    lines = [
        f"Model: `{signature}`. {len(cases)} pairs, {2 * len(cases)} texts.",
        "",
        *_shares(cases, explained),
    ]
    for number, case in enumerate(good, start=1):
        lines += ["", f"### Works, {number}: `{case.pair.id}`", "", *_table(case)]
    for number, (kind, case) in enumerate(bad, start=1):
        lines += ["", f"### Does not work, {number}: `{case.pair.id}`", "", f"{kind}.", "", *_table(case)]
    return "\n".join([*lines, "", *_marks(explained)])


def _marks(explained: Explained) -> Iterator[str]:
    """Kinds of word, and single words, that move the purpose: means with intervals over images."""
    found = report(occurrences(explained), WordOptions())[0]
    yield "### Marks of a description and of a caption"
    yield ""
    yield "Mean part of a word in the log-odds of being a description, less that of all other words:"
    yield ""
    yield "| kind of word | occurrences | difference | 95 % interval |"
    yield "|---|---|---|---|"
    for row in found.kinds:
        gap = row.difference
        between = "" if gap.low is None else f"{gap.low:+.2f} to {gap.high or 0:+.2f}"
        yield f"| {row.kind} | {row.mean.n} | {gap.value or 0:+.2f} | {between} |"
    up = [row for row in found.words if row.q is not None and row.q < 0.05 and (row.mean.value or 0) > 0]
    down = [row for row in reversed(found.words) if row.q is not None and row.q < 0.05]
    yield ""
    for name, rows in (("description", up), ("caption", [r for r in down if (r.mean.value or 0) < 0])):
        listed = ", ".join(f"`{row.word}` {row.mean.value:+.2f}" for row in rows[:_LISTED]) or "none"
        yield f"Single words taken for marks of a {name} (mean part, q < 0.05): {listed}."
        yield ""
    agreement = found.agreement
    if agreement and agreement.value is not None:
        yield f"Correlation of a word's part with what leaving it out loses: r {agreement.value:.2f}."


def _shares(cases: Sequence[Case], explained: Explained) -> Iterator[str]:
    yield "| how often | share | 95 % interval |"
    yield "|---|---|---|"
    yield f"| the parts of a text add up | {100 * explained.converged:.1f} % | |"
    for name, hits in (
        ("the description scores higher than the caption", [c.margin > 0 for c in cases]),
        ("the read-out puts the description above the caption", [c.gap > 0 for c in cases]),
        (
            "the strongest word's part has the sign that leaving it out gives, in both texts",
            [c.agree for c in cases],
        ),
        ("with the purpose of a description the caption scores higher", [c.change > 0 for c in cases]),
    ):
        found = proportion([float(hit) for hit in hits])
        between = f"{100 * (found.low or 0):.1f} to {100 * (found.high or 0):.1f}"
        yield f"| {name} | {100 * (found.value or 0):.1f} % | {between} |"


def _table(case: Case) -> Iterator[str]:
    yield "| | description | caption |"
    yield "|---|---|---|"
    both = (case.description, case.caption)
    for name, cells in (
        ("score", [f"{text.score.score:.3f}" for text in both]),
        ("cosine", [f"{text.score.cosine:+.3f}" for text in both]),
        ("base's score", [f"{text.score.clip_score:.3f}" for text in both]),
        ("log-odds (probability) of being a description", [_place(text) for text in both]),
        ("strongest word for the purpose", [_word(text) for text in both]),
        ("with a description's purpose", ["", f"cosine changes by {case.change:+.3f}"]),
    ):
        yield f"| {name} | {' | '.join(cells)} |"


def _place(found: Explanation) -> str:
    return f"{_log_odds(found):+.2f} ({found.score.description_probability or 0.0:.2f})"


def _word(found: Explanation) -> str:
    """The strongest word by its number and kind, its part, and what leaving it out loses."""
    place, part, left_out = _strongest(found)
    kinds = ", ".join(sorted(kinds_of(found.words)[place])) or "another word"
    return f"word {place + 1} of {len(found.words)} ({kinds}): {part:+.2f}, left out {left_out:+.2f}"


def insert(page: str, measured: str) -> str:
    """``page`` with what stands between its two marks replaced; :class:`DataError` where they are missing."""
    pattern = re.compile(f"({re.escape(_MARKS[0])}\n).*?({re.escape(_MARKS[1])})", re.DOTALL)
    if not pattern.search(page):
        raise DataError(f"the page lacks the marks {_MARKS[0]} and {_MARKS[1]}")
    return pattern.sub(lambda found: f"{found[1]}{measured}\n{found[2]}", page)


@click.command()
@click.argument("page", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--data", required=True, help="Concadia folder, or another data set of pairs.")
@click.option("--split", default="test", show_default=True, help="Split to look at.")
@click.option("--model", default="default", show_default=True, help="Model with a purpose read-out.")
def main(page: Path, data: str, split: str, model: str) -> None:
    """Write the measured part of PAGE, between its marks."""
    from descscore.data.datasets import DataOptions, load_pairs

    scorer = DescScorer.from_pretrained(model, device="cpu")
    # Pairs with equal texts stay in: no description can win there, and that counts.
    pairs = load_pairs(data, DataOptions(keep_equal=True)).split(split)
    cases, explained = make_cases(scorer, pairs)
    text = insert(page.read_text(encoding="utf-8"), to_markdown(cases, explained, scorer.signature))
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
