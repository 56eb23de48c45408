"""Memory and time of growing runs as a plot, and the same in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from descscore.eval.report.number_format import listing
from descscore.eval.report.plots import STYLES, WIDTH, Target, drawing

Run: TypeAlias = Mapping[str, Any]
"""A run as :meth:`descscore.eval.speed.memory.Watched.to_json` gives it."""

_MEGABYTE = 1e6


def memory_plot(runs: Sequence[Run], target: Target) -> None:
    """Resident megabytes, and milliseconds a pair, by pairs done (on a logarithmic axis); a line a run."""
    with drawing(WIDTH, 4.6, target) as figure:
        above, below = figure.subplots(2, 1, sharex=True)
        for run, style in zip(runs, STYLES, strict=False):
            look = {"color": style.colour, "linestyle": style.line, "label": f"{run['pairs']:,} pairs"}
            done, held = _memory(run)
            above.plot(done, held, **look)
            done, took = _times(run)
            below.plot(done, took, **look)
        below.set(xscale="log", xlabel="pairs done", ylabel="milliseconds a pair")
        above.set_ylabel("resident megabytes")
        for axes in (above, below):
            axes.set_ylim(bottom=0)
            axes.grid(color="#DDDDDD", linewidth=0.6)
        figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)


def memory_words(runs: Sequence[Run]) -> str:
    """What the plot shows, for those who cannot see it."""
    peaks = listing([f"{run['peak'] / _MEGABYTE:,.0f}" for run in runs])
    times = listing([f"{1000 * run['seconds'] / run['pairs']:.1f}" for run in runs])
    sizes = listing([f"{run['pairs']:,}" for run in runs])
    return (
        f"Two line plots over pairs done, a line for each run of {sizes} pairs. Above, resident megabytes: "
        f"at most {peaks}. Below, milliseconds a pair: over the whole run {times}."
    )


def _memory(run: Run) -> tuple[Any, Any]:
    """Pairs done, at least one, and megabytes: ``(samples,)`` each."""
    times, sizes = np.array(run["samples"], dtype=float).T
    ends = np.array(run["shards"])
    rows = np.linspace(0, run["pairs"], len(ends) + 1)
    done = np.interp(times, [ends[-1] - run["seconds"], *ends], rows)
    return done.clip(1), sizes / _MEGABYTE


def _times(run: Run) -> tuple[Any, Any]:
    """Pairs done and milliseconds a pair at the end of each shard but the first: ``(shards - 1,)`` each."""
    ends = np.array(run["shards"])
    rows = run["pairs"] / len(ends)
    return rows * np.arange(2, len(ends) + 1), 1000 * np.diff(ends) / rows
