"""Ways to train whose cost is measured, on a model with random weights and made-up texts.

Cost does not depend on the values of weights and tokens, apart from what is shared
between texts: random texts share their start token alone, so real ones cost a little less.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import open_clip
import torch
from open_clip import CLIP
from torch import Tensor

from descscore.errors import UsageError
from descscore.interventions import Exchange, Interchanged, Site, begin, interchange_run
from descscore.models import CONFIG_FILE
from descscore.text_tower import end_positions
from descscore.training.config import FinetuneConfig, Precision, Tower, preset
from descscore.training.examples import Examples
from descscore.training.objective import TextRuns, run_batch
from descscore.training.plan import Batch, EpochPlan
from descscore.training.trainer import RunData, Trainer

MEAN_TOKENS, SPREAD = 20, 7
"""Start and end token included; Concadia's texts have about that many."""

_STEPS = 64
"""Different steps that the made-up data are enough for; then they come again."""

_TRAINED = {
    "bft-lora": ("bft-lora", False),
    "das-lora, one pass": ("das-lora", False),
    "das-lora, texts drawn as published": ("das-lora", True),
}
"""Preset, and whether its texts are drawn. Of interchanges drawn with replacement, two count as a pair: one
in each direction."""

COMPARISON = {name: f"{name}; both towers, full context" for name in _TRAINED}
"""What a way on cached features is compared with: the same steps done plainly."""

WAYS = (*COMPARISON, *COMPARISON.values())
"""Names of all ways."""


@dataclass(frozen=True)
class Setting:
    """What all ways have in common. model: a name in open_clip, or a model folder, of which only the shape
    counts. batch_size: texts a step, None for that of the presets."""

    model: str
    device: torch.device
    precision: Precision = "no"
    batch_size: int | None = None


@dataclass(frozen=True)
class Way:
    """One way to train. pairs: image pairs a step. step: take the step of that number."""

    pairs: int
    step: Callable[[int], object]


def make_way(name: str, setting: Setting) -> Way:
    """The way of that name, one of :data:`WAYS`."""
    kind, _, plainly = name.partition(";")
    trainer = _trainer(*_TRAINED[kind], setting)
    return Way(trainer.config.pairs_per_batch, _both_towers(trainer) if plainly else _cached(trainer))


def _cached(trainer: Trainer) -> Callable[[int], object]:
    """A preset's own training steps, on cached image features."""
    plan = EpochPlan(trainer.train_set, trainer.config, 0)
    return lambda i: trainer._one_step(plan.batch(i % plan.steps), plan.examples)


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
            examples = _with_images(clip, plan.examples, shown(batch, len(plan.examples)), pixels)
            loss = run_batch(trainer.objective, examples, batch, FULL).loss
        trainer.accelerator.backward(loss)
        trainer.optimizer.step()

    return step


def shown(batch: Batch, n: int) -> Tensor:
    """Rows, among ``n`` images, of those that a batch scores its texts with, each once: ``(p,)``."""
    return torch.unique(torch.cat([batch.pairs, batch.base % n]))


@torch.no_grad()
def _with_images(clip: CLIP, examples: Examples, rows: Tensor, pixels: Tensor) -> Examples:
    """The examples, the features of some images taken anew from pixels."""
    images = examples.images.clone()
    images[rows] = clip.encode_image(pixels[: len(rows)]).to(images.dtype)
    return replace(examples, images=images)


def full_encode(clip: CLIP, tokens: Tensor) -> Tensor:
    """Raw features of token rows of the full length, padding too: ``(n, length)`` -> ``(n, embed_dim)``."""
    features: Tensor = clip.encode_text(_full(clip, tokens))
    return features


def full_exchange(clip: CLIP, tokens: Tensor, exchange: Exchange, matrix: Tensor, site: Site) -> Interchanged:
    """As :func:`descscore.interventions.interchange_texts`, padding and all.

    Interchanged texts share the blocks up to the site with the texts as such; the rest runs for each.
    """
    return interchange_run(clip, begin(clip, _full(clip, tokens)), exchange, matrix, site)


def _full(clip: CLIP, tokens: Tensor) -> Tensor:
    if tokens.shape[1] != clip.context_length:
        raise ValueError(f"rows of {tokens.shape[1]} tokens, not {clip.context_length}")
    return tokens


FULL = TextRuns(full_encode, full_exchange)


def made_up(clip: CLIP, pairs: int, seed: int = 0) -> Examples:
    """Examples with random features and texts of random words, lengths 3 to 77, padded to full length."""
    rng = torch.Generator().manual_seed(seed)
    lengths = (MEAN_TOKENS + SPREAD * torch.randn(2 * pairs, generator=rng)).round().long()
    lengths = lengths.clamp(3, clip.context_length)
    tokens = torch.randint(1, clip.vocab_size - 2, (2 * pairs, clip.context_length), generator=rng)
    place = torch.arange(clip.context_length)
    tokens[:, 0] = clip.vocab_size - 2
    tokens = tokens.where(place < lengths[:, None] - 1, 0)
    tokens[torch.arange(2 * pairs), lengths - 1] = clip.vocab_size - 1
    assert torch.equal(end_positions(clip, tokens), lengths - 1)
    width = clip.text_projection.shape[1]
    images = torch.nn.functional.normalize(torch.randn(pairs, width, generator=rng), dim=1)
    return Examples(images, torch.arange(pairs), tokens)


def _trainer(name: str, drawn: bool, setting: Setting) -> Trainer:
    clip = random_model(setting)
    config = _config(preset(name, Tower.of(clip)), drawn, setting)
    data = made_up(clip, _STEPS * config.pairs_per_batch)
    with TemporaryDirectory() as folder:
        return Trainer(clip, RunData(data, None), config, Path(folder))


def _config(config: FinetuneConfig, drawn: bool, setting: Setting) -> FinetuneConfig:
    texts = setting.batch_size or config.batch_size
    return replace(
        config,
        batch_size=texts,
        examples_per_epoch=_STEPS * texts if drawn else None,
        precision=setting.precision,
    )


def random_model(setting: Setting) -> CLIP:
    """The setting's model with random weights of seed 0, made on its device."""
    folder = Path(setting.model)
    if folder.is_dir():
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["model_cfg"]
    else:
        config = open_clip.get_model_config(setting.model)
        if config is None:
            raise UsageError(f"model {setting.model!r}: neither a folder nor a name that open_clip knows")
    known = inspect.signature(CLIP).parameters
    torch.manual_seed(0)
    with setting.device:
        return CLIP(**{name: value for name, value in config.items() if name in known})
