"""What the page on explanations shows: ``python -m reproduce.explanations docs --data DATA/concadia``.

Both texts of every pair are explained. The page shows how often explanations do what they should, three pairs
where they do, and three where they do not. Rules choose the pairs. The texts belong to others and are not
copied.

Integrated gradients start from a text without words. It has a filler in place of words
(:data:`descscore.explanations.attribution.FILLER`), and no filler is neutral: the model gives the text
without words a cosine and log-odds too. So some texts are explained from each filler: which one is steadier?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np

from descscore.errors import DataError, UsageError
from descscore.eval.sanity import without_stop
from descscore.eval.statistics.bootstrap import Estimate
from descscore.eval.statistics.correlation import Array, Numbers
from descscore.eval.statistics.proportions import proportion
from descscore.eval.word_kinds import kinds_of
from descscore.eval.words import Explained, WordOptions, WordRow, explain_pairs, occurrences, report
from descscore.explanations.attribution import FILLER, Filler
from descscore.explanations.explanation import Explanation, WordParts
from descscore.explanations.reasons import ExplainOptions, explain_batch
from descscore.scorer import DescScorer
from descscore.tables.open import DataOptions, load_pairs
from descscore.tables.rows import PreferencePair
from reproduce.pages import Part, folder_argument, render

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
        """Whether in both texts the strongest word's part has the same sign as the loss without the word."""
        return all(_strongest(text)[1] * _strongest(text)[2] > 0 for text in (self.description, self.caption))

    @property
    def works(self) -> bool:
        """Whether score, read-out and word parts all are as they should be."""
        return self.description.score.score > 0 and self.margin > 0 and self.gap > 0 and self.agree

    @property
    def contradiction(self) -> float:
        """How far a strongest word's part and the loss without it contradict each other; 0 if they agree."""
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


def _check_readout(scorer: DescScorer) -> None:
    if scorer.model.purpose is None or scorer.model.purpose.readout is None:
        raise UsageError(f"model {scorer.model.name}: has no purpose read-out")


def make_cases(scorer: DescScorer, pairs: Sequence[PreferencePair]) -> tuple[list[Case], Explained]:
    """Every pair that can be scored. Raises :class:`UsageError` for a model without a read-out."""
    _check_readout(scorer)
    explained = explain_pairs(scorer, pairs, ExplainOptions(source=SOURCE))
    cases = [Case(p, *both) for p, both in zip(explained.pairs, explained.explanations, strict=True)]
    return cases, explained


_KINDS_OF_FAILURE: dict[str, Callable[[Case], float]] = {
    "The caption scores higher": lambda case: case.margin,
    "The read-out takes the caption for the description": lambda case: case.gap,
    "Parts and leaving out contradict each other": lambda case: -case.contradiction,
}
"""Kinds of failure, each with a number that is below 0 in a case of it; lower is worse."""


