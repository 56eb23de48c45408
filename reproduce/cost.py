"""What training costs on this machine: ``python -m reproduce.cost --output docs``.

ViT-B-32 with random weights and made-up texts of Concadia's lengths. A step trains on cached image
features; it is compared with the same step when both towers run for each pair, at the full context
length. The ways take turns, so that other load on the machine slows all of them.

Cost does not depend on the values of weights and tokens, apart from beginnings that texts share: random
texts share their start token alone, so real ones cost a little less.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from open_clip import CLIP
from torch import Tensor

from descscore.errors import DescscoreError
from descscore.eval.formatting import counted
from descscore.eval.timing import flops, in_turn, machine, random_clip, seconds
from descscore.interchange import Exchange, Interchanged, interchange_run
from descscore.models import check_device
from descscore.options import PATH
from descscore.purpose import Site
from descscore.towers.text import begin
from descscore.training.config import MixedPrecision, preset
from descscore.training.data import Batch, EpochPlan, Examples
from descscore.training.lora import tower_shape
from descscore.training.objective import TextRuns, run_batch
from descscore.training.trainer import RunData, Trainer
from reproduce.pages import Json, Part, read_json, render

GOAL = 5.0
"""How many times faster than its comparison a pair should be, on a CPU."""
_PRECISIONS = {"no": "float32", "fp16": "float16", "bf16": "bfloat16"}
MEAN_TOKENS, SPREAD = 20, 7
"""Mean and spread of a text's tokens, start and end token included, about as in Concadia."""
_STEPS = 64
"""Number of steps until the made-up data repeat."""
WARM_UP = 2
"""Steps that are not counted, at the start."""
OWN_PROCESS = "spawn"
"""How to start the process whose memory is measured. A forked one would not count the libraries that its
parent has loaded (0.3 GiB)."""
_TRAINED = {
    "bft-lora": ("bft-lora", False),
    "das-lora, one pass": ("das-lora", False),
    "das-lora, texts drawn as published": ("das-lora", True),
}
"""Preset, and whether its texts are drawn. Of interchanges drawn with replacement, two count as a pair: one
in each direction."""
COMPARISON = {name: f"{name}; both towers, full context" for name in _TRAINED}
"""Each way on cached features, and what it is compared with: the same steps done plainly."""
WAYS = (*COMPARISON, *COMPARISON.values())
"""Names of all ways."""


@dataclass(frozen=True)
class Setting:
    """What all ways have in common."""

    model: str
    """Name in open_clip, or a model folder. Only its shape counts."""
    device: torch.device
    precision: MixedPrecision = "no"
    batch_size: int | None = None
    """Texts in a step; None for the presets' number."""


