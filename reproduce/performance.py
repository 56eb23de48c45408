"""Measure speed, number formats and memory, and write the pages on performance and scaling.

``python -m reproduce.performance --photos FOLDER --data DATASET`` takes half
an hour on two idle cores. ``--only`` measures some parts and keeps what the file has of the others.
``--device cuda`` writes a file of its own; ``--pages`` makes the pages of both files again,
wherever they were measured.

Memory is that of ``descscore batch``: runs of rising size, each watched from outside. The input is hard on a
long run's memory: it has more photos than a run remembers, and every text has a word of its own.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from descscore.errors import DataError, UsageError
from descscore.eval.formatting import PERCENT, listing, percent
from descscore.eval.precision import (
    MEAN_GOAL,
    RANK_GOAL,
    compare_precisions,
    made_sample,
    published_sample,
)
from descscore.eval.report.plots import STYLES, WIDTH, Target, drawing
from descscore.eval.sample_inputs import as_many, caption, find_photos, make_photos
from descscore.eval.throughput import FEW, Plan, measure
from descscore.eval.timing import machine
from descscore.models import check_device, load_model
from descscore.options import PATH
from descscore.stream.worker import cores
from descscore.tables.open import load_pairs
from reproduce.pages import Json, put_in, read_json, render, write_json, write_text

PARTS = ("throughput", "precision", "memory")
DATA_FILE, GPU_DATA_FILE = "performance.json", "performance_gpu.json"
PLOT_FILE = "images/memory.svg"
PHOTOS = 6000
"""Photos of the longest run: more than the stream remembers."""
MADE, SIZE = 64, (160, 120)
SHARD = 1000

TIMES_GOAL = {"float32": 4.0, "bf16": 6.0}
"""How many times torchmetrics' rate a CPU should reach, by number format."""
SHARE_GOAL = 0.85
"""Share of decoding and forward passes added up that a CPU should reach."""
GPU_GOALS = {
    "bf16, 1 text a photo: share of the lower ceiling": 0.85,
    "bf16: image tower, share of the matrix rate": 0.45,
    "bf16: text tower, share of the matrix rate": None,
    "bf16, 1 text a photo: times torchmetrics in float32": 10.0,
}
"""What a GPU should reach; None for a figure that is only reported."""
GROWTH_GOAL = 50e6
"""Bytes that memory may grow by within the longest run (:func:`early_and_late`)."""
_UNDECODED = "without decoding, pairs a second"
_FIGURES = (
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
"""Figures that are shown for each run, a row each."""


def _throughputs(device: torch.device, given: dict[str, Any]) -> list[dict[str, Any]]:
    rounds = given["rounds"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if device.type == "cuda":  # as the command that the page shows
            different = make_photos(folder / "made", 64, (500, 375))
            photos = as_many(different, folder / "more", given["at_least"] or 60_000)
            plan = Plan(photos, 1, rounds, device, "bf16", few=FEW, compiled=True)
            run = _throughput(plan, len(different), {"size": "500 x 375"})
            return [{"name": "bf16, compiled"} | run]
        if not given["photos"]:
            raise UsageError("--photos: needed, to measure throughput on a CPU")
        own = find_photos(given["photos"])
        photos = as_many(own, folder, given["at_least"] or 100)
        few = min(len(own), FEW)
        plans = (Plan(photos, 5, rounds, device, precision, few=few) for precision in ("float32", "bf16"))
        return [_throughput(plan, len(own), {}) for plan in plans]


def _throughput(plan: Plan, different: int, more: dict[str, Any]) -> dict[str, Any]:
    about = {"photos": len(plan.photos), "different": different, **more, "texts": plan.texts}
    figures = measure(plan).figures(plan.texts)
    return {"precision": plan.precision, **about, "rounds": plan.rounds, "figures": figures}


def _precision(device: torch.device, given: dict[str, Any]) -> dict[str, Any]:
    data = given["data"]
    sample = published_sample(load_pairs(data).split("test"), 1000) if data else made_sample(1000)
    rows = compare_precisions(load_model("default", str(device)), sample)
    return {"model": "default", "rows": [asdict(row) | {"close": row.close} for row in rows]}


def _memory(device: torch.device, given: dict[str, Any]) -> dict[str, Any]:
    runs = watch_runs(given["pairs"], "default", device=str(device))
    return {"model": "default", "runs": [run.to_json() for run in runs]}


_MEASURES = {"throughput": _throughputs, "precision": _precision, "memory": _memory}


Sample = tuple[float, int]
"""Seconds since the start, and resident bytes of all processes of the run."""


@dataclass(frozen=True)
class Watched:
    """One run."""

    pairs: int
    seconds: float
    """Of scoring, as the run says."""
    row_bytes: float
    """Bytes of results on disk for a row."""
    samples: tuple[Sample, ...]
    shards: tuple[float, ...]
    """Seconds from the start to each finished shard of :data:`SHARD` rows."""

    @property
    def peak(self) -> int:
        """Most resident bytes at a time."""
        return max(size for _, size in self.samples)

    def to_json(self) -> dict[str, Any]:
        """The run as JSON, with at most 200 samples: the largest of each stretch."""
        step = -(-len(self.samples) // 200)
        kept = [
            max(self.samples[i : i + step], key=lambda s: s[1]) for i in range(0, len(self.samples), step)
        ]
        return {**asdict(replace(self, samples=tuple(kept))), "peak": self.peak}


def watch_runs(sizes: Sequence[int], model: str, every: float = 0.5, device: str = "cpu") -> list[Watched]:
    """A run of each size, one after the other, with a bundled or other model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = as_many(make_photos(folder / "made", MADE, SIZE), folder / "photos", min(PHOTOS, max(sizes)))
        inputs = [write_input(folder / f"{size}.csv", photos, size) for size in sizes]
        chosen = ("--model", model, "--device", device)
        return [_watch(source, size, chosen, every) for source, size in zip(inputs, sizes, strict=True)]


def write_input(path: Path, photos: Sequence[Path], pairs: int) -> Path:
    """A table of ``pairs`` rows over ``photos`` in turn."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "image", "text"))
        for i in range(pairs):
            writer.writerow((i, photos[i % len(photos)].resolve(), f"{caption(i)} {_name(i)}"))
    return path


_SYLLABLES = (
    *("ba", "dre", "fi", "gno", "hu", "ki", "lo", "mer"),
    *("nu", "pol", "qua", "ri", "so", "tu", "ve", "wy"),
)


def _name(number: int) -> str:
    """A word of its own for each number."""
    return "".join(_SYLLABLES[number >> shift & 15] for shift in (20, 16, 12, 8, 4, 0))


def _watch(source: Path, pairs: int, chosen: Sequence[str], every: float) -> Watched:
    output = source.with_suffix("")
    code = "from descscore.cli import main; main()"
    options = ("--output", str(output), *chosen, "--shard-size", str(SHARD))
    started, wall = time.perf_counter(), time.time()
    process = subprocess.Popen(
        [sys.executable, "-c", code, "batch", str(source), *options, "--image-root", "/", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    samples = []
    while process.poll() is None:
        samples.append((time.perf_counter() - started, resident(process.pid)))
        time.sleep(every)
    summary = _summary(process, pairs)
    files = sorted(output.glob("*.parquet"))
    shards = tuple(sorted(path.stat().st_mtime - wall for path in files))
    size = sum(path.stat().st_size for path in files)
    return Watched(pairs, summary["seconds"], size / pairs, tuple(samples), shards)


def _summary(process: subprocess.Popen[str], pairs: int) -> dict[str, Any]:
    assert process.stdout is not None
    with process.stdout as stream:
        text = stream.read()
    if process.returncode:
        raise DataError(f"a batch of {pairs} pairs ended with exit code {process.returncode}")
    summary: dict[str, Any] = json.loads(text)
    if summary["statuses"] != {"ok": pairs}:
        raise DataError(f"of {pairs} pairs not all were scored: {summary['statuses']}")
    return summary


def resident(pid: int) -> int:
    """Resident bytes of a process and of all that it has started, memory that they share counted once.

    The sum of their proportional set sizes: decoded pictures lie in memory that every worker maps, which
    plain resident sizes would count once for each, and the more of it the longer the workers run.
    """
    try:
        import psutil
    except ImportError:
        raise DataError("watching memory needs psutil: pip install psutil") from None
    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += one.memory_full_info().pss
    return total


def write_pages(figures: Json, gpu: Json, output: Path) -> None:
    """Write the plot, and the marked parts of the pages in ``output``, from the measured figures."""
    memory_plot(figures["memory"]["runs"], output / PLOT_FILE)
    for page, name, part in (
        ("performance.md", "measured", measured(figures)),
        ("performance.md", "gpu", measured_gpu(gpu)),
        ("scaling.md", "billion", billion(figures, gpu)),
    ):
        text = (output / page).read_text(encoding="utf-8")
        write_text(put_in(text, name, part), output / page)


def measured(figures: Json) -> str:
    """The CPU's part of the page on performance."""
    rates = []
    for run in figures["throughput"]:
        times = f"{run['precision']}, {run['texts']} texts a photo: times torchmetrics in float32"
        share = f"{run['precision']}: share of decoding and forward passes added up"
        rates += [_rate(run, times, TIMES_GOAL[run["precision"]], 2), _rate(run, share, SHARE_GOAL)]
    return _performance(figures, rates, "python -m reproduce.performance")


def measured_gpu(figures: Json) -> str:
    """The GPU's part of the page on performance."""
    (run,) = figures["throughput"]
    rates = [_rate(run, what, goal) for what, goal in GPU_GOALS.items()]
    return _performance(figures, rates, "python -m reproduce.performance --device cuda", gpu=True)


def _performance(figures: Json, rates: Sequence[Sequence[str]], command: str, gpu: bool = False) -> str:
    undecoded = gpu and any(_UNDECODED in run["figures"] for run in figures["throughput"])
    return render(
        "performance",
        **figures,
        gpu=gpu,
        rates=rates,
        command=command,
        parts=(*_FIGURES, _UNDECODED) if undecoded else _FIGURES,
        mean_goal=MEAN_GOAL,
        rank_goal=RANK_GOAL,
        growth_goal=GROWTH_GOAL,
        early_and_late=early_and_late(figures["memory"]["runs"][-1]),
        each=_each,
        memory_words=memory_words(figures["memory"]["runs"]),
        plot=PLOT_FILE,
    )


def _rate(run: Json, what: str, goal: float | None, digits: int = 1) -> tuple[str, str, str]:
    """What, goal, and the value of the figure that ``what`` names at its end."""
    name = what.partition(": ")[2].removesuffix(" in float32")
    value, is_share = run["figures"][name], "share" in name
    shown = percent(value) if is_share else f"{value:.{digits}f}"
    if goal is None:
        return what, "reported", shown
    aim = f"≥ {100 * goal:.0f}{PERCENT}" if is_share else f"≥ {goal:g}"
    return what, aim, shown if value >= goal else f"{shown}, missed"


def billion(cpu: Json, gpu: Json) -> str:
    """The part of the page on scaling: what a billion pairs take at the rates measured."""
    rows = []
    for run in cpu["throughput"]:
        figures = run["figures"]
        single = 1 / (
            1 / figures["decoding alone, images a second"]
            + 1 / figures["image tower alone, images a second"]
            + 1 / figures["text tower alone, texts a second"]
        )
        for texts, rate in ((run["texts"], figures["end to end, pairs a second"]), (1, single)):
            rows.append({"name": run["precision"], "texts": texts, "rate": rate})
    return render(
        "scaling",
        rows=rows,
        cores=cpu["machines"]["throughput"]["cores"],
        row_bytes=cpu["memory"]["runs"][-1]["row_bytes"],
        card=gpu["throughput"][0],
        card_cores=gpu["machines"]["throughput"]["cores"],
    )


def memory_plot(runs: Sequence[Json], target: Target) -> None:
    """Resident megabytes and milliseconds per pair, by pairs done (logarithmic); a line for each run."""
    with drawing(WIDTH, 4.6, target) as figure:
        above, below = figure.subplots(2, 1, sharex=True)
        for run, style in zip(runs, STYLES, strict=False):
            look = {"color": style.colour, "linestyle": style.line, "label": f"{run['pairs']:,} pairs"}
            done, held = _memory_line(run)
            above.plot(done, held, **look)
            done, took = _time_line(run)
            below.plot(done, took, **look)
        below.set(xscale="log", xlabel="pairs done", ylabel="milliseconds a pair")
        above.set_ylabel("resident megabytes")
        for axes in (above, below):
            axes.set_ylim(bottom=0)
            axes.grid(color="#DDDDDD", linewidth=0.6)
        figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)


def memory_words(runs: Sequence[Json]) -> str:
    """The plot in words, for readers who cannot see it."""
    return (
        f"Two line plots over pairs done, a line for each run of {_each(runs, '{pairs:,}')} pairs. Above, "
        f"resident megabytes: at most {_each(runs, '{megabytes:,.0f}')}. Below, milliseconds a pair: over "
        f"the whole run {_each(runs, '{milliseconds:.1f}')}."
    )


def _each(runs: Sequence[Json], form: str) -> str:
    """A list with one number for each run: its pairs, peak megabytes, or milliseconds a pair."""
    rates = [
        dict(run, megabytes=run["peak"] / 1e6, milliseconds=1000 * run["seconds"] / run["pairs"])
        for run in runs
    ]
    return listing([form.format_map(rate) for rate in rates])


def early_and_late(run: Json) -> tuple[float, float]:
    """Median resident bytes while the second tenth and while the last tenth of a run's pairs were scored.

    Two runs of one input differ by more than a long run grows. So growth is measured within one run, and by
    medians, since single samples catch a batch at its largest.
    """
    done, held = _memory_line(run)
    tenth = done * 10 / run["pairs"]
    second, last = np.median(held[(tenth >= 1) & (tenth < 2)]), np.median(held[tenth >= 9])
    return 1e6 * float(second), 1e6 * float(last)


def _memory_line(run: Json) -> tuple[Any, Any]:
    """Pairs done, at least one, and megabytes: ``(samples,)`` each."""
    times, sizes = np.array(run["samples"], dtype=float).T
    ends = np.array(run["shards"])
    rows = np.linspace(0, run["pairs"], len(ends) + 1)
    done = np.interp(times, [ends[-1] - run["seconds"], *ends], rows)
    return done.clip(1), sizes / 1e6


def _time_line(run: Json) -> tuple[Any, Any]:
    """Pairs done and milliseconds a pair at the end of each shard but the first: ``(shards - 1,)`` each."""
    ends = np.array(run["shards"])
    rows = run["pairs"] / len(ends)
    return rows * np.arange(2, len(ends) + 1), 1000 * np.diff(ends) / rows


@click.command()
@click.option("--photos", type=PATH, help="Folder of full-size photos; not on a GPU.")
@click.option("--data", help="Data set of pairs for the check of precision; by default made-up ones.")
@click.option("--pairs", multiple=True, type=int, default=(1000, 10_000, 100_000), show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--at-least", type=click.IntRange(1), help="Photos of a run: 100, on a GPU 60,000.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Measure this part. May be repeated.")
@click.option("--output", type=PATH, default=Path("docs"), show_default=True)
@click.option("--pages", is_flag=True, help="Measure nothing; write the pages of what was measured.")
def main(output: Path, device: str, only: tuple[str, ...], pages: bool, **given: Any) -> None:
    """Measure into OUTPUT/performance.json or, on a GPU, performance_gpu.json, and write the pages there."""
    target = check_device(device)
    if not pages:
        output.mkdir(parents=True, exist_ok=True)  # before minutes of measuring, not after
        file = output / (GPU_DATA_FILE if target.type == "cuda" else DATA_FILE)
        figures = read_json(file)
        where = {"machine": machine(target), "cores": cores()}
        for part in only or PARTS:
            figures[part] = _MEASURES[part](target, given)
            figures.setdefault("machines", {})[part] = where
            write_json(figures, file)
    if not (output / "performance.md").is_file():
        return
    cpu, gpu = (read_json(output / name) for name in (DATA_FILE, GPU_DATA_FILE))
    missing = [
        f"{part} in {name}"
        for name, figures in ((DATA_FILE, cpu), (GPU_DATA_FILE, gpu))
        for part in PARTS
        if part not in figures
    ]
    if missing:
        click.echo(f"The pages are not written, for they also need {listing(missing)}.", err=True)
    else:
        write_pages(cpu, gpu, output)


if __name__ == "__main__":
    main()
