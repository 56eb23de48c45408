"""A whole fine-tuning run: data, image features, training, and the adapter folder at its end."""

from __future__ import annotations

import copy
import json
import logging
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from open_clip import CLIP

from descscore.adapters import AdapterInfo, save_full, save_lora
from descscore.errors import UsageError
from descscore.models import LoadedModel, load_model
from descscore.purpose import Purpose, save_purpose
from descscore.tables.open import DataOptions, load_pairs
from descscore.tables.rows import PreferencePair, PreferenceSet
from descscore.training.config import FinetuneConfig, published_rate
from descscore.training.data import Examples, make_examples
from descscore.training.readout import Grouped, cross_calibration, make_purpose, reference_cosines
from descscore.training.trainer import RunData, Trainer
from descscore.version import __version__

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]
Format = Literal["float32", "float16"]


@dataclass(frozen=True)
class Request:
    """What to train on what. validation: name of the split that early stopping looks at, None for none.

    reference: split whose descriptions a score's percentile refers to; None takes the
    validation split, or else the training split.
    calibration_folds: towers trained besides, each without a fold of the groups, to
    calibrate the purpose read-out on texts that its tower has not seen; 0 for none.
    weights: number format in which fully tuned weights are kept.
    """

    data: str
    output: Path
    base: str = "base"
    device: str | None = None
    train: str = "train"
    validation: str | None = "val"
    reference: str | None = None
    options: DataOptions = DataOptions()  # noqa: RUF009 - frozen
    cache: Path | None = None
    calibration_folds: int = 0
    weights: Format = "float32"


@dataclass(frozen=True)
class _Prepared:
    """The run's base before training, with its data. train: the pairs that it trains on."""

    model: LoadedModel
    untuned: CLIP
    base_weights: str
    pairs: PreferenceSet
    train: tuple[PreferencePair, ...]
    data: RunData
    reference: Examples


def finetune(request: Request, configure: Callable[[LoadedModel], FinetuneConfig], report: Report) -> Path:
    """Run to the end (or go on from the last checkpoint) and write the adapter folder.

    configure: the settings, given the base. Raises :class:`DescscoreError` for data
    without usable pairs, a loss that is not finite, or a disk that cannot be written.
    """
    model = load_model(request.base, request.device)
    if model.tuned:
        raise UsageError(f"base {request.base!r}: is an adapter; fine-tuning starts from an untuned model")
    config = configure(model)
    start = _prepare(request, model)
    trainer = Trainer(model.clip, start.data, config, request.output, report)
    trainer.train()
    if request.weights == "float16":
        _round_to_half(trainer)
    purpose = _purpose(request, trainer, start)
    if trainer.accelerator.is_main_process:
        _write(request, trainer, start, purpose)
    return request.output


def _prepare(request: Request, model: LoadedModel) -> _Prepared:
    pairs = load_pairs(request.data, request.options)
    log.info("%s", pairs.summary())
    train = pairs.split(request.train)
    cache = request.cache or request.output / "features"
    held = make_examples(model, pairs.split(request.validation), cache) if request.validation else None
    data = RunData(make_examples(model, train, cache), held)
    reference = held or data.train
    if request.reference:
        reference = make_examples(model, pairs.split(request.reference), cache)
    base_weights = model.weights_hash
    # Loaded models come frozen, made under inference; training decides itself what moves.
    model.clip.requires_grad_(True)
    return _Prepared(model, copy.deepcopy(model.clip), base_weights, pairs, train, data, reference)


@torch.no_grad()
def _round_to_half(trainer: Trainer) -> None:
    """Before anything is fitted on the tower: what is kept must be what was measured."""
    for parameter in trainer.parameters.values():
        parameter.copy_(parameter.half().float())


def _purpose(request: Request, trainer: Trainer, start: _Prepared) -> Purpose | None:
    """The purpose subspace with its read-out and reference; None where none was learned."""
    rotation, site = trainer.objective.rotation, trainer.config.site
    if rotation is None or site is None:
        return None
    grouped = Grouped(start.data.train, groups_of(start.train, start.data.train))
    matrix, tuned = rotation.matrix().detach().cpu(), trainer.objective.clip.cpu()
    reference = reference_cosines(tuned, start.reference)
    try:
        scale = None
        if request.calibration_folds:
            folder, folds = request.output / "folds", request.calibration_folds
            scale = cross_calibration(start.untuned, grouped, trainer.config, folds, folder)
        found = make_purpose(tuned, matrix, site, grouped, scale)
    except ImportError:
        log.warning("scikit-learn is not installed: no read-out, so no description_probability")
        return Purpose(site, matrix, None, reference)
    return Purpose(site, found.rotation, found.readout, reference)


def groups_of(pairs: tuple[PreferencePair, ...], examples: Examples) -> list[str]:
    """What must not be split between folds: each pair's group (book, article), or else its image."""
    owners = examples.owner.tolist()
    return [pair.group or f"image {owner}" for pair, owner in zip(pairs, owners, strict=True)]


def _write(request: Request, trainer: Trainer, start: _Prepared, purpose: Purpose | None) -> None:
    config, output = trainer.config, request.output
    base, _, tag = request.base.rpartition("/")
    known = bool(base) and not Path(request.base).is_dir()
    info = AdapterInfo(
        base=base if known else _absolute(request.base),
        base_weights=start.base_weights,
        pretrained=tag if known else None,
        tuning=config.tuning,
        block=config.block,
        k=config.k,
    )
    output.mkdir(parents=True, exist_ok=True)
    if purpose is not None:
        save_purpose(purpose, output)
    if config.tuning == "lora":
        save_lora(trainer.wrapped, info, output)
    else:
        dtype = torch.float16 if request.weights == "float16" else torch.float32
        save_full(trainer.objective.clip, start.untuned, info, output, dtype)
    text = json.dumps(_run_record(request, trainer, start.pairs), indent=1)
    (output / "run.json").write_text(text + "\n", encoding="utf-8")


def _run_record(request: Request, trainer: Trainer, pairs: PreferenceSet) -> dict[str, Any]:
    config = trainer.config
    return {
        "config": asdict(config),
        "published_learning_rate": published_rate(config.preset),
        "calibration_folds": request.calibration_folds,
        "weights": request.weights,
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


def _absolute(base: str) -> str:
    path = Path(base)
    return str(path.resolve()) if path.is_dir() and base not in ("base", "default") else base
