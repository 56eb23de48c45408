"""What the pages on performance and scaling show of the numbers that were measured.

The rows that a CPU and a GPU share come first. A GPU's rows say so where nothing was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from descscore.errors import DataError
from descscore.eval.formatting import PERCENT, listing, markdown_table, percent
from descscore.eval.precision import MEAN_GOAL, RANK_GOAL
from descscore.eval.report.plots import STYLES, WIDTH, Target, drawing

Json: TypeAlias = Mapping[str, Any]
DATA_FILE, GPU_DATA_FILE = "performance.json", "performance_gpu.json"
PLOT_FILE = "images/memory.svg"
TIMES_GOAL = {"float32": 4.0, "bf16": 6.0}
SHARE_GOAL = 0.85
_BILLION = 1_000_000_000
_COMMAND = "python -m reproduce.performance"
GROWTH_GOAL = 50e6


def precision_row(row: Json, check: Json) -> list[str]:
    """What, goal and value of one row of a check of precision."""
    what = f"{row['precision']}, {row['pairs']:,} pairs of `{check['model']}`"
    return [
        f"{what}: mean difference of cosines from float32, Spearman",
        f"≤ {MEAN_GOAL:g}, ≥ {RANK_GOAL:g}",
        f"{row['mean']:.1e}, {row['spearman']:.5f}{told(row['close'])}",
    ]


def memory_rows(memory: Json) -> list[list[str]]:
    """What, goal and value: growth of memory between the last two runs, and times of all."""
    *_, before, last = memory["runs"]
    grown = last["peak"] - before["peak"]
    sizes = f"{before['pairs']:,} and {last['pairs']:,} pairs of `{memory['model']}`"
    runs = memory["runs"]
    times = listing([f"{1000 * run['seconds'] / run['pairs']:.2f}" for run in runs])
    all_sizes = f"{listing([format(run['pairs'], ',') for run in runs])} pairs of `{memory['model']}`"
    return [
        [
            f"most resident memory, {sizes}: growth",
            f"≤ {GROWTH_GOAL / 1e6:.0f} MB",
            f"{grown / 1e6:.0f} MB, from {before['peak'] / 1e6:,.0f}{told(grown <= GROWTH_GOAL)}",
        ],
        [f"milliseconds a pair, {all_sizes}", "the same", times],
    ]


def elsewhere(figures: Json) -> str:
    """A blank and a sentence on each part that was measured somewhere else than throughput."""
    at = {part: where["machine"] for part, where in figures["machines"].items()}
    main = at["throughput"]
    return "".join(f" {part.capitalize()}: {name}." for part, name in sorted(at.items()) if name != main)


PARTS = (
    "decoding alone, images a second",
    "image tower alone, images a second",
    "text tower alone, texts a second",
    "end to end, pairs a second",
    "torchmetrics CLIPScore, pairs a second",
    "matrix products, GFLOP a second",
    "image tower, share of the matrix rate",
    "text tower, share of the matrix rate",
    "image tower, GFLOP an image",
    "text tower, GFLOP a text",
    "both towers, GFLOP a pair",
    "torchmetrics CLIPScore, GFLOP a pair",
)


def part_rows(runs: Sequence[Json], parts: Sequence[str] = PARTS) -> list[list[str]]:
    """A row for each figure of ``parts``, a column for each run."""
    return [
        [name.replace(" a second", ""), *(_shown(name, run["figures"].get(name)) for run in runs)]
        for name in parts
    ]


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "not measured"
    if "share" in name:
        return percent(value)
    return f"{value:.2f}" if "GFLOP a" in name and "second" not in name else f"{value:,.1f}"


def told(met: bool) -> str:
    """What a table adds to a value whose goal was missed."""
    return "" if met else ", missed"


# A CPU


def put_in(text: str, name: str, made: str) -> str:
    """The page with ``made`` between its lines ``<!-- name -->`` and ``<!-- /name -->``."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = text.partition(start)
    _, mark, after = rest.partition(end)
    if not mark:
        raise DataError(f"the page lacks the lines {start} and {end}")
    return f"{before}{start}\n{made}{end}{after}"


def measured(figures: Json) -> str:
    """The part of the page on performance."""
    runs = figures["throughput"]
    rows = [row for run in runs for row in _throughput_rows(run)]
    rows += [precision_row(row, figures["precision"]) for row in figures["precision"]["rows"]]
    rows += memory_rows(figures["memory"])
    shown = markdown_table(["what", "goal", "measured"], rows)
    parts = markdown_table(["each by itself, a second", *(run["precision"] for run in runs)], part_rows(runs))
    picture = f"![{memory_words(figures['memory']['runs'])}]({PLOT_FILE})"
    return f"{shown}\n{_about(figures)}\n\n{parts}\n{picture}\n"


def billion(cpu: Json, gpu: Json) -> str:
    """The part of the page on scaling: what a billion pairs take at the rates measured."""
    row_bytes = cpu["memory"]["runs"][-1]["row_bytes"]
    rows = []
    for run in cpu["throughput"]:
        figures, cores = run["figures"], cpu["machines"]["throughput"]["cores"]
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
    shown = markdown_table(head, rows)
    stored = f"{row_bytes:.1f} bytes a row in Parquet shards, {row_bytes * _BILLION / 1e9:.0f} GB in all"
    return f"{shown}\n{bottleneck(gpu)}Results take {stored}, ids of up to six digits included.\n"


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


