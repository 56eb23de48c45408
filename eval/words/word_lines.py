"""What was found of words, as lines of text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from descscore.eval.statistics.bootstrap import Estimate
from descscore.eval.words.words import MeasureReport, WordRow


def lines_of(found: MeasureReport, shown: int) -> list[str]:
    """One measure as lines of text: kinds, norms, and up to ``shown`` words at either end."""
    unit = "log-odds of being a description" if found.measure == "purpose" else "cosine"
    lines = [f"{found.measure}: mean part of a word, in {unit}, with 95 % intervals over images", ""]
    lines += [f"{'kind of word':<30} {'n':>6}  {'mean':<28}  {'less all other words':<28}"]
    lines += [
        f"{row.kind:<30} {row.mean.n:>6}  {_shown(row.mean):<28}  {_shown(row.difference):<28}"
        for row in found.kinds
    ]
    for title, rows in _ends(found.words, shown):
        lines += ["", f"{title:<30} {'n':>6} {'in descr.':>9}  {'mean':<28} {'q':>7}"]
        lines += [_word_line(row) for row in rows] or ["none"]
    for norm in found.norms:
        r = norm.correlation
        lines += [
            "",
            f"{norm.norm}: r {_shown(r)} over {r.n} words, {100 * norm.covered:.0f} % of occurrences",
        ]
        lines += [f"  ({r.reason})"] if r.reason else []
    if found.agreement is not None:
        lines += ["", f"agreement with leaving the word out: r {_shown(found.agreement)}"]
    return lines


def _ends(rows: Sequence[WordRow], shown: int) -> list[tuple[str, list[WordRow]]]:
    """Words whose interval lies above 0, highest first, and those below, lowest first."""
    up = [row for row in rows if row.mean.low is not None and row.mean.low > 0]
    down = [row for row in reversed(rows) if row.mean.high is not None and row.mean.high < 0]
    return [("raise it", up[:shown]), ("lower it", down[:shown])]


def _word_line(row: WordRow) -> str:
    q = "-" if row.q is None else f"{row.q:.3f}"
    return f"{row.word[:30]:<30} {row.mean.n:>6} {row.in_descriptions:>9}  {_shown(row.mean):<28} {q:>7}"


def _shown(found: Estimate) -> str:
    if found.value is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{found.value:+.4f}"
    return f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
