"""An explanation as lines of text for eye and ear: numbers with plus or minus, no frames, no colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tabulate import tabulate
from tqdm import tqdm
from wcwidth import wcswidth

from descscore.explanations.attribution import Progress
from descscore.explanations.explanation import (
    Convergence,
    Counterfactual,
    Explanation,
    TextPurpose,
    WordParts,
    strongest_words,
)
from descscore.explanations.occlusion import OcclusionMap
from descscore.screen import Line, first_part, one_line, score_table, wrapped

_WORD = 20
"""Width in characters of the longest word shown whole."""

_GAP = 2
"""Blanks between two columns."""

_BRIEF = ("value", "purpose")
"""The columns of a table of words that is not verbose."""


def to_text(explanation: Explanation, verbose: bool = False, width: int | None = None) -> str:
    """The whole explanation, with one line per word in the order of the text; without the signature.

    Args:
        explanation: What to show.
        verbose: Whether to show also what a text loses without each word, and what flows through the
            purpose.
        width: Columns of the terminal; None to keep the text on one line.
    """
    blocks = [[score_table([Line(explanation.text, explanation.score)], verbose, width)]]
    if explanation.purpose and verbose:
        blocks.append(wrapped(f"purpose: {purpose_sentence(explanation.purpose)}", width))
    blocks.append(_words(explanation.words, verbose, width))
    blocks.append(_fitting(_sums(explanation, verbose), width))
    if explanation.counterfactual:
        blocks.append(_fitting(_counterfactual(explanation.counterfactual), width))
    if explanation.occlusion:
        blocks.append(_map(explanation.occlusion, width))
    return "\n\n".join("\n".join(block) for block in blocks)


def _fitting(lines: Sequence[str], width: int | None) -> list[str]:
    """The lines, the longer ones in several."""
    return [part for line in lines for part in wrapped(line, width)]


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on standard error, if that is a terminal and the work takes over a second."""
    with tqdm(total=0, unit=" runs", delay=1, disable=None, leave=False) as bar:

        def progress(stage: str, rows: int, total: int) -> None:
            if bar.n >= (bar.total or 0):
                # Not reset(): it draws at once and restarts the clock of the delay.
                bar.n, bar.last_print_n, bar.total = 0, 0, total
                bar.set_description(stage, refresh=False)
            bar.update(rows)

        yield progress


def strongest(words: Sequence[WordParts], key: str = "value") -> tuple[str, str]:
    """The words that raise ``key`` most, and those that lower it most, each with its number."""
    up, down = (
        ", ".join(f"{word.text} ({getattr(word, key):+.3f})" for word in part)
        for part in strongest_words(words, key)
    )
    return up, down


def convergence_sentence(name: str, convergence: Convergence) -> str:
    """Whether the parts add up, in a sentence."""
    verdict = "add up" if convergence.converged else "DO NOT add up (not converged)"
    return (
        f"{name}: the words' parts {verdict}: difference from a text without words "
        f"{convergence.difference:+.4f}, missed by {convergence.delta:+.1e}, {convergence.steps} steps."
    )


def purpose_sentence(purpose: TextPurpose) -> str:
    """What the read-out says of the text."""
    return f"probability {purpose.probability:.3f} of being a description (log-odds {purpose.log_odds:+.2f})"


@dataclass(frozen=True)
class Column:
    """A column of the table of words."""

    key: str
    """The field of :class:`descscore.explanations.explanation.WordParts`."""
    name: str
    short_name: str
    form: str
    """Format of the numbers."""
    meaning: str
    """What the numbers are, for the legend."""

    def show(self, word: WordParts) -> str:
        """The word's number."""
        return format(getattr(word, self.key), self.form)


