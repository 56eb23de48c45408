"""What the pages on performance and scaling show of the numbers that were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from descscore.errors import DataError
from descscore.eval.report.page import PERCENT, listing, percent, table
from descscore.eval.report.plots import STYLES, WIDTH, Target, drawing
from reproduce.performance_gpu import (
    billion_row,
    bottleneck,
    elsewhere,
    memory_rows,
    part_rows,
    precision_row,
    told,
)

# Memory and time of growing runs as a plot, and the same in words.


Run: TypeAlias = Mapping[str, Any]
"""A run as :meth:`reproduce.memory.Watched.to_json` gives it."""

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


Json: TypeAlias = Mapping[str, Any]

DATA_FILE, PLOT_FILE = "performance.json", "images/memory.svg"
TIMES_GOAL = {"float32": 4.0, "bf16": 6.0}
SHARE_GOAL = 0.85
_BILLION = 1_000_000_000
_COMMAND = "python -m reproduce.performance"


def put_in(text: str, name: str, made: str) -> str:
    """The page with ``made`` between its lines ``<!-- name -->`` and ``<!-- /name -->``."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = text.partition(start)
    _, mark, after = rest.partition(end)
    if not mark:
        raise DataError(f"the page lacks the lines {start} and {end}")
    return f"{before}{start}\n{made}{end}{after}"


def measured(found: Json) -> str:
    """The part of the page on performance."""
    runs = found["throughput"]
    rows = [row for run in runs for row in _throughput_rows(run)]
    rows += [precision_row(row, found["precision"]) for row in found["precision"]["rows"]]
    rows += memory_rows(found["memory"])
    shown = table(["what", "goal", "measured"], rows)
    parts = table(["each by itself, a second", *(run["precision"] for run in runs)], part_rows(runs))
    picture = f"![{memory_words(found['memory']['runs'])}]({PLOT_FILE})"
    return f"{shown}\n{_about(found)}\n\n{parts}\n{picture}\n"


def billion(found: Json, gpu: Json) -> str:
    """The part of the page on scaling: what a billion pairs take at the rates measured."""
    row_bytes = found["memory"]["runs"][-1]["row_bytes"]
    rows = []
    for run in found["throughput"]:
        figures, cores = run["figures"], found["machines"]["throughput"]["cores"]
        single = 1 / (
            1 / figures["decoding alone, images a second"]
            + 1 / figures["image tower alone, images a second"]
            + 1 / figures["text tower alone, texts a second"]
        )
        for texts, rate in ((run["texts"], figures["end to end, pairs a second"]), (1, single)):
            hours = _BILLION / rate / 3600 * cores
            rows.append([f"{run['precision']}, CPU", str(texts), f"{rate:.1f}", f"{hours:,.0f} core hours"])
    rows.append(billion_row(gpu))
    head = ["ViT-B-32", "texts an image", "pairs a second", "a billion pairs"]
    stored = f"{row_bytes:.1f} bytes a row in Parquet shards, {row_bytes * _BILLION / 1e9:.0f} GB in all"
    return f"{table(head, rows)}\n{bottleneck(gpu)}Results take {stored}, ids of up to six digits included.\n"


def _throughput_rows(run: Json) -> list[list[str]]:
    figures, precision, texts = run["figures"], run["precision"], run["texts"]
    goal, times = TIMES_GOAL[precision], figures["times torchmetrics"]
    share = figures["share of decoding and forward passes added up"]
    return [
        [
            f"{precision}, {texts} texts a photo: times torchmetrics in float32",
            f"≥ {goal:g}",
            f"{times:.2f}{told(times >= goal)}",
        ],
        [
            f"{precision}: share of decoding and forward passes added up",
            f"≥ {100 * SHARE_GOAL:.0f}{PERCENT}",
            f"{percent(share)}{told(share >= SHARE_GOAL)}",
        ],
    ]


def _about(found: Json) -> str:
    run = found["throughput"][0]
    photos = f"{run['photos']} photos ({run['different']} different) with {run['texts']} texts each"
    machine = found["machines"]["throughput"]["machine"]
    about = f"{machine}: {photos}, medians of {run['rounds']} rounds.{elsewhere(found)}"
    return f"{about} Command: `{_COMMAND}`."