def _about(figures: Json) -> str:
    run = figures["throughput"][0]
    photos = f"{run['photos']} photos ({run['different']} different) with {run['texts']} texts each"
    machine = figures["machines"]["throughput"]["machine"]
    about = f"{machine}: {photos}, medians of {run['rounds']} rounds.{elsewhere(figures)}"
    return f"{about} Command: `{_COMMAND}`."


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


# A GPU


_GPU_COMMAND = (
    "descscore eval throughput --device cuda --precision bf16 --compile --texts 1 "
    "--count 64 --size 500x375 --at-least {photos} --rounds {rounds}"
)
_LONG = {"photos": 60_000, "rounds": 5}
"""What to measure with where nothing was: so many photos that starting the workers hardly counts."""
CEILING_GOAL, RATE_GOAL, GPU_TIMES_GOAL = 0.85, 0.45, 10.0

_CEILING = "share of the lower ceiling"
_IMAGE = "image tower, share of the matrix rate"
_TEXT = "text tower, share of the matrix rate"
_TIMES = "times torchmetrics"
_ALONE = "without decoding, pairs a second"


def measured_gpu(figures: Json) -> str:
    """The GPU's part of the page on performance; rows of parts that are missing say so."""
    runs: Sequence[Json] = figures.get("throughput", [])
    rows = [*_gpu_rate_rows(runs), *_gpu_precision_rows(figures), *_gpu_memory_rows(figures)]
    shown = markdown_table(["what", "goal", "measured", "command"], rows)
    if not runs:
        return f"{shown}\n"
    names = (*PARTS, _ALONE) if any(_ALONE in run["figures"] for run in runs) else PARTS
    parts = markdown_table(
        ["each by itself, a second", *(run["name"] for run in runs)], part_rows(runs, names)
    )
    return f"{shown}\n{_about_gpu(figures)}\n\n{parts}\n"


def billion_row(gpu: Json) -> list[str]:
    """The row of the table on a billion pairs."""
    for run in gpu.get("throughput", [])[:1]:
        rate = run["figures"]["end to end, pairs a second"]
        hours = 1e9 / rate / 3600
        return [f"{run['name']}, GPU", str(run["texts"]), f"{rate:,.0f}", f"{hours:,.0f} GPU hours"]
    return ["bf16, GPU", "1", "not measured", "not measured"]


def bottleneck(gpu: Json) -> str:
    """How far decoding is behind the card: a sentence for the page on scaling; empty if not measured."""
    for run in gpu.get("throughput", [])[:1]:
        figures, cores = run["figures"], gpu["machines"]["throughput"]["cores"]
        decoded, encoded = (figures[f"{part} alone, images a second"] for part in ("decoding", "image tower"))
        fed, alone = encoded / decoded * cores, figures.get(_ALONE)
        rest = "" if alone is None else f" Without decoding one process scored {alone:,.0f} pairs a second."
        return (
            f"There {cores} cores decoded {decoded:,.0f} photos of {run['size']} a second and the image "
            f"tower alone ran {encoded:,.0f}: decoding is the bottleneck, and one such card could be fed by "
            f"{fed:,.0f} such cores.{rest}\n"
        )
    return ""


def _gpu_rate_rows(runs: Sequence[Json]) -> list[list[str]]:
    what = "bf16, 1 text a photo"
    rows = (
        (f"{what}: {_CEILING}", f"≥ {100 * CEILING_GOAL:.0f}{PERCENT}", _CEILING, CEILING_GOAL),
        (f"bf16: {_IMAGE}", f"≥ {100 * RATE_GOAL:.0f}{PERCENT}", _IMAGE, RATE_GOAL),
        (f"bf16: {_TEXT}", "reported", _TEXT, None),
        (f"{what}: {_TIMES} in float32", f"≥ {GPU_TIMES_GOAL:g}", _TIMES, GPU_TIMES_GOAL),
    )
    command = f"`{_GPU_COMMAND.format(**(runs[0] if runs else _LONG))}`"
    return [[name, goal, _value(runs, figure, least), command] for name, goal, figure, least in rows]


def _value(runs: Sequence[Json], figure: str, least: float | None) -> str:
    value = runs[0]["figures"].get(figure) if runs else None
    if value is None:
        return "not measured"
    shown = percent(value) if "share" in figure else f"{value:.1f}"
    return f"{shown}{told(least is None or value >= least)}"


def _gpu_precision_rows(figures: Json) -> list[list[str]]:
    command = "`descscore eval precision --device cuda --data DATA`"
    if "precision" in figures:
        check = figures["precision"]
        return [[*precision_row(row, check), command] for row in check["rows"]]
    what = "1,000 pairs of `default`: mean difference of cosines from float32, Spearman"
    return [[f"{name}, {what}", "≤ 0.001, ≥ 0.999", "not measured", command] for name in ("bf16", "fp16")]


def _gpu_memory_rows(figures: Json) -> list[list[str]]:
    command = f"`{_COMMAND} --device cuda --only memory`"
    if "memory" in figures:
        return [[*row, command] for row in memory_rows(figures["memory"])]
    what = "most resident memory, 10,000 and 100,000 pairs of `default`: growth"
    return [[what, f"≤ {GROWTH_GOAL / 1e6:.0f} MB", "not measured", command]]


def _about_gpu(figures: Json) -> str:
    run = figures["throughput"][0]
    photos = f"{run['photos']:,} photos of {run['size']} ({run['different']} different)"
    texts = f"{run['texts']} text each" if run["texts"] == 1 else f"{run['texts']} texts each"
    rounds = "one round" if run["rounds"] == 1 else f"medians of {run['rounds']} rounds"
    machine = figures["machines"]["throughput"]["machine"]
    return f"{machine}: {photos} with {texts}, {rounds}.{elsewhere(figures)}"