def choose(cases: Sequence[Case]) -> tuple[list[Case], list[tuple[str, Case]]]:
    """Three pairs at the quartiles of the margin among those that work, and the worst of three kinds.

    Raises :class:`DataError` if there are too few.
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

    Raises :class:`DataError` if there are too few cases of a kind.
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
    return [{"name": name} | _interval("value", share) for name, share in estimates.items()]


def _interval(name: str, estimate: Estimate) -> dict[str, Any]:
    return {name: estimate.value, "low": estimate.low, "high": estimate.high}


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
            {"kind": row.kind, "n": row.mean.n} | _interval("difference", row.difference)
            for row in measured.kinds
        ],
        "description": _listed(up),
        "caption": _listed(down),
        "agreement": measured.agreement.value if measured.agreement else None,
    }


def _listed(rows: Sequence[WordRow]) -> list[dict[str, Any]]:
    return [{"word": row.word, "n": row.mean.n, "mean": row.mean.value, "q": row.q} for row in rows[:_LISTED]]


CASES = Part(
    "explanation_cases.json", "explanations.md", "cases", lambda cases: render("explanation_cases", **cases)
)


# The text without words


TEXTS = 50
FILLERS: tuple[Filler, ...] = get_args(Filler)


def measure_starts(scorer: DescScorer, pairs: Sequence[PreferencePair]) -> dict[str, Any]:
    """Both texts of each pair, explained from each filler, with and without a final full stop.

    Raises :class:`UsageError` for a model without a read-out, :class:`DataError` for no pairs.
    """
    if not pairs:
        raise DataError("no pairs to explain")
    _check_readout(scorer)
    texts = [without_stop(text) for pair in pairs for text in (pair.description, pair.caption)]
    images = [pair.image.read() for pair in pairs for _ in range(2)]
    plain, stopped = (
        {filler: explain_batch(images, some, scorer, ExplainOptions(filler=filler)) for filler in FILLERS}
        for some in (texts, [f"{text}." for text in texts])
    )
    return {
        "signature": scorer.signature,
        "texts": len(texts),
        "used": FILLER,
        "starts": [_start(filler, plain[filler], stopped[filler]) for filler in FILLERS],
        "between": _between(plain),
    }


def _start(filler: str, plain: Sequence[Explanation], stopped: Sequence[Explanation]) -> dict[str, Any]:
    """One filler: the value of its text without words, and how steady the words' parts are."""
    cosines = [text.score.cosine - text.convergence.difference for text in plain]
    odds = [_log_odds(text) - text.purpose_convergence.difference for text in plain]  # type: ignore[union-attr]
    words = [word for text in plain for word in text.words if word.tokens]
    parts, left_out = _parts(words), [word.leave_one_out_purpose or 0.0 for word in words]
    pairs = [
        (one, other)
        for text, twin in zip(plain, stopped, strict=True)
        for one, other in zip(text.words, twin.words, strict=False)
    ]
    before, after = (_parts(side) for side in zip(*pairs, strict=True))
    return {
        "filler": filler,
        "cosine": {"mean": float(np.mean(cosines)), "sd": float(np.std(cosines, ddof=1))},
        "log_odds": {"mean": float(np.mean(odds)), "sd": float(np.std(odds, ddof=1))},
        "leaving_out": _pearson(parts, left_out),
        "full_stop": float(np.abs(after - before).mean() / np.abs(before).mean()),
        "converged": float(np.mean([text.purpose_convergence.converged for text in plain])),  # type: ignore[union-attr]
    }


def _between(plain: dict[Filler, list[Explanation]]) -> dict[str, float]:
    """How far two fillers agree, over words and over texts."""
    first, second = (plain[filler] for filler in FILLERS)
    one, other = (_parts([word for text in texts for word in text.words]) for texts in (first, second))
    same = [_strongest(a)[0] == _strongest(b)[0] for a, b in zip(first, second, strict=True)]
    return {
        "correlation": _pearson(one, other),
        "difference": float(np.abs(one - other).mean() / np.abs(one).mean()),
        "same_strongest": float(np.mean(same)),
    }


def _parts(words: Sequence[WordParts]) -> Array:
    """Parts of the log-odds, ``(words,)``."""
    return np.array([word.purpose or 0.0 for word in words])


def _pearson(one: Numbers, other: Numbers) -> float:
    return float(np.corrcoef(one, other)[0, 1])


STARTS = Part(
    "attribution_starts.json",
    "explanations.md",
    "starts",
    lambda measured: render("attribution_starts", **measured),
)


@click.command()
@folder_argument
@click.option("--data", required=True, help="Concadia folder, or another data set of pairs.")
@click.option("--model", default="default", show_default=True, help="Model to explain.")
def main(folder: Path, data: str, model: str) -> None:
    """Write explanation_cases.json and attribution_starts.json into FOLDER, and the page's parts from them.

    The model needs a read-out.
    """
    # Pairs with equal texts stay in: no description can win there, and that counts.
    pairs = load_pairs(data, DataOptions(keep_equal=True)).split("test")
    scorer = DescScorer.from_pretrained(model, device="cpu")
    cases, explained = make_cases(scorer, pairs)
    CASES.write(to_json(cases, explained, scorer.signature), folder)
    STARTS.write(measure_starts(scorer, pairs[: TEXTS // 2]), folder)


if __name__ == "__main__":
    main()
