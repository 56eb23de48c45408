"""Rows of tables about speed, from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from descscore.eval.report.number_format import listing, percent

Json: TypeAlias = Mapping[str, Any]

GROWTH_GOAL = 50e6


def precision_row(row: Json, check: Json) -> list[str]:
    """What, goal and value of one row of a check of precision."""
    from descscore.eval.speed.precision_check import MEAN_GOAL, RANK_GOAL

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
