"""A whole fine-tuning run: pairs to examples, training, the purpose read-out, and the adapter folder."""

from __future__ import annotations

import copy
import json
import logging
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from descscore import __version__
from descscore.adapters import RUN_FILE, Adapter, AdapterInfo, include_base, save_full, save_lora
from descscore.clip import CLIP
from descscore.errors import DataError, ModelError, UsageError
from descscore.files import atomic_write
from descscore.hub import parse_name
from descscore.models import LoadedModel, load_model
from descscore.purpose import Purpose, save_purpose
from descscore.tables.open import DataOptions, load_pairs
from descscore.tables.rows import PreferencePair, PreferenceSet
from descscore.training.config import FinetuneConfig, Tower
from descscore.training.data import Examples, make_examples
from descscore.training.lora import tower_shape
from descscore.training.objective import site_of
from descscore.training.readout import (
    TEXTS_A_PAIR,
    ReadoutTexts,
    calibrated,
    comparison_cosines,
    decisions,
    fit,
    fold_of,
    policy_calibration,
)
from descscore.training.trainer import RunData, Trainer

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]
Format = Literal["float32", "float16"]


CALIBRATION_FOLDS = 3
"""They cost twice the training itself."""


@dataclass(frozen=True)
class Request:
    """What to train on which data, and where to write it."""

    data: str
    """Concadia folder, table (CSV, JSONL, Parquet), or hub data set of pairs."""
    output: Path
    """Folder for the adapter and the checkpoints."""
    base: str = "base"
    """The untuned model to start from, as :func:`descscore.models.load_model` takes it."""
    device: str | None = None
    """Torch device; None takes a GPU where there is one."""
    train: str = "train"
    """Name of the split to train on."""
    extra: str | None = None
    """Name of a second split to train on, which the read-out never sees: made-up texts are told apart too
    easily, and would make its probabilities too extreme. None for no such split."""
    validation: str | None = "val"
    """Name of the split to validate on; None for no validation."""
    comparison: str | None = None
    """Split whose descriptions a score's percentile refers to; None takes the validation split, or
    else the training split."""
    options: DataOptions = DataOptions()  # noqa: RUF009 - frozen
    """How the data are read."""
    cache: Path | None = None
    """Folder for image features; None keeps them in ``output``."""
    calibration_folds: int = CALIBRATION_FOLDS
    """Number of extra towers, each trained without some groups, that calibrate the read-out on texts that
    their tower has not seen. With 0 there is no read-out, and so no ``description_probability``."""
    weights: Format = "float32"
    """Number format in which tuned weights are kept."""


@dataclass(frozen=True)
class _Prepared:
    """A run before training: an untouched copy of the base, and the data."""

    untuned: CLIP
    base: LoadedModel
    """What was loaded; training changes its weights."""
    pairs: PreferenceSet
    data: RunData
    for_readout: Tensor
    """Which training pairs the read-out sees, ``(n,)`` bool: all but those of the extra split."""
    comparison: Examples


def finetune(request: Request, configure: Callable[[Tower], FinetuneConfig], report: Report) -> Path:
    """Run to the end (or go on from the last checkpoint) and write the adapter folder.

    Args:
        request: What to train on which data.
        configure: Called with the shape of the base's text tower, gives the settings.
        report: Called with every line of the history.

    Returns:
        The adapter folder.

    Raises:
        DescscoreError: The data have no usable pairs, the extra split has another use, scikit-learn is
            missing, the loss is not finite, or the disk cannot be written.
    """
    model = load_model(request.base, request.device)
    if model.tuned:
        raise UsageError(f"base {request.base!r}: is an adapter; fine-tuning starts from an untuned model")
    try:
        tower = tower_shape(model.clip)
    except ModelError as error:
        raise UsageError(f"base {request.base!r}: {error}") from None
    config = configure(tower)
    if site_of(config) is not None and request.calibration_folds and find_spec("sklearn") is None:
        raise UsageError(
            "the read-out needs scikit-learn, which is not installed; run: pip install 'descscore[train]', "
            "or give --calibration-folds 0 for a model without description_probability"
        )
    start = _prepare(request, model)
    trainer = Trainer(model.clip, start.data, config, request.output, report)
    trainer.train()
    log.info("trained %d steps; %s", trainer.step, _what_is_left(request, trainer, start))
    if request.weights == "float16":
        _round_to_half(trainer)
    purpose = _purpose(request, trainer, start)
    if trainer.accelerator.is_main_process:
        log.info("writes the adapter to %s", request.output)
        _write(request, trainer, start, purpose)
    return request.output