_COLUMNS = (
    Column("value", "Cosine", "cosine", "+.4f", "the word's part of the cosine"),
    Column(
        "leave_one_out",
        "Cosine, word left out",
        "cos. lost",
        "+.4f",
        "what the cosine loses without the word",
    ),
    Column(
        "through",
        "Through purpose",
        "through",
        "+.4f",
        "what of this part flows through the purpose; may have the other sign",
    ),
    Column("around", "Around purpose", "around", "+.4f", "the rest of cosine"),
    Column("purpose", "Purpose", "purpose", "+.3f", "the word's part of the log-odds of being a description"),
    Column(
        "leave_one_out_purpose",
        "Purpose, word left out",
        "purp. lost",
        "+.3f",
        "what these log-odds lose without the word",
    ),
)


def columns_of(words: Sequence[WordParts]) -> list[Column]:
    """The columns for which the words have numbers."""
    return [c for c in _COLUMNS if any(getattr(word, c.key) is not None for word in words)]


def _words(words: Sequence[WordParts], verbose: bool, width: int | None) -> list[str]:
    # "around" is the rest of "cosine", so it would say nothing that the other columns do not.
    columns = [c for c in columns_of(words) if c.key != "around" and (verbose or c.key in _BRIEF)]
    rows = []
    for word in words:
        name, numbers = one_line(word.text), ["(not seen by the model)", *[""] * (len(columns) - 1)]
        if word.tokens:
            numbers = [column.show(word) for column in columns]
        short = name if wcswidth(name) <= _WORD else f"{first_part(name, _WORD - 3)}..."
        rows.append([short, *numbers])
    legend = [f"  {column.short_name}: {column.meaning}" for column in columns]
    return [
        *_table(["word", *(column.short_name for column in columns)], rows, width),
        *_fitting(legend, width),
    ]


def _sums(explanation: Explanation, verbose: bool) -> list[str]:
    lines = []
    for key, name in (("value", "cosine"), *([("purpose", "purpose")] if explanation.purpose else [])):
        up, down = strongest(explanation.words, key)
        raised = f"raised most by {up}" if up else "raised by no word"
        lowered = f"lowered most by {down}" if down else "lowered by no word"
        lines.append(f"{name}: {raised}; {lowered}")
    for name, path in (("cosine", explanation.convergence), ("purpose", explanation.purpose_convergence)):
        if path and (verbose or not path.converged):
            lines.append(convergence_sentence(name, path))
    return [one_line(line) for line in lines]


def _counterfactual(other: Counterfactual) -> list[str]:
    probability = "" if other.source_probability is None else f" (probability {other.source_probability:.3f})"
    return [
        f"with the purpose of: {one_line(other.source)}{probability}",
        f"it would score {other.score:.4f}, cosine {other.cosine:+.4f} (change {other.change:+.4f})",
    ]


def _map(where: OcclusionMap, width: int | None) -> list[str]:
    head = ["", *(f"col {c + 1}" for c in range(len(where.values[0])))]
    rows = [[f"row {r + 1}", *(f"{v:+.4f}" for v in row)] for r, row in enumerate(where.values)]
    title = "cosine lost when a part of the image is covered, top to bottom, left to right:"
    return [*wrapped(title, width), *_table(head, rows, width), *wrapped(where.note, width)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """A table with aligned columns, the first one to the left, all others to the right.

    If it is wider than the terminal, its columns follow in several tables, each with the first column.
    """
    cells = [head, *rows]
    sizes = [max(wcswidth(row[column]) for row in cells) for column in range(len(head))]
    parts: list[list[int]] = [[]]
    for column in range(1, len(head)):
        taken = sizes[0] + sum(_GAP + sizes[other] for other in (*parts[-1], column))
        if width is not None and parts[-1] and taken > width:
            parts.append([])
        parts[-1].append(column)
    lines = []
    for part in parts:
        some = [[row[0], *(row[column] for column in part)] for row in cells]
        sides = ["left", *["right"] * len(part)]
        text = tabulate(some, tablefmt="plain", disable_numparse=True, colalign=sides)
        lines += ["", *(line.rstrip() for line in text.splitlines())]
    return lines[1:]
