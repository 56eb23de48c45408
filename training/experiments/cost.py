"""What training costs on this machine: ``python -m descscore.training.experiments.cost --output docs``.

ViT-B-32 with random weights and made-up texts of Concadia's lengths. A step trains on cached
image features; it is compared with the same step when both towers run for each pair, at the full
context length. The ways take turns, so that whatever else the machine does meets all of them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeAlias

import click
import torch

from descscore.errors import DescscoreError
from descscore.eval.speed.machine import machine
from descscore.eval.speed.work import flops
from descscore.training.experiments.cost_page import DATA_FILE, put_together, write_page
from descscore.training.experiments.cost_ways import COMPARISON, WAYS, Setting, Way, make_way

Json: TypeAlias = Mapping[str, Any]

WARM_UP = 2
"""Steps before any that is counted."""

OWN_PROCESS = "spawn"
"""How a process is started whose memory is measured. A forked one, from a server too, would not count
what it was given of libraries loaded before (0.3 GiB)."""


def measure(setting: Setting, rounds: int, steps: int) -> dict[str, Any]:
    """Seconds per 1,000 image pairs, arithmetic and peak memory of every way, as the file keeps them.

    Seconds: the median over ``rounds``, of ``steps`` steps each. Arithmetic: matrix products of the
    first ``steps`` steps, in GFLOP a pair. Memory in GiB: on a CPU all that is resident in a process
    that trains in this way and does nothing else, on a GPU what is allocated for it.
    """
    peaks, ways = {}, {}
    for name in WAYS:
        ways[name], peaks[name] = _warm(name, setting)
    seconds = _seconds(ways, setting.device, rounds, steps)
    work = {name: _gflop(way, steps) for name, way in ways.items()}
    found = [
        {
            "name": name,
            "seconds_per_1000": seconds[name],
            "times_faster": seconds[COMPARISON.get(name, name)] / seconds[name],
            "gflop_a_pair": work[name],
            "times_less_work": work[COMPARISON.get(name, name)] / work[name],
            "peak_gib": peaks[name],
        }
        for name in WAYS
    ]
    return {
        "model": setting.model,
        "machine": machine(setting.device),
        "device": setting.device.type,
        "threads": torch.get_num_threads(),
        "precision": setting.precision,
        "batch_size": 2 * ways[WAYS[0]].pairs,
        "rounds": rounds,
        "steps": steps,
        "ways": found,
    }


def _warm(name: str, setting: Setting) -> tuple[Way, float]:
    """A way after some steps, and the peak of its memory in GiB."""
    if setting.device.type != "cuda":
        peak = _peak_of_another_process(name, setting)
        return _warmed(name, setting), peak
    before = torch.cuda.memory_allocated(setting.device)
    torch.cuda.reset_peak_memory_stats(setting.device)
    way = _warmed(name, setting)
    return way, (torch.cuda.max_memory_allocated(setting.device) - before) / 2**30


def _warmed(name: str, setting: Setting) -> Way:
    way = make_way(name, setting)
    _timed(way, range(WARM_UP), setting.device)
    return way


def _peak_of_another_process(name: str, setting: Setting) -> float:
    with ProcessPoolExecutor(1, multiprocessing.get_context(OWN_PROCESS)) as pool:
        try:
            return pool.submit(_own_peak, name, setting).result()
        except BrokenProcessPool as error:
            raise DescscoreError(f"memory of {name!r} could not be measured: its process died") from error


def _own_peak(name: str, setting: Setting) -> float:
    _keep_to(setting.device)
    _warmed(name, setting)
    return resident_peak()


def resident_peak() -> float:
    """Most that this process has held so far, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # kilobytes, but bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _seconds(ways: Mapping[str, Way], device: torch.device, rounds: int, steps: int) -> dict[str, float]:
    """Of 1,000 image pairs in each way."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        first = WARM_UP + turn * steps
        for name, way in ways.items():
            times[name].append(_timed(way, range(first, first + steps), device))
    return {name: 1000 * statistics.median(times[name]) / (steps * way.pairs) for name, way in ways.items()}


def _gflop(way: Way, steps: int) -> float:
    """Of a pair in the first steps that are timed too."""
    total = flops(lambda: [way.step(WARM_UP + i) for i in range(steps)])
    return total / (1e9 * steps * way.pairs)


def _timed(way: Way, steps: range, device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    for i in steps:
        way.step(i)
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device(name: str | None) -> torch.device:
    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("--device cuda: torch finds no GPU here")
    _keep_to(device)
    return device


def _keep_to(device: torch.device) -> None:
    if device.type == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"  # it would take a GPU that is there


def _keep(runs: list[Json], output: Path) -> None:
    """Put runs into the file and the page of the folder ``output``."""
    file = output / DATA_FILE
    known = json.loads(file.read_text(encoding="utf-8"))["runs"] if file.is_file() else []
    found = {"runs": put_together(known, runs)}
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write_page(found, output)


@click.command()
@click.option("--model", default="ViT-B-32", show_default=True, help="Name in open_clip, or a model folder.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="By default a GPU where there is one.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["no", "fp16", "bf16"]),
    default=["no"],
    show_default=True,
    help="May be given several times; 'no' is float32.",
)
@click.option(
    "--batch-size",
    "sizes",
    multiple=True,
    type=click.IntRange(2),
    help="Texts a step, by default the presets' 12. May be given several times.",
)
@click.option("--rounds", default=9, show_default=True, type=click.IntRange(1), help="Turns of every way.")
@click.option("--steps", default=3, show_default=True, type=click.IntRange(1), help="Steps a turn.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the documentation, to write into.")
@click.option(
    "--add", type=click.Path(exists=True, path_type=Path), help="Take this file's, measure nothing."
)
def main(
    model: str,
    device: str | None,
    precisions: tuple[Any, ...],
    sizes: tuple[int, ...],
    rounds: int,
    steps: int,
    output: Path | None,
    add: Path | None,
) -> None:
    """Measure, print as JSON, and keep it beside what other machines and settings gave."""
    where = _device(device)
    settings = [
        Setting(model, where, precision, size) for size in sizes or (None,) for precision in precisions
    ]
    if add:
        runs = json.loads(add.read_text(encoding="utf-8"))["runs"]
    else:
        runs = [measure(setting, rounds, steps) for setting in settings]
    click.echo(json.dumps({"runs": runs}, indent=1))
    if output:
        _keep(runs, output)


if __name__ == "__main__":
    main()