def _what_is_left(request: Request, trainer: Trainer, start: _Prepared) -> str:
    """What comes after the last step, so that nobody thinks that the run hangs."""
    if site_of(trainer.config) is None:
        return "only the adapter is left to be written"
    parts = [f"cosines of {len(start.comparison):,} comparison descriptions"]
    if request.calibration_folds:
        parts.append(
            f"{request.calibration_folds} towers of up to {trainer.total_steps} steps for calibration"
        )
        parts.append(f"the read-out of {TEXTS_A_PAIR * int(start.for_readout.sum()):,} texts")
    return f"left: {', '.join(parts)}"


def _prepare(request: Request, model: LoadedModel) -> _Prepared:
    taken = (request.train, request.validation, request.comparison)
    if request.extra is not None and request.extra in taken:
        raise UsageError(f"extra split {request.extra!r}: has another use in this run")
    pairs = load_pairs(request.data, request.options)
    log.info("%s", pairs.summary())
    cache = request.cache or request.output / "features"

    def pairs_of(split: str | None, option: str) -> Sequence[PreferencePair]:
        if split and set(pairs.splits()) == {""}:
            raise DataError(
                f"{pairs.source}: its pairs have no splits, so none is {split!r}; add a column 'split', or "
                "give --train-split '' --validation-split '' to train on all pairs without a validation"
            )
        try:
            return () if split is None else pairs.split(split)
        except DataError as error:
            raise DataError(f"{error}; --{option}-split names another one") from None

    def examples(chosen: Sequence[PreferencePair]) -> Examples | None:
        return make_examples(model, chosen, cache) if chosen else None

    shown = pairs_of(request.train, "train")  # an empty name is the split of data without splits
    extra = pairs_of(request.extra or None, "extra")
    validated = pairs_of(request.validation or None, "validation")
    compared = pairs_of(request.comparison or None, "reference")
    train = make_examples(model, [*shown, *extra], cache)
    validation = examples(validated)
    for_readout = torch.arange(len(train)) < len(shown)
    comparison = examples(compared) or validation or train.select(for_readout)
    # Loaded models come frozen, made under inference; training decides itself which weights change.
    model.clip.requires_grad_(True)
    data = RunData(train, validation)
    return _Prepared(copy.deepcopy(model.clip), model, pairs, data, for_readout, comparison)


@torch.no_grad()
def _round_to_half(trainer: Trainer) -> None:
    """Before anything is fitted on the tower: the weights that are kept must be those that were measured."""
    for parameter in trainer.parameters.values():
        parameter.copy_(parameter.half().float())


def _purpose(request: Request, trainer: Trainer, start: _Prepared) -> Purpose | None:
    """The purpose subspace with its read-out and comparison cosines; None where none was learned."""
    rotation, site = trainer.objective.rotation, site_of(trainer.config)
    if rotation is None or site is None:
        return None
    matrix, tuned = rotation.matrix().detach().cpu(), trainer.objective.clip.cpu()
    plain = Purpose(site, matrix, None, comparison_cosines(tuned, start.comparison))
    train, folds = start.data.train, request.calibration_folds
    if not folds:
        return plain
    if not _can_calibrate(train, start.for_readout, folds):
        message = "too few groups for %d calibration folds: no read-out, so no description_probability"
        log.warning(message, folds)
        return plain
    towers = train_folds(start.untuned, train, folds, trainer.config, request.output / "folds")
    scale = cross_calibration(towers, train, start.for_readout)
    shown = train.select(start.for_readout)
    log.info("read-out: fits on %d texts", TEXTS_A_PAIR * len(shown))
    ordered, fitted = fit(tuned, matrix, site, shown)
    return replace(plain, rotation=ordered, readout=calibrated(fitted, *scale))


def _can_calibrate(examples: Examples, for_readout: Tensor, folds: int) -> bool:
    """Whether each fold holds pairs for the read-out, and leaves two groups of them to fit it on."""
    if len(set(examples.groups)) < folds:
        return False
    fold = fold_of(examples.groups, folds)
    held = [examples.select((fold == number) & for_readout).groups for number in range(folds)]
    left = [examples.select((fold != number) & for_readout).groups for number in range(folds)]
    return all(held) and all(len(set(groups)) >= 2 for groups in left)


