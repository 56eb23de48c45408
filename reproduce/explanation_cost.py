"""What an explanation costs: ``python -m reproduce.explanation_cost docs --data DIR``.

Explains both texts of the first pairs on each device, each text alone and then all together,
and writes the times into a file and a page. ``--add FILE`` measures nothing; it adds what
another machine measured.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import click
import torch

from descscore.errors import DataError
from descscore.eval.formatting import markdown_table
from descscore.eval.throughput import machine
from descscore.explanations.explainer import explain_batch
from descscore.explanations.explanation import Explanation
from descscore.scorer import DescScorer
from descscore.tables.rows import PreferencePair
from reproduce.performance_page import put_in

TIMES_GOAL = 5.0
"""How many times cheaper an explanation should be on a GPU than on the same machine's CPU."""

DATA_FILE, PAGE_FILE, PART = "explanation_cost.json", "explanations.md", "cost"
Json: TypeAlias = Mapping[str, Any]


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


def joined(old: Sequence[Json], new: Sequence[Json]) -> list[Json]:
    """Runs of ``new``, and those of ``old`` that were on other devices or with other threads."""
    names = [_name(run) for run in new]
    return sorted([*(run for run in old if _name(run) not in names), *new], key=_name)


def _name(run: Json) -> tuple[int, list[str], int]:
    return len(run["costs"]), sorted(run["costs"]), run["threads"]


def to_markdown(runs: Sequence[Json]) -> str:
    """The measured part of the page."""
    head = ["seconds a text", "texts", "first", "alone", "longest", "together", "times cheaper together"]
    busy = ["processor seconds a text", "alone", "together"]
    each = [(run, device) for run in runs for device in run["costs"]]
    abouts = "\n".join(f"- {_label(run, device)}: {run['machines'][device]}" for run, device in each)
    gaps = [
        f"\nWords' parts of the cosine differ between the devices by at most {run['gap']:.1e}.\n"
        for run in runs
        if run["gap"] is not None
    ]
    shown = markdown_table(head, [_row(*one) for one in each])
    processor = markdown_table(busy, [_busy_row(*one) for one in each if one[1] == "cpu"])
    parts = [shown, processor, *_verdicts(runs), "", abouts, *gaps, ""]
    return "\n".join(parts).replace("\n\n\n", "\n\n")


def _verdicts(runs: Sequence[Json]) -> list[str]:
    """Whether the runs meet the goals, one line each; a device without figures is "not measured"."""
    cpu = [run["costs"]["cpu"] for run in runs if "cpu" in run["costs"]]
    gains = [
        run["costs"]["cpu"]["together"] / cost["together"]
        for run in runs
        for device, cost in run["costs"].items()
        if device != "cpu" and "cpu" in run["costs"]
    ]
    slowest = max((cost["alone"] for cost in cpu), default=None)
    dearest = max((cost["together_busy"] / cost["alone_busy"] for cost in cpu), default=None)
    return [
        _verdict(
            "one text on average in less than a second on a CPU", slowest, slowest and slowest < 1, "{:.3f} s"
        ),
        _verdict("many together no dearer on a CPU", dearest, dearest and dearest <= 1, "{:.2f} times"),
        _verdict(
            "at least 5 times cheaper on a GPU",
            min(gains, default=None),
            bool(gains) and min(gains) >= TIMES_GOAL,
            "{:.1f} times",
        ),
    ]


def _verdict(goal: str, value: float | None, met: object, form: str) -> str:
    if value is None:
        return f"- {goal}: not measured"
    return f"- {goal}: {form.format(value)}, {'met' if met else 'missed'}"


def _label(run: Json, device: str) -> str:
    if device != "cpu":
        return device
    threads = "1 thread" if run["threads"] == 1 else f"{run['threads']} threads"
    others = " and ".join(other for other in run["costs"] if other != "cpu")
    return f"cpu, {threads}" + (f", machine with {others}" if others else "")


def _row(run: Json, device: str) -> list[str]:
    cost, cpu = run["costs"][device], run["costs"].get("cpu")
    gain = "" if device == "cpu" or cpu is None else f"{cpu['together'] / cost['together']:.1f}"
    times = [f"{cost[name]:.3f}" for name in ("first", "alone", "longest", "together")]
    return [_label(run, device), str(cost["texts"]), *times, gain]


def _busy_row(run: Json, device: str) -> list[str]:
    cost = run["costs"][device]
    return [_label(run, device), f"{cost['alone_busy']:.3f}", f"{cost['together_busy']:.3f}"]


def write(runs: Sequence[Json], folder: Path) -> None:
    """Write the file, and the part of the page between its marks."""
    page = (folder / PAGE_FILE).read_text(encoding="utf-8")
    new = put_in(page, PART, to_markdown(runs))
    (folder / DATA_FILE).write_text(json.dumps({"runs": runs}, indent=1) + "\n", encoding="utf-8")
    (folder / PAGE_FILE).write_text(new, encoding="utf-8")


def read_runs(path: Path) -> list[Json]:
    """Runs of a file that this command wrote. Raises :class:`DataError` for any other file."""
    try:
        runs: list[Json] = json.loads(path.read_text(encoding="utf-8"))["runs"]
        to_markdown(runs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a file of this command ({error!r})") from None
    return runs


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--data", help="Concadia folder, or another data set of pairs.")
@click.option("--split", default="test", show_default=True, help="Split whose texts are explained.")
@click.option("--pairs", type=click.IntRange(min=1), default=32, show_default=True, help="Pairs to explain.")
@click.option("--model", default="default", show_default=True, help="Model to explain.")
@click.option("--device", "devices", multiple=True, default=("cpu",), show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Threads on the CPU; by default torch's choice.")
@click.option("--add", type=click.Path(path_type=Path), help="Take over the runs of this file instead.")
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
    file = folder / DATA_FILE
    old = read_runs(file) if file.exists() else []
    if add is not None:
        write(joined(old, read_runs(add)), folder)
        return
    from descscore.tables.open import DataOptions, load_pairs

    assert data is not None
    if threads is not None:
        torch.set_num_threads(threads)
    material = Material.of(load_pairs(data, DataOptions(keep_equal=True)).split(split)[:pairs])
    run = run_of(model, data, {device: measure(model, device, material, rounds) for device in devices})
    write(joined(old, [run]), folder)
    click.echo(to_markdown([run]))


if __name__ == "__main__":
    main()
