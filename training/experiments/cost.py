"""What training costs on this machine: ``python -m descscore.training.experiments.cost``.

ViT-B-32 with random weights (cost does not depend on their values) and made-up texts of
Concadia's lengths. A step trains on cached image features and texts as long as they
are; the comparison runs both towers for each pair, at the full context length.
"""

from __future__ import annotations

import json
import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import open_clip
import torch
from open_clip import CLIP
from torch import Tensor

from descscore.text_tower import end_positions
from descscore.training.config import Tower, preset
from descscore.training.examples import Examples
from descscore.training.losses import preference_loss
from descscore.training.plan import EpochPlan
from descscore.training.trainer import RunData, Trainer

MEAN_TOKENS, SPREAD = 20, 7
"""Start and end token included; Concadia's texts have about that many."""


@dataclass(frozen=True)
class Cost:
    """Seconds per 1,000 image pairs of one way to train, batch of 12 texts, on one device.

    peak_gib: most memory that the process has held so far (resident set on a CPU, allocated on a
    GPU), so in the order of measurement only a growing number is a new peak.
    """

    what: str
    seconds_per_1000: float
    peak_gib: float


def made_up(clip: CLIP, pairs: int, seed: int = 0) -> Examples:
    """Examples with random features and texts of random words, lengths 3 to 77."""
    rng = torch.Generator().manual_seed(seed)
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


def cached_cost(name: str, model: str, steps: int, device: torch.device) -> Cost:
    """A preset's own training steps, on cached image features."""
    clip, folder = _random(model, device), TemporaryDirectory()
    config = replace(preset(name, Tower.of(clip)), examples_per_epoch=None)
    data = made_up(clip, (steps + 2) * config.pairs_per_batch)
    with folder as path:
        trainer = Trainer(clip, RunData(data, None), config, Path(path))
        plan = EpochPlan(trainer.train_set, config, 0)
        take = lambda i: trainer._one_step(plan.batch(i), plan.examples)  # noqa: E731
        seconds = _timed(take, steps, device)
    return _cost(f"{name}, image features cached", seconds, steps * config.pairs_per_batch, device)


def both_towers_cost(model: str, steps: int, device: torch.device) -> Cost:
    """The preference loss with both towers run for each pair, texts at the full context length."""
    clip = _random(model, device)
    config = preset("bft-lora", Tower.of(clip))
    pairs = config.pairs_per_batch
    data = made_up(clip, pairs).to(device)
    with TemporaryDirectory() as path:
        trainer = Trainer(clip, RunData(data, None), config, Path(path))
    size = clip.visual.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    pixels = torch.randn(pairs, 3, height, width, device=device)

    def take(i: int) -> None:
        trainer.optimizer.zero_grad()
        with torch.no_grad():
            images = clip.encode_image(pixels)
        texts = _full_context(clip, data.tokens)
        loss = preference_loss(images, texts[:pairs], texts[pairs:], clip.logit_scale)
        torch.autograd.backward(loss)
        trainer.optimizer.step()

    return _cost("bft-lora, both towers, full context", _timed(take, steps, device), steps * pairs, device)


def _full_context(clip: CLIP, tokens: Tensor) -> Tensor:
    features: Tensor = clip.encode_text(tokens)
    assert tokens.shape[1] == clip.context_length > int(end_positions(clip, tokens).max())
    return features


def _random(model: str, device: torch.device) -> CLIP:
    torch.manual_seed(0)
    return open_clip.create_model(model, pretrained=None, device=str(device))


def _timed(take: Callable[[int], object], steps: int, device: torch.device) -> float:
    """Seconds of ``steps`` steps after two to warm up."""
    for i in range(2):
        take(i)
    _wait(device)
    began = time.perf_counter()
    for i in range(2, steps + 2):
        take(i)
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _cost(what: str, seconds: float, pairs: int, device: torch.device) -> Cost:
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    else:
        unit = 1 if sys.platform == "darwin" else 1024  # kilobytes, but bytes on macOS
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return Cost(what, 1000 * seconds / pairs, peak / 2**30)


def processor() -> str:
    """The CPU's name, with its number of threads in use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


@click.command()
@click.option("--model", default="ViT-B-32", show_default=True, help="open_clip model, random weights.")
@click.option("--steps", default=20, show_default=True, type=click.IntRange(1), help="Steps measured.")
def main(model: str, steps: int) -> None:
    """Measure and print as JSON."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else processor()
    costs = [cached_cost(preset, model, steps, device) for preset in ("bft-lora", "das-lora")]
    costs.append(both_towers_cost(model, steps, device))
    faster = costs[-1].seconds_per_1000 / costs[0].seconds_per_1000
    report = {
        "model": model,
        "device": name,
        "costs": [asdict(cost) for cost in costs],
        "times_faster": faster,
    }
    click.echo(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