def measure(setting: Setting, rounds: int, steps: int) -> dict[str, Any]:
    """The costs of every way, as the file keeps them.

    Returns:
        ``seconds_per_1000``: of 1,000 image pairs, the median over ``rounds`` of ``steps`` steps each.
        ``gflop_a_pair``: matrix products of the first ``steps`` steps. ``peak_gib``: on a CPU all memory that
        is resident in a process that only trains in this way; on a GPU the memory allocated for it.
        ``times_...``: against the same steps done plainly.
    """
    peaks, ways = {}, {}
    for name in WAYS:
        ways[name], peaks[name] = _warm(name, setting)
    seconds = _seconds(ways, setting.device, rounds, steps)
    work = {name: _gflop(way, steps) for name, way in ways.items()}
    costs = [
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
        "ways": costs,
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
    for i in range(WARM_UP):
        way.step(i)
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
    """The most memory that this process has held so far, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # kilobytes, but bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _seconds(ways: Mapping[str, Way], device: torch.device, rounds: int, steps: int) -> dict[str, float]:
    """Seconds of 1,000 image pairs, for each way; each turn goes on with the next steps."""

    def timed(way: Way) -> Callable[[], float]:
        numbers = count(WARM_UP)
        return lambda: seconds(lambda: [way.step(next(numbers)) for _ in range(steps)], device)

    times = in_turn({name: timed(way) for name, way in ways.items()}, rounds)
    return {name: 1000 * statistics.median(times[name]) / (steps * way.pairs) for name, way in ways.items()}


def _gflop(way: Way, steps: int) -> float:
    """GFLOP of a pair, over the first steps that are also timed."""
    total = flops(lambda: [way.step(WARM_UP + i) for i in range(steps)])
    return total / (1e9 * steps * way.pairs)


@dataclass(frozen=True)
class Way:
    """One way to train."""

    pairs: int
    """Image pairs in a step."""
    step: Callable[[int], object]
    """Takes the step of that number."""


def make_way(name: str, setting: Setting) -> Way:
    """The way of that name, one of :data:`WAYS`."""
    kind, _, plainly = name.partition(";")
    trainer = _trainer(*_TRAINED[kind], setting)
    return Way(trainer.config.pairs_per_batch, _both_towers(trainer) if plainly else _cached(trainer))


def _trainer(name: str, drawn: bool, setting: Setting) -> Trainer:
    clip = random_clip(setting.model, setting.device)
    config = preset(name, tower_shape(clip))
    texts = setting.batch_size or config.batch_size
    examples = _STEPS * texts if drawn else None
    config = replace(config, batch_size=texts, examples_per_epoch=examples, precision=setting.precision)
    data = made_up(clip, _STEPS * config.pairs_per_batch)
    with TemporaryDirectory() as folder:
        return Trainer(clip, RunData(data, None), config, Path(folder))


def made_up(clip: CLIP, pairs: int) -> Examples:
    """Examples with random features and texts of random words, lengths 3 to 77, padded to full length."""
    rng = torch.Generator().manual_seed(0)
    lengths = (MEAN_TOKENS + SPREAD * torch.randn(2 * pairs, generator=rng)).round().long()
    lengths = lengths.clamp(3, clip.context_length)
    tokens = torch.randint(1, clip.vocab_size - 2, (2 * pairs, clip.context_length), generator=rng)
    place = torch.arange(clip.context_length)
    tokens[:, 0] = clip.vocab_size - 2
    tokens = tokens.where(place < lengths[:, None] - 1, 0)
    tokens[torch.arange(2 * pairs), lengths - 1] = clip.vocab_size - 1
    width = clip.text_projection.shape[1]
    images = torch.nn.functional.normalize(torch.randn(pairs, width, generator=rng), dim=1)
    return Examples(images, torch.arange(pairs), tokens)


def _cached(trainer: Trainer) -> Callable[[int], object]:
    """A preset's own training steps, on cached image features."""
    plan = EpochPlan(trainer.train_set, trainer.config, 0)
    return lambda i: trainer.take_step(plan.batch(i % plan.steps), plan.examples)


def _both_towers(trainer: Trainer) -> Callable[[int], object]:
    """The same steps with plain open_clip: both towers run for each pair, texts at full context."""
    clip, plan = trainer.objective.clip, EpochPlan(trainer.train_set, trainer.config, 0)
    size = clip.visual.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    pixels = torch.randn(trainer.config.batch_size, 3, height, width, device=trainer.device)

    def step(i: int) -> None:
        batch = plan.batch(i % plan.steps).to(trainer.device)
        trainer.optimizer.zero_grad()
        with trainer.accelerator.autocast():
            examples = _with_images(clip, plan.examples, scored_images(batch, len(plan.examples)), pixels)
            loss = run_batch(trainer.objective, examples, batch, FULL).loss
        trainer.accelerator.backward(loss)
        trainer.optimizer.step()

    return step


def scored_images(batch: Batch, n: int) -> Tensor:
    """The images that a batch scores its texts with, each once: row numbers ``(p,)`` below ``n``."""
    return torch.unique(torch.cat([batch.pairs, batch.base % n]))


@torch.no_grad()
def _with_images(clip: CLIP, examples: Examples, rows: Tensor, pixels: Tensor) -> Examples:
    """The examples, with the features of some images computed from pixels."""
    images = examples.images.clone()
    images[rows] = clip.encode_image(pixels[: len(rows)]).to(images.dtype)
    return replace(examples, images=images)


def full_exchange(clip: CLIP, tokens: Tensor, exchange: Exchange, matrix: Tensor, site: Site) -> Interchanged:
    """As :func:`descscore.interchange.interchange_texts`, padding and all.

    Interchanged texts share the blocks up to the site with the texts as such; the rest runs for each.
    """
    return interchange_run(clip, begin(clip, tokens), exchange, matrix, site)


FULL = TextRuns(CLIP.encode_text, full_exchange)
"""Both ways of plain open_clip, which runs rows as long as they are; those of :func:`made_up` are full."""


def setting_of(run: Json) -> tuple[str, int, str]:
    """Device, texts in a step and number format of a run."""
    return str(run["device"]), int(run["batch_size"]), str(run["precision"])


def to_markdown(costs: Json) -> str:
    """The marked part of the page: a table for each device, with a note if the goal is missed.

    The goal is for float32 on a CPU.
    """
    tables: dict[str, dict[str, Any]] = {}
    for run in costs["runs"]:
        table = tables.setdefault(run["device"], {"runs": [], "about": {}})
        table["runs"].append(run)
        counts = [counted(run[f"{one}s"], one) for one in ("thread", "round", "step")]
        about = "{}, {}; medians of {} of {}".format(run["machine"], *counts)
        table["about"][about] = None  # once, where several runs have it
    given = {"precisions": _PRECISIONS, "comparison": COMPARISON, "goal": GOAL}
    return render("training_cost", tables=list(tables.values()), **given)


PART = Part("training_cost.json", "training.md", "cost", to_markdown)


def merge_runs(known: Sequence[Json], new: Sequence[Json]) -> list[Json]:
    """All runs in the order of their settings; a new run replaces the known one of the same setting."""
    runs = {setting_of(run): run for run in (*known, *new)}
    return [runs[key] for key in sorted(runs)]


@click.command()
@click.option("--model", default="ViT-B-32", show_default=True, help="Name in open_clip, or a model folder.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="By default a GPU if there is one.")
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
    help="Texts in a step, by default the presets' 12. May be given several times.",
)
@click.option("--rounds", default=9, show_default=True, type=click.IntRange(1), help="Turns of every way.")
@click.option("--steps", default=3, show_default=True, type=click.IntRange(1), help="Steps a turn.")
@click.option("--output", type=PATH, help="Folder of the documentation, to write into.")
def main(
    model: str,
    device: str | None,
    precisions: tuple[Any, ...],
    sizes: tuple[int, ...],
    rounds: int,
    steps: int,
    output: Path | None,
) -> None:
    """Measure and print as JSON; with --output, add the runs to those of other machines and settings."""
    where = check_device(device)
    _keep_to(where)
    settings = [
        Setting(model, where, precision, size) for size in sizes or (None,) for precision in precisions
    ]
    known = read_json(output / PART.data).get("runs", []) if output else []  # before it measures for long
    runs = [measure(setting, rounds, steps) for setting in settings]
    click.echo(json.dumps({"runs": runs}, indent=1))
    if output:
        PART.write({"runs": merge_runs(known, runs)}, output)


def _keep_to(device: torch.device) -> None:
    if device.type == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"  # it would take a GPU that is there


if __name__ == "__main__":
    main()
