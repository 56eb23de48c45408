"""Train the bundled base model from scratch.

    python -m reproduce.pretraining.pretrain --output DIR

Images meet the texts of a small causal CLIP text tower and, through a learned
linear map, those of a published sentence encoder: the latter gives thousands of
negatives a step for the price of a matrix product, soft targets for near
matches, and something for the text tower to follow on words that no image
shows. A killed run goes on from its last checkpoint when started again.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import click
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from descscore.files import atomic_write
from reproduce.pretraining import data as teacher
from reproduce.pretraining.augment import cutmix
from reproduce.pretraining.batches import Batch, Sampler, load_corpus
from reproduce.pretraining.model import PretrainConfig, Student, Validator

# Contrastive losses between images and texts with soft targets from a sentence encoder.
#
# With a few thousand images, other texts of a batch often fit an image nearly as
# well as its own; soft targets give them the share that the sentence encoder says.


def soft_targets(own: Tensor, similarity: Tensor, share: float, temperature: float) -> Tensor:
    """Mix the known matches with those a sentence encoder sees; rows sum to 1.

    own: ``(n, m)`` 0/1, the known matches (at least one a row).
    similarity: ``(n, m)`` cosines of the sentence encoder.
    """
    hard = own / own.sum(1, keepdim=True)
    return (1 - share) * hard + share * F.softmax(similarity / temperature, dim=1)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of the cross-entropy against target distributions: ``(n, m)`` twice -> ``()``."""
    return -(targets * F.log_softmax(logits.float(), dim=1)).sum(1).mean()


def mix_rows(targets: Tensor, partner: Tensor, kept: float) -> Tensor:
    """Targets of images of which a share ``1 - kept`` shows their partner (CutMix)."""
    return kept * targets + (1 - kept) * targets[partner]


def follow(student: Tensor, teacher: Tensor) -> Tensor:
    """How far unit text features are from where the teacher puts them: mean of 1 - cosine."""
    return (1 - (student * teacher).sum(1)).mean()


log = logging.getLogger("descscore.pretrain")

_MovingAverage: TypeAlias = Callable[[Any, Any, Any], None]


