"""The training loop: fine-tune a CLIP's text tower to prefer descriptions.

After Zur et al. 2024 (arXiv 2406.09458): image features are fixed; Adam has no weight decay, and
gradients are not clipped. Started again with the same settings and data, a run goes on from its
last checkpoint, to the same weights.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from descscore.adapters import weights_hash
from descscore.clip import CLIP
from descscore.errors import DataError, DescscoreError, UsageError
from descscore.interchange import Rotation
from descscore.purpose import check_site
from descscore.towers.blocks import own_text_tower
from descscore.training.checkpoint import (
    Checkpoint,
    latest,
    load_checkpoint,
    load_optimizer,
    optimizer_tensors,
    save_checkpoint,
)
from descscore.training.config import DEFAULTS, FinetuneConfig
from descscore.training.data import Batch, EpochPlan, Examples, WordSwap, read_vocabulary, with_neither
from descscore.training.lora import Interpolation, attach_lora, select_full, trained_parameters
from descscore.training.objective import Objective, StepResult, Untuned, run_batch, site_of, validate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunData:
    """The examples of a run."""

    train: Examples
    validation: Examples | None
    """None for no validation, and so no early stopping."""


class Trainer:
    """One run.

    Args:
        clip: The untuned model, changed in place.
        data: What to train and to validate on.
        config: All settings.
        folder: Checkpoints go to ``folder/checkpoints``; the run goes on from the last one there.
        report: Called with every line of the history (training means and validations).

    Raises:
        UsageError: The settings do not fit the model or the number of processes, or the folder holds
            a run with other settings or of another base.
        DataError: The folder holds a run on other data, or a damaged checkpoint.
    """

    def __init__(
        self,
        clip: CLIP,
        data: RunData,
        config: FinetuneConfig,
        folder: Path,
        report: Callable[[dict[str, Any]], None] = lambda line: None,
    ) -> None:
        self.accelerator = _accelerator(config.precision)
        self._check_processes(config)
        self.config, self.folder, self.report = config, folder, report
        self.device = self.accelerator.device
        self.base_weights = weights_hash(clip)
        clip.to(self.device).eval()  # no dropout anywhere; batch statistics never move
        self.train_set = data.train.to(self.device)
        held_out = data.validation.sample(config.validation_pairs) if data.validation else None
        if held_out and config.neither_weight:
            held_out = with_neither(held_out, torch.Generator().manual_seed(0))
        self.held_out = held_out.to(self.device) if held_out else None
        self.words = _words(clip, self.train_set, config)
        self.wrapped: Any = None  # the LoRA wrapper, None with full tuning
        self.objective = self._objective(clip)
        self.parameters = trained_parameters(clip)
        blended = config.interpolation < 1
        self.start = Interpolation(self.parameters, config.tuning == "lora") if blended else None
        self.trained: list[nn.Parameter] = list(self.parameters.values())
        self.trained += list(self.objective.rotation.parameters()) if self.objective.rotation else []
        adam = torch.optim.Adam(self.trained, lr=config.learning_rate, fused=True)
        self.optimizer = self.accelerator.prepare(adam)
        self.step, self.waited = 0, 0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.best_score, self.seconds = -math.inf, 0.0
        self.steps_per_epoch = config.steps_per_epoch(len(self.train_set))
        self.total_steps = config.epochs * self.steps_per_epoch
        self._resume()

    def _objective(self, clip: CLIP) -> Objective:
        """What is minimised, once the weights that training changes are chosen."""
        config, site = self.config, site_of(self.config)
        held = config.hold_weight or config.spread_weight
        untuned = Untuned.of(clip, self.train_set) if held else None  # a copy, before LoRA joins
        if config.tuning == "lora":
            rank, alpha = config.lora_rank or 1, config.lora_alpha
            self.wrapped = attach_lora(clip, rank, alpha, config.seed, config.lora_targets)
        else:
            select_full(clip)
        if site is None:
            return Objective(clip, None, config, untuned)
        check_site(clip, site)
        width = own_text_tower(clip).transformer.width
        return Objective(clip, Rotation(width, config.seed).to(self.device), config, untuned)

    def train(self) -> None:
        """Train to the end, or until validation has not improved for ``patience`` validations."""
        per_epoch, plan, epoch = self.steps_per_epoch, None, -1
        sums = _Sums()
        while self.step < self.total_steps and not self._exhausted:
            began = time.monotonic()
            if self.step // per_epoch != epoch:
                epoch = self.step // per_epoch
                plan = EpochPlan(self.train_set, self.config, epoch, self.words)
            assert plan is not None
            sums.add(self.take_step(plan.batch(self.step % per_epoch), plan.examples))
            self.step += 1
            self.seconds += time.monotonic() - began
            last = self.step == self.total_steps
            if self.step % self.config.validate_every == 0 or last:
                self._measure(sums, epoch)
                sums = _Sums()
            if self.step % self.config.save_every == 0 or last:
                self.save()
        if self.best:
            self._load_weights(self.best)
        if self.start is not None:
            self.start.apply(self.parameters, self.config.interpolation)

    @property
    def _exhausted(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.waited >= patience

    def _check_processes(self, config: FinetuneConfig) -> None:
        parts = self.accelerator.num_processes * config.accumulation
        if config.pairs_per_batch % parts:
            raise UsageError(
                f"batch_size {config.batch_size}: its {config.pairs_per_batch} pairs cannot be cut into "
                f"{parts} equal parts (processes times accumulation)"
            )

    def take_step(self, batch: Batch, examples: Examples) -> list[StepResult]:
        """Update the weights once; the result of each accumulated part.

        Raises :class:`DescscoreError` for a loss that is not finite.
        """
        processes, count = self.accelerator.num_processes, self.config.accumulation
        results = []
        self.optimizer.zero_grad()
        for index in range(count):
            part = batch.part(index, count).part(self.accelerator.process_index, processes).to(self.device)
            with self.accelerator.autocast():
                result = run_batch(self.objective, examples, part)
            if not torch.isfinite(result.loss):
                raise DescscoreError(
                    f"the loss is {float(result.loss.detach())} at step {self.step + 1}; lower the "
                    f"learning rate. Last checkpoint: {latest(self.checkpoints)}"
                )
            self.accelerator.backward(result.loss / count)
            results.append(result)
        self._average_gradients()
        self._set_rate()
        self.optimizer.step()
        return results

    def _set_rate(self) -> None:
        if self.config.schedule == "linear":
            left = 1 - self.step / self.total_steps
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.learning_rate * left

    def _average_gradients(self) -> None:
        """The mean over processes; texts run through several functions, so no wrapper can do it."""
        if self.accelerator.num_processes > 1:
            for parameter in self.trained:
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, "mean")

    def _measure(self, sums: _Sums, epoch: int) -> None:
        line: dict[str, Any] = {"step": self.step, "epoch": epoch + 1, "seconds": round(self.seconds, 1)}
        line |= {f"train_{name}": value for name, value in sums.means(self.accelerator).items()}
        if self.held_out is not None:
            with self.accelerator.autocast():
                measured = validate(self.objective, self.held_out)
            line |= {f"validation_{name}": value for name, value in measured.items()}
            self.waited += 1
            if measured["score"] > self.best_score:
                self.waited, self.best_score = 0, measured["score"]
                # A copy: a reference would follow the live weights and always be the last.
                self.best = {name: value.detach().clone() for name, value in self.weights().items()}
        self.history.append(line)
        if self.accelerator.is_main_process:
            self.report(line)

    def weights(self) -> dict[str, Tensor]:
        """All that training changes, by name: the trained weights and the rotation's."""
        rotation = self.objective.rotation
        turned = {f"rotation.{k}": v for k, v in rotation.state_dict().items()} if rotation else {}
        return {**self.parameters, **turned}

    @torch.no_grad()
    def _load_weights(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])
        if self.objective.rotation:
            prefix = "rotation."
            state = {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
            self.objective.rotation.load_state_dict(state)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def save(self) -> None:
        """Write a checkpoint (main process only)."""
        if not self.accelerator.is_main_process:
            return
        groups = {"weights": self.weights(), "optimizer": optimizer_tensors(self.optimizer.optimizer)}
        state = {
            "config": asdict(self.config),
            "base_weights": self.base_weights,
            "data": self._fingerprints(),
            "step": self.step,
            "seconds": self.seconds,
            "waited": self.waited,
            "best_score": self.best_score if self.best else None,
            "history": self.history,
            "scaler": scaler.state_dict() if (scaler := self.accelerator.scaler) else None,
        }
        if self.best:
            groups["best"] = self.best
        save_checkpoint(self.checkpoints, self.step, Checkpoint(groups, state))

    def _fingerprints(self) -> list[str | None]:
        return [part.fingerprint() if part else None for part in (self.train_set, self.held_out)]

    def _resume(self) -> None:
        path = latest(self.checkpoints)
        if path is None:
            return
        checkpoint = load_checkpoint(path)
        state, groups = checkpoint.state, checkpoint.groups
        kept = DEFAULTS | state["config"]
        changed = [name for name, value in asdict(self.config).items() if kept.get(name) != value]
        if changed:
            raise UsageError(
                f"{path}: belongs to a run with other settings ({', '.join(changed)}); use another folder"
            )
        # A checkpoint from before this entry has none.
        if state.get("base_weights", self.base_weights) != self.base_weights:
            raise UsageError(f"{path}: belongs to a run that started from another base; use another folder")
        if state["data"] != self._fingerprints():
            raise DataError(f"{path}: belongs to a run on other data; use another folder")
        self._load_weights({k: v.to(self.device) for k, v in groups["weights"].items()})
        load_optimizer(self.optimizer.optimizer, groups["optimizer"])
        self.best = {k: v.to(self.device) for k, v in groups.get("best", {}).items()}
        self.best_score = -math.inf if state["best_score"] is None else state["best_score"]
        self.step, self.waited, self.seconds = state["step"], state["waited"], state["seconds"]
        self.history = state["history"]
        if self.accelerator.scaler:  # of fp16 training only
            self.accelerator.scaler.load_state_dict(state["scaler"])
        log.info("resumed from %s", path)


def _accelerator(precision: str) -> Accelerator:
    """An accelerator of that precision, even if an earlier run of this process used another."""
    if precision == "fp16" and not torch.cuda.is_available():
        raise UsageError("precision 'fp16' needs a GPU; 'bf16' runs on a CPU too")
    known = AcceleratorState._shared_state
    if known and known.get("_mixed_precision") != precision:
        # accelerate keeps one precision a process; only a reset lets a second run have its own.
        AcceleratorState._reset_state()
    return Accelerator(mixed_precision=precision)


class _Sums:
    """Means of the losses and accuracies of the steps since the last measurement."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {"loss": [], "preference": [], "interchange": []}

    def add(self, results: list[StepResult]) -> None:
        for result in results:
            self._values["loss"].append(result.loss.detach().reshape(1))
            self._values["preference"].append(result.preference.float())
            self._values["interchange"].append(result.interchange.float())

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        joined = {name: torch.cat(values) for name, values in self._values.items() if values}
        gathered = {name: accelerator.gather(value) for name, value in joined.items() if len(value)}
        return {name: float(value.double().mean()) for name, value in gathered.items()}


def _words(clip: CLIP, examples: Examples, config: FinetuneConfig) -> WordSwap | None:
    """The untuned model's words, where the settings swap any."""
    if not config.word_swap:
        return None
    if examples.tokenizer is None:
        raise UsageError(f"word_swap {config.word_swap}: needs examples with their tokenizer")
    embedding = own_text_tower(clip).token_embedding.weight
    return WordSwap.of(embedding, read_vocabulary(examples.tokenizer, len(embedding)))
