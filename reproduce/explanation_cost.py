"""What an explanation costs: ``python -m reproduce.explanation_cost docs --data DIR``.

Explains both texts of the first pairs on each device, each text alone and then all together,
and writes the times into a file and a page. ``--add FILE`` measures nothing; it adds what
another machine measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from descscore.eval.formatting import counted
from descscore.eval.throughput import machine
from descscore.explanations.explainer import explain_batch
from descscore.explanations.explanation import Explanation
from descscore.scorer import DescScorer
from descscore.tables.rows import PreferencePair
from reproduce.pages import Json, Part, add_option, folder_argument, merge_runs, render

TIMES_GOAL = 5.0
"""How many times cheaper an explanation should be on a GPU than on the same machine's CPU."""


@dataclass(frozen=True)
class Cost:
    """Seconds a text on one device, after loading. All but ``first`` are medians over rounds.

    Attributes:
        device: the device.
        texts: how many texts.
        first: the first explanation, which includes what torch starts late.
        alone: mean over the texts, explained one by one.
        longest: the longest of them.
        together: mean over the texts, all in one call.
        alone_busy: as ``alone``, in time of the processor over all its cores.
        together_busy: as ``together``, in time of the processor.
    """

    device: str
    texts: int
    first: float
    alone: float
    longest: float
    together: float
    alone_busy: float
    together_busy: float


@dataclass(frozen=True)
class _Time:
    """Seconds on the wall clock, and of the processor over all its cores."""

    wall: float
    busy: float


@dataclass(frozen=True)
class Material:
    """n texts, and the n encoded images they are explained on."""

    images: Sequence[bytes]
    texts: Sequence[str]

    @classmethod
    def of(cls, pairs: Sequence[PreferencePair]) -> Material:
        """Both texts of every pair, descriptions first."""
        images = [pair.image.read() for pair in pairs]
        texts = [pair.description for pair in pairs] + [pair.caption for pair in pairs]
        return cls(images * 2, texts)


def measure(model: str, device: str, material: Material, rounds: int) -> tuple[Cost, list[Explanation]]:
    """Times on ``device``, alone and together in turn, ``rounds`` times; and the explanations."""
    scorer = DescScorer.from_pretrained(model, device=device)
    first = _timed(scorer, material.images[:1], material.texts[:1])
    explanations = explain_batch(material.images, material.texts, scorer)
    alone: list[list[_Time]] = []
    together: list[_Time] = []
    for _ in range(rounds):
        pairs = zip(material.images, material.texts, strict=True)
        alone.append([_timed(scorer, [image], [text]) for image, text in pairs])
        together.append(_timed(scorer, material.images, material.texts))
    count, median, mean = len(material.texts), statistics.median, statistics.fmean
    cost = Cost(
        device=device,
        texts=count,
        first=first.wall,
        alone=median(mean(time.wall for time in times) for times in alone),
        longest=median(max(time.wall for time in times) for times in alone),
        together=median(time.wall for time in together) / count,
        alone_busy=median(mean(time.busy for time in times) for times in alone),
        together_busy=median(time.busy for time in together) / count,
    )
    return cost, explanations


def _timed(scorer: DescScorer, images: Sequence[bytes], texts: Sequence[str]) -> _Time:
    """Explanations are plain numbers, so the device has finished when they arrive."""
    wall, busy = time.perf_counter(), time.process_time()
    explain_batch(images, texts, scorer)
    return _Time(time.perf_counter() - wall, time.process_time() - busy)


def largest_gap(one: Sequence[Explanation], other: Sequence[Explanation]) -> float:
    """Largest difference of a word's part of the cosine between explanations of the same texts."""
    return max(
        abs(word.value - same.value)
        for text, again in zip(one, other, strict=True)
        for word, same in zip(text.words, again.words, strict=True)
    )


