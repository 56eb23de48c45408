"""Fine-tune a CLIP's text tower to prefer descriptions, by preference and by interchange intervention.

The loop after Zur et al. 2024 (arXiv 2406.09458): image features are fixed, Adam at a
constant rate, no weight decay, no clipping. It goes on from its last checkpoint
when started again with the same settings and data, to the same weights.
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
from open_clip import CLIP
from torch import Tensor, nn

from descscore.errors import DataError, DescscoreError, UsageError
from descscore.purpose import Rotation, check_site
from descscore.training.checkpoint import (
    Checkpoint,
    latest,
    load_checkpoint,
    load_optimizer,
    optimizer_tensors,
    save_checkpoint,
)
from descscore.training.config import FinetuneConfig
from descscore.training.data import Examples
from descscore.training.lora import Interpolation, attach_lora, select_full, trained_parameters
from descscore.training.objective import Held, Objective, StepResult, run_batch, subset, validate
from descscore.training.plan import Batch, EpochPlan, WordSwap, read_vocabulary

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunData:
    """What a run trains on, and what it validates on (None: no validation, no early stopping)."""

    train: Examples
    validation: Examples | None


class Trainer:
    """One run. clip: the untuned model, changed in place. folder: where checkpoints go.

    report: called with every line of the history (training means and validations).
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
        clip.to(self.device).eval()  # no dropout anywhere; batch statistics never move
        self.train_set = data.train.to(self.device)
        held_out = subset(data.validation, config.validation_pairs, 0) if data.validation else None
        self.held_out = held_out.to(self.device) if held_out else None
        self.words = _words(clip, self.train_set, config)
        held = Held.of(clip, self.train_set) if config.hold_weight or config.spread_weight else None
        self.wrapped: Any = None
        if config.tuning == "lora":
            rank, alpha = config.lora_rank or 1, config.lora_alpha
            self.wrapped = attach_lora(clip, rank, alpha, config.seed, config.lora_targets)
        else:
            select_full(clip)
        rotation = None
        if config.site is not None:
            check_site(clip, config.site)
            rotation = Rotation(clip.transformer.width, config.seed).to(self.device)
        self.objective = Objective(clip, rotation, config, held)
        self.parameters = trained_parameters(clip)
        kept, lora = config.interpolation, config.tuning == "lora"
        self.start = Interpolation(self.parameters, lora) if kept < 1 else None
        trained: list[nn.Parameter] = list(self.parameters.values())
        trained += list(rotation.parameters()) if rotation else []
        adam = torch.optim.Adam(trained, lr=config.learning_rate, fused=True)
        self.optimizer = self.accelerator.prepare(adam)
        self.trained = trained
        self.step, self.waited = 0, 0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.best_score, self.seconds = -math.inf, 0.0
        self.steps_per_epoch = EpochPlan(self.train_set, config, 0).steps
        self.total_steps = config.epochs * self.steps_per_epoch
        self._resume()

    def train(self) -> None:
        """Train to the end, or until validation has not improved for ``patience`` validations."""
        per_epoch, plan, epoch = self.steps_per_epoch, None, -1
        sums, began = _Sums(), time.monotonic()
        while self.step < self.total_steps and not self._exhausted:
            if self.step // per_epoch != epoch:
                epoch = self.step // per_epoch
                plan = EpochPlan(self.train_set, self.config, epoch, self.words)
            assert plan is not None
            sums.add(self._one_step(plan.batch(self.step % per_epoch), plan.examples))
            self.step += 1
            last = self.step == self.total_steps
            if self.step % self.config.validate_every == 0 or last:
                self.seconds += time.monotonic() - began
                self._measure(sums, epoch)
                sums, began = _Sums(), time.monotonic()
            if self.step % self.config.save_every == 0 or last:
                self.save()
        self._take_best()
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

    def _one_step(self, batch: Batch, examples: Examples) -> list[StepResult]:
        processes, count = self.accelerator.num_processes, self.config.accumulation
        outcomes = []
        self.optimizer.zero_grad()
        for index in range(count):
            part = batch.part(index, count).part(self.accelerator.process_index, processes).to(self.device)
            with self.accelerator.autocast():
                outcome = run_batch(self.objective, examples, part)
            if not torch.isfinite(outcome.loss):
                raise DescscoreError(
                    f"the loss is {float(outcome.loss.detach())} at step {self.step + 1}; lower the "
                    f"learning rate. Last checkpoint: {latest(self.checkpoints)}"
                )
            self.accelerator.backward(outcome.loss / count)
            outcomes.append(outcome)
        self._average_gradients()
        self._set_rate()
        self.optimizer.step()
        return outcomes

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
                found = validate(self.objective, self.held_out)
            line |= {f"validation_{name}": value for name, value in found.items()}
            self.waited = 0 if found["score"] > self.best_score else self.waited + 1
            if found["score"] > self.best_score:
                self.best_score = found["score"]
                # A copy: a reference would follow the live weights and always be the last.
                self.best = {name: value.detach().clone() for name, value in self._weights().items()}
        self.history.append(line)
        if self.accelerator.is_main_process:
            self.report(line)

    def _weights(self) -> dict[str, Tensor]:
        rotation = self.objective.rotation
        held = {f"rotation.{k}": v for k, v in rotation.state_dict().items()} if rotation else {}
        return {**self.parameters, **held}

    @torch.no_grad()
    def _load_weights(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])
        if self.objective.rotation:
            prefix = "rotation."
            state = {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
            self.objective.rotation.load_state_dict(state)

    def _take_best(self) -> None:
        if self.best:
            self._load_weights(self.best)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def save(self) -> None:
        """Write a checkpoint (main process only)."""
        if not self.accelerator.is_main_process:
            return
        inner = self.optimizer.optimizer
        groups = {"weights": self._weights(), "optimizer": optimizer_tensors(inner)}
        state = {
            "config": asdict(self.config),
            "data": self._fingerprints(),
            "step": self.step,
            "seconds": self.seconds,
            "waited": self.waited,
            "best_score": self.best_score if self.best else None,
            "history": self.history,
            "scaler": self._scaler.state_dict() if self._scaler else None,
        }
        if self.best:
            groups["best"] = self.best
        save_checkpoint(self.checkpoints, self.step, Checkpoint(groups, state))

    @property
    def _scaler(self) -> Any:
        """The loss scaler of fp16 training, else None."""
        return self.accelerator.scaler

    def _fingerprints(self) -> list[str | None]:
        held = self.held_out
        return [self.train_set.fingerprint(), held.fingerprint() if held else None]

    def _resume(self) -> None:
        path = latest(self.checkpoints)
        if path is None:
            return
        found = load_checkpoint(path)
        state = found.state
        changed = [k for k, v in asdict(self.config).items() if state["config"].get(k) != v]
        if changed:
            raise UsageError(
                f"{path}: belongs to a run with other settings ({', '.join(changed)}); use another folder"
            )
        if state["data"] != self._fingerprints():
            raise DataError(f"{path}: belongs to a run on other data; use another folder")
        self._load_weights({k: v.to(self.device) for k, v in found.groups["weights"].items()})
        load_optimizer(self.optimizer.optimizer, found.groups["optimizer"])
        self.best = {k: v.to(self.device) for k, v in found.groups.get("best", {}).items()}
        self.best_score = -math.inf if state["best_score"] is None else state["best_score"]
        self.step, self.waited, self.seconds = state["step"], state["waited"], state["seconds"]
        self.history = state["history"]
        if self._scaler:
            self._scaler.load_state_dict(state["scaler"])
        log.info("resumed from %s", path)


def _accelerator(precision: str) -> Accelerator:
    """An accelerator of that precision, whatever an earlier run of this process used."""
    if precision == "fp16" and not torch.cuda.is_available():
        raise UsageError("precision 'fp16' needs a GPU; 'bf16' runs on a CPU too")
    known = AcceleratorState._shared_state
    if known and known.get("_mixed_precision") != precision:
        # accelerate keeps one precision a process; only a reset lets a second run have its own.
        AcceleratorState._reset_state()
    return Accelerator(mixed_precision=precision)


class _Sums:
    """Running means of what the steps since the last measurement gave."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {"loss": [], "preference": [], "interchange": []}

    def add(self, outcomes: list[StepResult]) -> None:
        for outcome in outcomes:
            self._values["loss"].append(outcome.loss.detach().reshape(1))
            self._values["preference"].append(outcome.preference.float())
            self._values["interchange"].append(outcome.interchange.float())

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
    embedding = clip.token_embedding.weight
    return WordSwap.of(embedding, read_vocabulary(examples.tokenizer, len(embedding)))
