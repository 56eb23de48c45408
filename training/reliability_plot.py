"""The reliability plot of ``docs/results.md``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw_reliability(curves: Sequence[tuple[str, dict[str, Any]]], path: Path) -> None:
    """One line a data set: share that are descriptions over the probability said, with intervals.

    curves: name and :class:`descscore.eval.description_probability.ProbabilityRow` as a
    dictionary. Markers differ, so that colour is not the only carrier. Raises
    :class:`ImportError` where matplotlib is missing.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "descscore", "svg.fonttype": "path"}):
        figure = Figure(figsize=(5, 4.5), layout="constrained")
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], "--", color="0.4", label="what is said is true")
        for (name, row), style in zip(curves, ("o-", "s-", "^-"), strict=False):
            bins = [found for found in row["bins"] if found["low"] is not None]
            said, seen = [b["predicted"] for b in bins], [b["observed"] for b in bins]
            below = [b["observed"] - b["low"] for b in bins]
            above = [b["high"] - b["observed"] for b in bins]
            axis.errorbar(said, seen, [below, above], fmt=style, capsize=3, label=name)
        axis.set_xlabel("probability said")
        axis.set_ylabel("share that are descriptions")
        axis.legend()
        figure.savefig(path, metadata={"Date": None})