def run_of(
    model: str, data: str, measured: Mapping[str, tuple[Cost, Sequence[Explanation]]]
) -> dict[str, Any]:
    """One run: several devices of one machine, on the same texts. gap: see :func:`largest_gap`."""
    costs = [cost for cost, _ in measured.values()]
    explained = [explanations for _, explanations in measured.values()]
    return {
        "model": model,
        "data": Path(data).name,
        "threads": torch.get_num_threads(),
        "machines": {cost.device: machine(torch.device(cost.device)) for cost in costs},
        "costs": {cost.device: {k: v for k, v in vars(cost).items() if k != "device"} for cost in costs},
        "gap": max((largest_gap(explained[0], other) for other in explained[1:]), default=None),
    }


def setting_of(run: Json) -> tuple[int, tuple[str, ...], int]:
    """What a run was measured on; a new run takes the place of the known one of the same setting."""
    return len(run["costs"]), tuple(sorted(run["costs"])), run["threads"]


def to_markdown(runs: Sequence[Json]) -> str:
    """The measured part of the page. A goal that no run was measured for is "not measured"."""
    cpu = [run["costs"]["cpu"] for run in runs if "cpu" in run["costs"]]
    rows = [
        {
            "device": device,
            "label": _label(run, device),
            "machine": run["machines"][device],
            "cost": cost,
            "gain": _gain(run, device),
        }
        for run in runs
        for device, cost in run["costs"].items()
    ]
    return render(
        "explanation_cost",
        rows=rows,
        slowest=max((cost["alone"] for cost in cpu), default=None),
        dearest=max((cost["together_busy"] / cost["alone_busy"] for cost in cpu), default=None),
        gain=min((row["gain"] for row in rows if row["gain"] is not None), default=None),
        goal=TIMES_GOAL,
        gaps=[run["gap"] for run in runs if run["gap"] is not None],
    )


def _gain(run: Json, device: str) -> float | None:
    """How many times cheaper than on the same machine's CPU; None on a CPU."""
    cpu = run["costs"].get("cpu")
    return None if device == "cpu" or cpu is None else cpu["together"] / run["costs"][device]["together"]


def _label(run: Json, device: str) -> str:
    if device != "cpu":
        return device
    others = " and ".join(other for other in run["costs"] if other != "cpu")
    return f"cpu, {counted(run['threads'], 'thread')}" + (f", machine with {others}" if others else "")


PART = Part("explanation_cost.json", "explanations.md", "cost", lambda file: to_markdown(file["runs"]))


@click.command()
@folder_argument
@click.option("--data", help="Concadia folder, or another data set of pairs.")
@click.option("--split", default="test", show_default=True, help="Split whose texts are explained.")
@click.option("--pairs", type=click.IntRange(min=1), default=32, show_default=True, help="Pairs to explain.")
@click.option("--model", default="default", show_default=True, help="Model to explain.")
@click.option("--device", "devices", multiple=True, default=("cpu",), show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Threads on the CPU; by default torch's choice.")
@add_option
def main(
    folder: Path,
    data: str | None,
    split: str,
    pairs: int,
    model: str,
    devices: tuple[str, ...],
    rounds: int,
    threads: int | None,
    add: Path | None,
) -> None:
    """Measure what explanations cost, and write FOLDER/explanation_cost.json and a part of the page there."""
    if (data is None) == (add is None):
        raise click.UsageError("give --data to measure, or --add to take over what was measured")
    known = PART.runs(folder)
    if add is not None:
        PART.write({"runs": merge_runs(known, PART.read(add)["runs"], setting_of)}, folder)
        return
    from descscore.tables.open import DataOptions, load_pairs

    assert data is not None
    if threads is not None:
        torch.set_num_threads(threads)
    material = Material.of(load_pairs(data, DataOptions(keep_equal=True)).split(split)[:pairs])
    run = run_of(model, data, {device: measure(model, device, material, rounds) for device in devices})
    PART.write({"runs": merge_runs(known, [run], setting_of)}, folder)
    click.echo(to_markdown([run]))


if __name__ == "__main__":
    main()
