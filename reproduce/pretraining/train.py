"""One training of the base: its stages, checkpoints, measurements on validation splits, and its export."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from descscore.errors import DescscoreError, UsageError
from descscore.eval.statistics.retrieval import grounding_over_texts, grounding_sampled, recall_at_k
from descscore.files import atomic_write
from reproduce.pretraining.batches import Sampler
from reproduce.pretraining.data import (
    KINDS,
    Pictures,
    SentenceVectors,
    load_corpus,
    load_pictures,
    principal_axes,
)
from reproduce.pretraining.image_tower import ViewCache, Views, pretrained_weights, start_from_pretrained
from reproduce.pretraining.losses import Student, picture_losses, text_losses
from reproduce.pretraining.settings import Settings, Stage

log = logging.getLogger("descscore.pretraining")


class Pretraining:
    """One run in a folder, which holds cached views, sentence vectors, checkpoints and a log."""

    def __init__(self, data: Path, work: Path, settings: Settings) -> None:
        self.data, self.work, self.settings = data, work, settings
        work.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(settings.seed)
        self.student = Student(settings.model, settings.half).eval()  # batch norms stay as they are
        self.classifier = start_from_pretrained(self.student.trunk, pretrained_weights())
        self.tokenizer = open_clip.get_tokenizer("ViT-B-32")
        side = settings.model["model_cfg"]["vision_cfg"]["image_size"]
        self.student.trunk.to(memory_format=torch.channels_last)
        self.cache = ViewCache(self.student.trunk, side, work / "views", settings.compiled, settings.half)

    def train(self) -> None:
        """Run all stages that are not done yet."""
        corpus = load_corpus(self.data, SentenceVectors(self.work / "sentences"), self.tokenizer)
        self._start_text_tower(corpus.extra_vectors, corpus.extra)
        for stage in self.settings.stages:
            views = {
                kind: self.cache.load(kind, corpus.pictures[kind], min(count, stage.views))
                for kind, count in self.settings.views.items()
                if stage.needs_pictures
            }
            sampler = Sampler(corpus, views, self.classifier, self.settings, self.tokenizer)
            StageRun(self.student, stage, self.settings, sampler, self.work).run()
            if stage.needs_pictures:
                validation = Validation(self.data, self.cache, self.tokenizer)
                self._log({"stage": stage.name, **validation.measure(self.student, "late" in stage.rates)})

    @torch.no_grad()
    def _start_text_tower(self, vectors: Tensor, texts: list[str]) -> None:
        """Start the map at the vectors' principal axes, and token embeddings of words where these lie."""
        self.student.map.weight.copy_(principal_axes(vectors, self.student.map.out_features))
        table = self.student.clip.token_embedding.weight
        axes = principal_axes(vectors, table.shape[1])
        for text, place in zip(texts, vectors @ axes.T, strict=True):
            token = self.tokenizer.encoder.get(f"{text}</w>")
            if token is not None:
                table[token] = 0.02 * math.sqrt(table.shape[1]) * place

    def _log(self, values: dict[str, Any]) -> None:
        log.info(json.dumps(values))
        with (self.work / "log.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")

    def export(self, folder: Path) -> None:
        """Write the model in open_clip's own form, in float16, with the settings of its training."""
        folder.mkdir(parents=True, exist_ok=True)
        state = self.student.clip.state_dict()
        half = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in state.items()}
        save_file(half, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
        (folder / "open_clip_config.json").write_text(json.dumps(self.settings.model, indent=2) + "\n")
        run = {k: v for k, v in asdict(self.settings).items() if k != "model"} | {"torch": torch.__version__}
        (folder / "pretraining.json").write_text(json.dumps(run, indent=2) + "\n")


class StageRun:
    """The steps of one stage, kept in a checkpoint every few steps."""

    def __init__(
        self, student: Student, stage: Stage, settings: Settings, sampler: Sampler, work: Path
    ) -> None:
        self.student, self.stage, self.settings, self.sampler = student, stage, settings, sampler
        self.checkpoint, self.step = work / f"{stage.name}.pt", 0
        self.record = json.dumps(asdict(settings))
        parts = student.parts()
        student.requires_grad_(False)
        groups = []
        for part, rate in stage.rates.items():
            for parameter in parts[part]:
                parameter.requires_grad_(True)
            groups += _groups(parts[part], rate, settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
        self._resume()

    def _resume(self) -> None:
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True)
            if state.get("settings", self.record) != self.record:  # an older checkpoint has none
                raise UsageError(
                    f"{self.checkpoint}: belongs to a run with other settings; use another --work"
                )
            self.student.load_state_dict(state["student"])
            self.step = state["step"]
            if "optimizer" in state:
                self.optimizer.load_state_dict(state["optimizer"])

    def _save(self) -> None:
        done = self.step == self.stage.steps
        state = {"settings": self.record, "student": self.student.state_dict(), "step": self.step}
        state |= {} if done else {"optimizer": self.optimizer.state_dict()}
        with atomic_write(self.checkpoint) as part:
            torch.save(state, part)

    def run(self) -> None:
        sums: dict[str, float] = {}
        began, count = time.monotonic(), 0
        while self.step < self.stage.steps:
            for name, value in self._one_step().items():
                sums[name] = sums.get(name, 0.0) + value
            self.step, count = self.step + 1, count + 1
            if self.step % self.settings.save_every == 0 or self.step == self.stage.steps:
                self._save()
                rate = count / (time.monotonic() - began)
                means = {name: round(value / count, 4) for name, value in sums.items()}
                log.info("%s %d %.2f steps/s %s", self.stage.name, self.step, rate, json.dumps(means))
                sums, began, count = {}, time.monotonic(), 0

    def _one_step(self) -> dict[str, float]:
        torch.manual_seed(self.settings.seed * 1_000_003 + self.step)  # dropout is that of the step
        factor = rate_factor(self.step, self.stage)
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        losses = self._losses()
        total = torch.stack([weight * losses[name] for name, weight in self.stage.losses.items()]).sum()
        if not torch.isfinite(total):
            raise DescscoreError(f"the loss of {self.stage.name} is not finite at step {self.step}")
        self.optimizer.zero_grad()
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], 5.0)
        self.optimizer.step()
        with torch.no_grad():
            self.student.clip.logit_scale.clamp_(0, math.log(100))
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _losses(self) -> dict[str, Tensor]:
        if not self.stage.needs_pictures:
            return text_losses(self.student, self.sampler.text_batch(self.step), self.settings.match_scale)
        batch = self.sampler.batch(self.stage, self.step)
        return picture_losses(self.student, batch, self.settings, "pair" in self.stage.losses)


