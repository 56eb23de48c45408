"""Scores as a screen for people: tables as wide as the terminal, and what their numbers mean.

In a pipe a text stays on its line, whole, and there are no escape codes. A program should read ``--json``.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate
from wcwidth import wcswidth

from descscore.errors import shown
from descscore.options import echo
from descscore.records import BANDS, Comparison, Score, share

_LEAST_TEXT = 20
"""Narrowest column of texts, in characters."""

_GAP = 2

_NUMBERS = ("score", "is description", "cosine", "clip_score", "tokens", "windows", "contextual", "reference")
"""Columns that are aligned to the right."""

_VERBOSE = {
    "cosine": "-1 to 1; compare and rank with this",
    "clip_score": "score under the model before it was tuned",
    "tokens": "length of the text in the model's tokens, with start and end",
}
"""What the columns of every verbose table mean."""

_PREFERRED = {
    "description": "The description fits the picture better",
    "caption": "The caption fits the picture better",
    "tie": "Both fit the picture equally well",
}


@dataclass(frozen=True)
class Line:
    """A text with its score."""

    text: str
    score: Score
    kind: str = ""
    """``description`` or ``caption`` in a comparison."""


def show_scores(image: str, lines: Sequence[Line], verbose: bool = False) -> None:
    """Print the scores of texts for one image. verbose: also the cosine and other numbers."""
    echo(image)
    echo(score_table(lines, verbose, text_width()))
    echo("")


def show_comparison(image: str, result: Comparison, texts: tuple[str, str], verbose: bool = False) -> None:
    """Print a comparison of the two ``texts``, and which one is preferred."""
    lines = [
        Line(texts[0], result.description, "description"),
        Line(texts[1], result.caption, "caption"),
    ]
    show_scores(image, lines, verbose)
    margin = f"cosine margin {result.margin:+.4f}"
    if result.contextual_margin is not None:
        margin += f", contextual margin {result.contextual_margin:+.4f}"
    preferred, probability = "description", result.probability
    if result.preferred == "caption":
        preferred, probability = "caption", 1 - probability
    _echo_wrapped(f"{_PREFERRED[result.preferred]} ({margin}).")
    _echo_wrapped(f"The model prefers the {preferred} with probability {probability:.3f}.")
    echo("")


def show_meaning(scores: Sequence[Score], verbose: bool = False) -> None:
    """Print what the columns and the bands of ``scores`` mean, and the signature, dim."""
    for line in meaning(scores, verbose):
        _echo_wrapped(line, dim=True)
    for signature in dict.fromkeys(score.signature for score in scores):
        echo(signature, dim=True)


def _echo_wrapped(line: str, dim: bool = False) -> None:
    for part in wrapped(line, text_width()):
        echo(part, dim=dim)


def text_width() -> int | None:
    """Columns of the terminal; None where the output is not shown on one."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def score_table(lines: Sequence[Line], verbose: bool = False, width: int | None = None) -> str:
    """A table with a line for each text. width: columns of the terminal; None keeps texts on their lines."""
    rows = [_cells(line, verbose) for line in lines]
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    cells = [names, *([row[name] for name in names] for row in rows)]
    if width is None:
        return "\n".join(_aligned(cells))
    numbers = sum(max(wcswidth(row[column]) for row in cells) + _GAP for column in range(len(names) - 1))
    if numbers + _LEAST_TEXT <= width:
        return "\n".join(_aligned(cells, width - numbers))
    if numbers - _GAP <= width:
        head, *records = ([record] for record in _aligned([row[:-1] for row in cells]))
    else:  # not even the numbers fit on a line
        head = []
        records = [_wrapped(_named(names, row), width, "") for row in cells[1:]]
    texts = (_wrapped(f"    {row[-1]}", width, "") for row in cells[1:])
    return "\n".join(
        [*head, *(line for pair in zip(records, texts, strict=True) for part in pair for line in part)]
    )


def _aligned(cells: Sequence[Sequence[str]], text: int | None = None) -> list[str]:
    """The lines of a table. cells: the names of the columns, then the rows. text: widest last column."""
    sides = ["right" if name in _NUMBERS else "left" for name in cells[0]]
    widths = [*[None] * (len(cells[0]) - 1), text]
    table = tabulate(cells, tablefmt="plain", disable_numparse=True, colalign=sides, maxcolwidths=widths)
    return [line.rstrip() for line in table.splitlines()]


