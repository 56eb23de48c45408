"""A whole fine-tuning run: data, image features, training, and the adapter folder at its end."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from descscore.adapters import AdapterInfo, save_full, save_lora
from descscore.datasets import DataOptions, load_pairs
from descscore.errors import UsageError
from descscore.models import LoadedModel, load_model
from descscore.pairs import PairSet
from descscore.readout import Purpose, save_purpose
from descscore.training.config import FinetuneConfig, published_rate
from descscore.training.examples import Examples, make_examples
from descscore.training.trainer import RunData, Trainer
from descscore.version import __version__

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Request:
    """What to train on what. validation: name of the split that early stopping looks at, None for none."""

    data: str
    output: Path
    base: str = "base"
    device: str | None = None
    train: str = "train"
    validation: str | None = "val"
    options: DataOptions = DataOptions()  # noqa: RUF009 - frozen
    cache: Path | None = None


def finetune(request: Request, configure: Callable[[LoadedModel], FinetuneConfig], report: Report) -> Path:
    """Run to the end (or go on from the last checkpoint) and write the adapter folder.

    configure: the settings, given the base. Raises :class:`DescscoreError` for data
    without usable pairs, a loss that is not finite, or a disk that cannot be written.
    """
    model = load_model(request.base, request.device)
    if model.tuned:
        raise UsageError(f"base {request.base!r}: is an adapter; fine-tuning starts from an untuned model")
    config = configure(model)
    pairs = load_pairs(request.data, request.options)
    log.info("%s", pairs.summary())
    data = RunData(_examples(request, model, pairs, request.train), _held_out(request, model, pairs))
    base_weights = model.weights_hash
    _trainable(model)
    trainer = Trainer(model.clip, data, config, request.output, report)
    trainer.train()
    if trainer.accelerator.is_main_process:
        _write(request, trainer, base_weights, pairs)
    return request.output


def _trainable(model: LoadedModel) -> None:
    """Loaded models come frozen, made under inference; training decides itself what moves."""
    model.clip.requires_grad_(True)


def _examples(request: Request, model: LoadedModel, pairs: PairSet, split: str) -> Examples:
    cache = request.cache or request.output / "features"
    return make_examples(model, pairs.split(split), cache)


def _held_out(request: Request, model: LoadedModel, pairs: PairSet) -> Examples | None:
    if request.validation is None:
        return None
    return _examples(request, model, pairs, request.validation)


def _write(request: Request, trainer: Trainer, base_weights: str, pairs: PairSet) -> None:
    config, output = trainer.config, request.output
    base, _, tag = request.base.rpartition("/")
    known = bool(base) and not Path(request.base).is_dir()
    info = AdapterInfo(
        base=base if known else _absolute(request.base),
        base_weights=base_weights,
        pretrained=tag if known else None,
        tuning=config.tuning,
        block=config.block,
        k=config.k,
    )
    rotation = trainer.objective.rotation
    if rotation is not None and config.site is not None:
        output.mkdir(parents=True, exist_ok=True)
        save_purpose(Purpose(config.site, rotation.matrix()), output)
    if config.tuning == "lora":
        save_lora(trainer.wrapped, info, output)
    else:
        save_full(trainer.objective.clip, info, output)
    run = {
        "config": asdict(config),
        "published_learning_rate": published_rate(config.preset),
        "data": request.data,
        "pairs": pairs.splits(),
        "unusable": pairs.reasons(),
        "trained_values": sum(p.numel() for p in trainer.trained),
        "steps": trainer.step,
        "seconds": round(trainer.seconds, 1),
        "processes": trainer.accelerator.num_processes,
        "device": str(trainer.device),
        "versions": {
            "descscore": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "history": trainer.history,
    }
    (output / "run.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


def _absolute(base: str) -> str:
    path = Path(base)
    return str(path.resolve()) if path.is_dir() and base not in ("base", "default") else base