def rate_factor(step: int, stage: Stage) -> float:
    """Factor on the learning rates: a linear rise, then half a cosine to zero."""
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    return (1 + math.cos(math.pi * (step - stage.warmup) / max(1, stage.steps - stage.warmup))) / 2


def _groups(parameters: list[nn.Parameter], rate: float, decay: float) -> list[dict[str, Any]]:
    """Optimizer groups: norms, biases, token embeddings and the temperature do not decay."""
    large = [p for p in parameters if p.ndim > 1 and p.shape[0] < 10_000]
    small = [p for p in parameters if p.ndim < 2 or p.shape[0] >= 10_000]
    return [
        {"params": some, "lr": rate, "rate": rate, "weight_decay": weight}
        for some, weight in ((large, decay), (small, 0.0))
        if some
    ]


class Validation:
    """Measures on validation splits; nothing of any ``test`` split is read here."""

    def __init__(self, data: Path, cache: ViewCache, tokenizer: Callable[..., Tensor]) -> None:
        self.tokenizer = tokenizer
        self.pictures = {kind: load_pictures(data, kind, "val") for kind in KINDS}
        self.views = {kind: cache.load(f"val-{kind}", some, 1) for kind, some in self.pictures.items()}

    @torch.no_grad()
    def measure(self, student: Student, tuned: bool) -> dict[str, float]:
        """Recall, grounding and accuracy. ``tuned``: the late stages are no longer the pretrained ones."""
        photos, figures, objects = (self._images(student, self.views[kind], tuned) for kind in KINDS)
        texts = self._texts(student, self.pictures["photos"].texts)
        recall = recall_at_k(photos, texts, torch.from_numpy(self.pictures["photos"].owner))
        written = self._texts(student, _firsts(self.pictures["figures"]))
        first = texts[torch.from_numpy(self.pictures["photos"].first[:-1])]
        stopped = self._texts(student, [f"{text.rstrip(' .')}." for text in _firsts(self.pictures["photos"])])
        bare = self._texts(student, [text.rstrip(" .") for text in _firsts(self.pictures["photos"])])
        values = {
            "image_to_text@10": recall["image_to_text@10"],
            "text_to_image@10": recall["text_to_image@10"],
            "photo_grounding": float(grounding_sampled(photos, first).mean()),
            "figure_grounding": float(grounding_sampled(figures, written).mean()),
            "figure_grounding_over_texts": float(grounding_over_texts(figures, written).mean()),
            "object_accuracy": self._accuracy(student, objects),
            "full_stop": float((photos * (stopped - bare)).sum(1).abs().mean()),
        }
        return {name: round(value, 4) for name, value in values.items()}

    def _accuracy(self, student: Student, objects: Tensor) -> float:
        labels = _firsts(self.pictures["objects"])
        names = sorted(set(labels))
        features = self._texts(student, [f"a photo of a {name}" for name in names])
        right = torch.tensor([names.index(label) for label in labels])
        return float(((objects @ features.T).argmax(1) == right).double().mean())

    def _images(self, student: Student, views: Views, tuned: bool) -> Tensor:
        if not tuned:
            return student.images(views.pooled[0])
        starts = range(0, len(views.maps[0]), 128)
        parts = (views.maps[0][start : start + 128].astype(np.float32) for start in starts)
        return torch.cat([student.images(torch.from_numpy(part)) for part in parts])

    def _texts(self, student: Student, texts: list[str]) -> Tensor:
        return torch.cat([student.texts(part) for part in torch.split(self.tokenizer(texts), 256)])


def _firsts(pictures: Pictures) -> list[str]:
    """The first text of each picture."""
    return [pictures.texts[i] for i in pictures.first[:-1]]