def _named(names: Sequence[str], row: Sequence[str]) -> str:
    """All of a row but its text, as words: ``score 0.97, fit good 83 %``."""
    return ", ".join(f"{name} {cell}".strip() for name, cell in zip(names[:-1], row, strict=False) if cell)


def wrapped(line: str, width: int | None) -> list[str]:
    """A line in parts of at most ``width`` columns, the later ones indented. None: it stays one line."""
    return [line] if width is None else _wrapped(line, width, "    ")


def _parts(text: str, width: int) -> list[str]:
    """A text in lines of at most ``width`` columns; some letters, as Chinese ones, take two."""
    return _aligned([[text]], width)


def first_part(text: str, width: int) -> str:
    """The beginning of a text that fits into so many columns."""
    return _parts(text, width)[0]


def _wrapped(text: str, width: int, others: str) -> list[str]:
    """Lines of at most ``width`` columns, indented as the text. others: what stands before later lines."""
    width, lead = max(width, _LEAST_TEXT), " " * (len(text) - len(text.lstrip()))
    first, *more = _parts(text.strip(), width - len(others + lead)) or [""]
    return [lead + first, *(others + lead + line for line in more)]


def one_line(text: str) -> str:
    """``text`` on one line, with its control characters shown."""
    return shown(" ".join(text.split()))


def band_cell(score: Score) -> str:
    """``good 83 %``; empty for a model without comparison descriptions."""
    if score.band is None or score.percentile is None:
        return ""
    return f"{score.band.name} {share(score.percentile)}"


def _cells(line: Line, verbose: bool) -> dict[str, str]:
    """Every column of a line; empty cells of all lines make no column."""
    score, probability = line.score, line.score.description_probability
    cells = {
        "": line.kind,
        "score": f"{score.score:.2f}",
        "fit": band_cell(score),
        "is description": "" if probability is None else share(100 * probability),
    }
    if verbose:
        cells |= {
            "cosine": f"{score.cosine:+.4f}",
            "clip_score": f"{score.clip_score:.4f}",
            "tokens": str(score.tokens),
            "windows": str(score.windows) if score.windows > 1 else "",
        }
    cells |= {
        "contextual": _number(score.contextual_score, "+.4f"),
        "reference": _number(score.reference_score, ".2f"),
        "note": _note(score),
        "text": one_line(line.text),
    }
    return cells


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _note(score: Score) -> str:
    """What of the input the model did not read."""
    cut = {
        "text": score.truncated,
        "context": score.context_truncated,
        "reference": score.references_truncated,
    }
    parts = [name for name, is_cut in cut.items() if is_cut]
    return f"{' and '.join(parts)} cut" if parts else ""


def meaning(scores: Sequence[Score], verbose: bool = False) -> list[str]:
    """What the columns that a table of ``scores`` has mean, a line each."""
    columns = {
        "score": "how well the text fits the picture, 0 to 2.5; 2.5 x cosine, or 0 for a cosine below 0"
    }
    if any(score.percentile is not None for score in scores):
        columns["fit"] = "share of comparison descriptions that fit their pictures worse"
    bands = [score.band for score in scores]
    columns |= {f"  {band.name}": band.meaning for band in BANDS if band in bands}
    if any(score.description_probability is not None for score in scores):
        columns["is description"] = "probability that the text is a description, whatever the picture"
    if verbose:
        columns |= _VERBOSE
    if verbose and any(score.windows > 1 for score in scores):
        columns["windows"] = "parts in which the text was encoded"
    if any(score.contextual_score is not None for score in scores):
        columns["contextual"] = (
            "how well the text fits picture and context; no fixed range; compare only with the same context"
        )
    if any(score.reference_score is not None for score in scores):
        columns["reference"] = "0 to 1.43, score and likeness to a good description"
    if any(map(_note, scores)):
        columns["note"] = "what the model did not read to its end"
    return [f"{name}: {text}" for name, text in columns.items()]
