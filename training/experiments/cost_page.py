"""What the page on training shows of the costs that were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from descscore.eval.markdown_table import table
from descscore.eval.speed.performance_page import put_in
from descscore.training.experiments.cost_ways import COMPARISON

Json: TypeAlias = Mapping[str, Any]

DATA_FILE, PAGE_FILE, PART = "training_cost.json", "training.md", "cost"
GOAL = 5.0
"""How many times faster than its comparison a pair should be, on a CPU."""
_PRECISIONS = {"no": "float32", "fp16": "float16", "bf16": "bfloat16"}


def put_together(known: Sequence[Json], new: Sequence[Json]) -> list[Json]:
    """Runs known and new, in a fixed order; new ones take the place of those of the same setting."""
    runs = {_setting(run): run for run in (*known, *new)}
    return [runs[key] for key in sorted(runs)]


def _setting(run: Json) -> tuple[str, int, str]:
    return str(run["device"]), int(run["batch_size"]), str(run["precision"])


def write_page(found: Json, docs: Path) -> None:
    """Put the table into the page of the folder ``docs``."""
    page = docs / PAGE_FILE
    page.write_text(put_in(page.read_text(encoding="utf-8"), PART, measured(found)), encoding="utf-8")


def measured(found: Json) -> str:
    """The marked part of the page: a table for each device."""
    devices = list(dict.fromkeys(str(run["device"]) for run in found["runs"]))
    return "\n".join(_device_part([run for run in found["runs"] if run["device"] == d]) for d in devices)


def _device_part(runs: Sequence[Json]) -> str:
    rows = [_row(run, way) for run in runs for way in run["ways"]]
    head = ["texts a step", "precision", "way to train", "seconds per 1,000 pairs", "times faster"]
    head += ["GFLOP a pair", "times less", "peak"]
    about = [
        f"{run['machine']}, {_count(run['threads'], 'thread')}; "
        f"medians of {_count(run['rounds'], 'round')} of {_count(run['steps'], 'step')}"
        for run in runs
    ]
    return f"{table(head, rows)}\n{'; '.join(dict.fromkeys(about))}.\n"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _row(run: Json, way: Json) -> list[str]:
    seconds = way["seconds_per_1000"]
    return [
        str(run["batch_size"]),
        _PRECISIONS[run["precision"]],
        way["name"],
        f"{seconds:.1f}" if seconds < 100 else f"{seconds:.0f}",
        "" if way["name"] not in COMPARISON else f"{way['times_faster']:.1f}{_told(run, way)}",
        f"{way['gflop_a_pair']:.1f}",
        "" if way["name"] not in COMPARISON else f"{way['times_less_work']:.1f}",
        f"{way['peak_gib']:.2f} GiB",
    ]


def _told(run: Json, way: Json) -> str:
    """Whether the goal is missed, where there is one: it is on float32 on a CPU."""
    aimed = run["device"] == "cpu" and run["precision"] == "no"
    return f" (aimed at: {GOAL:g})" if aimed and way["times_faster"] < GOAL else ""
