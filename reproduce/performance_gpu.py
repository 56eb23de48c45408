"""What the pages on performance and scaling show of a GPU: what was measured, or that nothing was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from descscore.eval.report.page import PERCENT, listing, percent, table

# Rows of tables about speed, from what was measured.


Json: TypeAlias = Mapping[str, Any]

GROWTH_GOAL = 50e6


def precision_row(row: Json, check: Json) -> list[str]:
    """What, goal and value of one row of a check of precision."""
    from descscore.eval.precision import MEAN_GOAL, RANK_GOAL

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


def elsewhere(found: Json) -> str:
    """A blank and a sentence on each part that was measured somewhere else than throughput."""
    at = {part: where["machine"] for part, where in found["machines"].items()}
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


DATA_FILE = "performance_gpu.json"
COMMAND = (
    "descscore eval throughput --device cuda --precision bf16 --compile --texts 1 "
    "--count 64 --size 500x375 --at-least {photos} --rounds {rounds}"
)
_LONG = {"photos": 60_000, "rounds": 5}
"""What to measure with where nothing was: so many photos that starting the workers hardly counts."""
PAGE_COMMAND = "python -m reproduce.performance --device cuda"
CEILING_GOAL, RATE_GOAL, TIMES_GOAL = 0.85, 0.45, 10.0

_CEILING = "share of the lower ceiling"
_IMAGE = "image tower, share of the matrix rate"
_TEXT = "text tower, share of the matrix rate"
_TIMES = "times torchmetrics"
_ALONE = "without decoding, pairs a second"


def measured(found: Json) -> str:
    """The GPU's part of the page on performance; rows of parts that are missing say so."""
    runs: Sequence[Json] = found.get("throughput", [])
    rows = [*_rate_rows(runs), *_precision_rows(found), *_memory_rows(found)]
    shown = table(["what", "goal", "measured", "command"], rows)
    if not runs:
        return f"{shown}\n"
    figures = (*PARTS, _ALONE) if any(_ALONE in run["figures"] for run in runs) else PARTS
    parts = table(["each by itself, a second", *(run["name"] for run in runs)], part_rows(runs, figures))
    return f"{shown}\n{_about(found)}\n\n{parts}\n"


def billion_row(found: Json) -> list[str]:
    """The row of the table on a billion pairs."""
    for run in found.get("throughput", [])[:1]:
        rate = run["figures"]["end to end, pairs a second"]
        hours = 1e9 / rate / 3600
        return [f"{run['name']}, GPU", str(run["texts"]), f"{rate:,.0f}", f"{hours:,.0f} GPU hours"]
    return ["bf16, GPU", "1", "not measured", "not measured"]


def bottleneck(found: Json) -> str:
    """How far decoding is behind the card: a sentence for the page on scaling; empty if not measured."""
    for run in found.get("throughput", [])[:1]:
        figures, cores = run["figures"], found["machines"]["throughput"]["cores"]
        decoded, encoded = (figures[f"{part} alone, images a second"] for part in ("decoding", "image tower"))
        fed, alone = encoded / decoded * cores, figures.get(_ALONE)
        rest = "" if alone is None else f" Without decoding one process scored {alone:,.0f} pairs a second."
        return (
            f"There {cores} cores decoded {decoded:,.0f} photos of {run['size']} a second and the image "
            f"tower alone ran {encoded:,.0f}: decoding is the bottleneck, and one such card could be fed by "
            f"{fed:,.0f} such cores.{rest}\n"
        )
    return ""


def _rate_rows(runs: Sequence[Json]) -> list[list[str]]:
    what = "bf16, 1 text a photo"
    rows = (
        (f"{what}: {_CEILING}", f"≥ {100 * CEILING_GOAL:.0f}{PERCENT}", _CEILING, CEILING_GOAL),
        (f"bf16: {_IMAGE}", f"≥ {100 * RATE_GOAL:.0f}{PERCENT}", _IMAGE, RATE_GOAL),
        (f"bf16: {_TEXT}", "reported", _TEXT, None),
        (f"{what}: {_TIMES} in float32", f"≥ {TIMES_GOAL:g}", _TIMES, TIMES_GOAL),
    )
    command = f"`{COMMAND.format(**(runs[0] if runs else _LONG))}`"
    return [[name, goal, _value(runs, figure, least), command] for name, goal, figure, least in rows]


def _value(runs: Sequence[Json], figure: str, least: float | None) -> str:
    value = runs[0]["figures"].get(figure) if runs else None
    if value is None:
        return "not measured"
    shown = percent(value) if "share" in figure else f"{value:.1f}"
    return f"{shown}{told(least is None or value >= least)}"


def _precision_rows(found: Json) -> list[list[str]]:
    command = "`descscore eval precision --device cuda --data DATA`"
    if "precision" in found:
        check = found["precision"]
        return [[*precision_row(row, check), command] for row in check["rows"]]
    what = "1,000 pairs of `default`: mean difference of cosines from float32, Spearman"
    return [[f"{name}, {what}", "≤ 0.001, ≥ 0.999", "not measured", command] for name in ("bf16", "fp16")]


def _memory_rows(found: Json) -> list[list[str]]:
    command = f"`{PAGE_COMMAND} --only memory`"
    if "memory" in found:
        return [[*row, command] for row in memory_rows(found["memory"])]
    what = "most resident memory, 10,000 and 100,000 pairs of `default`: growth"
    return [[what, f"≤ {GROWTH_GOAL / 1e6:.0f} MB", "not measured", command]]


def _about(found: Json) -> str:
    run = found["throughput"][0]
    photos = f"{run['photos']:,} photos of {run['size']} ({run['different']} different)"
    texts = f"{run['texts']} text each" if run["texts"] == 1 else f"{run['texts']} texts each"
    rounds = "one round" if run["rounds"] == 1 else f"medians of {run['rounds']} rounds"
    machine = found["machines"]["throughput"]["machine"]
    return f"{machine}: {photos} with {texts}, {rounds}.{elsewhere(found)}"