def cross_calibration(
    towers: Iterable[tuple[Tensor, Trainer]], examples: Examples, for_readout: Tensor
) -> tuple[float, float]:
    """Scale and shift of a read-out's decision values, from towers that have not seen the texts.

    A read-out fitted on the texts that its tower was trained on is too sure of itself: training has
    already driven those texts apart. So each fold of whole groups (books, articles) is decided by a tower
    trained on the others.

    Args:
        towers: As :func:`train_folds` yields them.
        examples: The training split, with its groups: ``n`` pairs.
        for_readout: Which of the pairs the read-out may see, ``(n,)`` bool.
    """
    odds, unseen = [], []
    for held, trainer in towers:
        rotation, site = trainer.objective.rotation, site_of(trainer.config)
        assert rotation is not None and site is not None  # noqa: PT018 - the loss has a subspace
        tuned, seen = trainer.objective.clip.cpu(), examples.select(~held & for_readout)
        ordered, fitted = fit(tuned, rotation.matrix().detach().cpu(), site, seen)
        texts = ReadoutTexts.of(examples.select(held & for_readout))
        odds.append(decisions(fitted, texts.coordinates(tuned, Purpose(site, ordered))))
        unseen.append(texts)
    return policy_calibration(odds, unseen)


def train_folds(
    clip: CLIP, examples: Examples, folds: int, config: FinetuneConfig, folder: Path
) -> Iterator[tuple[Tensor, Trainer]]:
    """Train a copy of the untuned ``clip`` for each fold of whole groups, on all other folds.

    Yields:
        The pairs in the fold, ``(n,)`` bool, and the trainer of the tower that has not seen them. Its
        checkpoint stays in ``folder``: started again, it is not trained twice.
    """
    fold = fold_of(examples.groups, folds)
    for number in range(folds):
        held, name = fold == number, f"tower {number + 1} of {folds}"
        place = folder / name.replace(" ", "-")
        log.info("%s: trains without %d of %d pairs", name, int(held.sum()), len(examples))

        def report(line: dict[str, Any], name: str = name) -> None:
            log.info("%s: step %d", name, line["step"])

        yield held, train_without(clip, examples, ~held, config, place, report)


def train_without(
    clip: CLIP,
    examples: Examples,
    keep: Tensor,
    config: FinetuneConfig,
    folder: Path,
    report: Report = lambda line: None,
) -> Trainer:
    """Train a copy of the untuned ``clip`` where ``keep`` ``(n,)`` is true; no validation, one checkpoint.

    report: called every ``validate_every`` steps.
    """
    quiet = replace(config, save_every=10**9, patience=None)
    fresh = copy.deepcopy(clip).requires_grad_(True)
    trainer = Trainer(fresh, RunData(examples.select(keep), None), quiet, folder, report)
    trainer.train()
    return trainer


def _write(request: Request, trainer: Trainer, start: _Prepared, purpose: Purpose | None) -> None:
    config, output = trainer.config, request.output
    output.mkdir(parents=True, exist_ok=True)
    base, tag = request.base, None
    if base != "base" and Path(base).is_dir():
        base = include_base(Path(base), output)
    elif "/" in base and parse_name(base) is None:
        base, _, tag = base.rpartition("/")
    info = AdapterInfo(
        base=base,
        base_weights=start.base.weights_hash,
        pretrained=tag,
        tuning=config.tuning,
        block=config.block,
        k=config.k,
    )
    if purpose is not None:
        save_purpose(purpose, output)
    dtype = torch.float16 if request.weights == "float16" else torch.float32
    if config.tuning == "lora":
        save_lora(trainer.wrapped, info, output, dtype)
    else:
        save_full(trainer.objective.clip, start.untuned, info, output, dtype)
    record = {"base_licence": start.base.licence, **_run_record(request, trainer, start.pairs)}
    text = json.dumps(record, indent=1)
    with atomic_write(output / RUN_FILE) as part:
        part.write_text(text + "\n", encoding="utf-8")
    Adapter(output).write_card()


def _run_record(request: Request, trainer: Trainer, pairs: PreferenceSet) -> dict[str, Any]:
    config = trainer.config
    return {
        "config": asdict(config),
        "calibration_folds": request.calibration_folds,
        "weights": request.weights,
        "data": request.data,
        "pairs": pairs.splits(),
        "splits": {
            "train": request.train,
            "extra": request.extra,
            "validation": request.validation,
            "comparison": request.comparison,
        },
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