def step_loss(student: Student, batch: Batch, config: PretrainConfig, step: int) -> dict[str, Tensor]:
    """The step's losses: ``bank`` and ``pair`` (contrastive), ``follow`` (text tower to encoder)."""
    rng = torch.Generator().manual_seed(config.seed * 7_000_003 + step)
    pixels, partner, kept = batch.pixels, None, 1.0
    if torch.rand(1, generator=rng) < config.cutmix_share:
        pixels, partner, kept = cutmix(pixels, rng)
    images = student.images(pixels.contiguous(memory_format=torch.channels_last))
    written = student.texts(torch.cat([batch.texts.tokens, batch.words.tokens]))
    texts = written[: len(batch.texts.tokens)]
    mapped = student.mapped(torch.cat([batch.texts.vectors, batch.bank]))
    scale = student.clip.logit_scale.exp()

    def targets(own: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return soft_targets(own, rows @ columns.T, config.soft_share, config.soft_temperature)

    every = torch.cat([batch.texts.vectors, batch.bank])
    own = F.pad(batch.own, (0, len(batch.bank)))
    wide = targets(own, batch.image_vectors, every)
    near = targets(batch.own, batch.image_vectors, batch.texts.vectors)
    if partner is not None:
        partner = partner.to(near.device)
        wide, near = mix_rows(wide, partner, kept), mix_rows(near, partner, kept)
    pair = soft_cross_entropy(scale * images @ texts.T, near)
    if partner is None:
        back = targets(batch.own.T, batch.texts.vectors, batch.image_vectors)
        pair = (pair + soft_cross_entropy(scale * texts @ images.T, back)) / 2
    with torch.no_grad():
        place = student.mapped(torch.cat([batch.texts.vectors, batch.words.vectors]))
    return {
        "bank": soft_cross_entropy(scale * images @ mapped.T, wide),
        "pair": pair,
        "follow": follow(written, place),
    }


def make_optimizer(student: Student, config: PretrainConfig) -> torch.optim.Optimizer:
    """AdamW; norms, biases, embeddings and the temperature are not decayed."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        rate = config.image_rate if name.startswith("clip.visual") else config.text_rate
        plain = parameter.ndim < 2 or "embedding" in name
        groups.setdefault((rate, 0.0 if plain else config.weight_decay), []).append(parameter)
    listed = [
        {"params": p, "lr": rate, "base_rate": rate, "weight_decay": decay}
        for (rate, decay), p in groups.items()
    ]
    return torch.optim.AdamW(listed, betas=(0.9, 0.98), eps=1e-8, fused=True)


class Run:
    """One pretraining run in a folder: checkpoints, a log line a measurement, the exported model."""

    def __init__(self, data: Path, output: Path, config: PretrainConfig, device: str) -> None:
        self.output, self.config, self.device = output, config, device
        output.mkdir(parents=True, exist_ok=True)
        self.corpus = load_corpus(data, output / "cache", device)
        torch.manual_seed(config.seed)
        self.student = Student(config).to(device)
        self._start_embeddings()
        self.student.clip.visual.to(memory_format=torch.channels_last)
        moving: Callable[[float], _MovingAverage] = get_ema_multi_avg_fn
        self.average = AveragedModel(self.student, multi_avg_fn=moving(config.average_decay))
        self.optimizer = make_optimizer(self.student, config)
        self.sampler = Sampler(self.corpus, config, device)
        self.validator = Validator(data, config, device)
        if config.compile:
            self.student.compile()
        self.step, self.seconds = 0, 0.0
        self._resume()

    @torch.no_grad()
    def _start_embeddings(self) -> None:
        """Start whole-word token embeddings where the sentence encoder puts the words."""
        table = self.student.clip.token_embedding.weight
        encoder = open_clip.get_tokenizer("ViT-B-32").encoder
        rows = torch.tensor([encoder[word + "</w>"] for word in self.corpus.words])
        start = teacher.principal_axes(self.corpus.word_vectors, table.shape[1])
        table[rows.to(table.device)] = 0.02 * start.to(table)

    @property
    def averaged(self) -> Student:
        return cast(Student, self.average.module)

    @property
    def checkpoint(self) -> Path:
        return self.output / "checkpoint.pt"

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.student.load_state_dict(state["student"])
        self.average.load_state_dict(state["average"])
        rates = [group["base_rate"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["base_rate"] = rate
        self.step, self.seconds = state["step"], state["seconds"]
        log.info("resumed at step %d", self.step)

    def save(self) -> None:
        state = {
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        with atomic_write(self.checkpoint) as part:
            torch.save(state, part)

    def train(self) -> None:
        config, count, began = self.config, 0, time.monotonic()
        sums: dict[str, float] = {}
        self.student.train()
        while self.step < config.total_steps:
            for name, value in self._one_step().items():
                sums[name] = sums.get(name, 0.0) + value
            self.step += 1
            count += 1
            if self.step % 100 == 0:
                now = time.monotonic()
                self.seconds += now - began
                self._log(
                    {k: round(v / count, 4) for k, v in sums.items()}
                    | {"seconds": round(self.seconds), "rate": round(count / (now - began), 2)}
                )
                sums, count, began = {}, 0, now
            if self.step % config.save_every == 0:
                self.save()
            if self.step % config.evaluate_every == 0 or self.step == config.total_steps:
                self._refresh_norms()
                pixels = config.stage_at(self.step)[0].pixels
                self._log(self.validator.measure(self.averaged, pixels))
        self.save()

    def _one_step(self) -> dict[str, float]:
        stage, factor = self.config.stage_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_rate"] * factor
        torch.manual_seed(self.config.seed * 9_000_011 + self.step)
        batch = self.sampler.batch(self.step, stage)
        with torch.autocast(self.device, torch.bfloat16):
            losses = step_loss(self.student, batch, self.config, self.step)
        total = losses["bank"] + losses["pair"] + self.config.distill_weight * losses["follow"]
        if not torch.isfinite(total):
            raise click.ClickException(f"the loss is not finite at step {self.step}; last save stands")
        self.optimizer.zero_grad()
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(self.student.parameters(), 5.0)
        self.optimizer.step()
        with torch.no_grad():
            self.student.clip.logit_scale.clamp_(0, float(np.log(100)))
        self.average.update_parameters(self.student)
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _refresh_norms(self) -> None:
        """Measure the batch norms' statistics anew under the averaged weights.

        The mean of the live model's statistics is not that of the mean model: with
        it, the averaged model found 6 % of the photos where the live one found 20 %.
        """
        first, stage = self.config.total_steps, self.config.stage_at(self.step)[0]
        steps = range(first, first + self.config.norm_batches)
        batches = (self.sampler.batch(step, stage).pixels for step in steps)
        update_bn(batches, self.averaged.clip.visual)

    def _log(self, values: dict[str, float]) -> None:
        scale = float(self.student.clip.logit_scale.detach().exp())
        line = {"step": self.step, "scale": round(scale, 2)} | values
        log.info(json.dumps(line))
        with (self.output / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def export(self) -> None:
        """Write the averaged model as open_clip's own folder form, in float16."""
        self._refresh_norms()
        folder = self.output / "model"
        folder.mkdir(exist_ok=True)
        state = self.averaged.clip.state_dict()
        half = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in state.items()}
        save_file(half, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
        (folder / "open_clip_config.json").write_text(json.dumps(self.config.model, indent=2) + "\n")
        run = {k: v for k, v in asdict(self.config).items() if k != "model"}
        run |= {"steps": self.step, "seconds": round(self.seconds), "torch": torch.__version__}
        (folder / "pretraining.json").write_text(json.dumps(run, indent=2) + "\n")


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path), envvar="DESCSCORE_DATA", default=Path("../shared/data")
)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--shorten", default=1, show_default=True, help="Divide all steps by this, for a trial.")
def main(data: Path, output: Path, device: str, seed: int, shorten: int) -> None:
    """Train the bundled base model from scratch on the train splits under --data."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = PretrainConfig(seed=seed)
    stages = tuple(replace(stage, steps=-(-stage.steps // shorten)) for stage in config.stages)
    config = replace(config, stages=stages)
    run = Run(data, output, config, device)
    run.train()
    run.export()


if __name__ == "__main__":
    main()
