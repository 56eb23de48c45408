"""Where word parts start from: ``python -m reproduce.attribution_starts docs --data DATA/concadia``.

Integrated gradients start from a text without words. It has a filler in place of words
(:data:`descscore.explanations.attribution.FILLER`), and no filler is neutral: the model gives the text
without words a cosine and log-odds too. This explains the same texts from each filler, and measures which
is steadier.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np

from descscore.errors import DataError, UsageError
from descscore.eval.sanity import without_stop
from descscore.eval.statistics.correlation import Array
from descscore.explanations.attribution import FILLER, Filler
from descscore.explanations.explanation import Explanation, WordParts
from descscore.explanations.reasons import ExplainOptions, explain_batch
from descscore.scorer import DescScorer
from descscore.tables.open import DataOptions, load_pairs
from descscore.tables.rows import PreferencePair
from reproduce.pages import Part, folder_argument, render

TEXTS = 50
FILLERS: tuple[Filler, ...] = get_args(Filler)


def measure_starts(scorer: DescScorer, pairs: Sequence[PreferencePair]) -> dict[str, Any]:
    """Both texts of each pair, explained from each filler, with and without a final full stop.

    Raises :class:`UsageError` for a model without a read-out, :class:`DataError` for no pairs.
    """
    if not pairs:
        raise DataError("no pairs to explain")
    if scorer.model.purpose is None or scorer.model.purpose.readout is None:
        raise UsageError(f"model {scorer.model.name}: has no purpose read-out")
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
    odds = [text.purpose.log_odds - text.purpose_convergence.difference for text in plain]  # type: ignore[union-attr]
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
    same = [_strongest(a) == _strongest(b) for a, b in zip(first, second, strict=True)]
    return {
        "correlation": _pearson(one, other),
        "difference": float(np.abs(one - other).mean() / np.abs(one).mean()),
        "same_strongest": float(np.mean(same)),
    }


def _parts(words: Sequence[WordParts]) -> Array:
    """Parts of the log-odds, ``(words,)``."""
    return np.array([word.purpose or 0.0 for word in words])


def _strongest(text: Explanation) -> int:
    return int(np.abs(_parts(text.words)).argmax())


def _pearson(
    one: Sequence[float] | np.ndarray[Any, Any], other: Sequence[float] | np.ndarray[Any, Any]
) -> float:
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
@click.option("--split", default="test", show_default=True, help="Split to explain.")
@click.option("--model", default="default", show_default=True, help="Model to explain.")
@click.option(
    "--texts", type=click.IntRange(2), default=TEXTS, show_default=True, help="Number of texts, two a pair."
)
def main(folder: Path, data: str, split: str, model: str, texts: int) -> None:
    """Write FOLDER/attribution_starts.json, and the part of the page there. The model needs a read-out."""
    pairs = load_pairs(data, DataOptions(keep_equal=True)).split(split)[: texts // 2]
    measured = measure_starts(DescScorer.from_pretrained(model, device="cpu"), pairs)
    STARTS.write(measured, folder)
    click.echo(STARTS.markdown(measured))


if __name__ == "__main__":
    main()
