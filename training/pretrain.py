"""Train the bundled base model from scratch: ``python -m descscore.training.pretrain --output DIR``.

Images meet the texts of a small causal CLIP text tower and, through a learned
linear map, those of a published sentence encoder: the latter gives thousands of
negatives a step for the price of a matrix product, soft targets for near
matches, and something for the text tower to follow on words that no image
shows. A killed run goes on from its last checkpoint when started again.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from descscore.eval.grounding import grounding_sampled
from descscore.eval.retrieval import recall_at_k
from descscore.text_tower import encode_tokens, end_positions
from descscore.training import teacher
from descscore.training.augment import FIGURE, OBJECT, PHOTO, augment, cutmix
from descscore.training.pretrain_config import PretrainConfig, Stage
from descscore.training.pretrain_data import (
    OBJECT_TEMPLATES,
    ObjectSet,
    PieceSet,
    load_figures,
    load_objects,
    load_photos,
    vocabulary_words,
)
from descscore.training.soft_contrastive import (
    follow,
    mix_rows,
    soft_cross_entropy,
    soft_targets,
)

log = logging.getLogger("descscore.pretrain")


class Student(nn.Module):
    """The CLIP to be shipped, with the training-only map from sentence embeddings into its space."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        model_cfg = copy.deepcopy(config.model["model_cfg"])
        model_cfg["vision_cfg"]["timm_drop_path"] = config.drop_path
        self.clip = open_clip.CLIP(**model_cfg)
        # Kept outside the module tree: the compiled form shares the weights of ``clip.visual``.
        self._encode_image = [self.clip.visual]
        self.map = nn.Linear(384, model_cfg["embed_dim"], bias=False)
        nn.init.orthogonal_(self.map.weight)

    def images(self, pixels: Tensor) -> Tensor:
        encode = self._encode_image[0] if self.training else self.clip.visual
        return F.normalize(encode(pixels).float(), dim=-1)

    def compile(self) -> None:
        """Compile the image tower for training; measured 1.1 to 1.3 times faster on a CPU."""
        self._encode_image = [torch.compile(self.clip.visual)]

    def texts(self, tokens: Tensor, parts: int = 4) -> Tensor:
        """Unit features in the given order; similar lengths run together, so that little is padding."""
        order = end_positions(self.clip, tokens).argsort()
        # The fused CPU kernel's backward pass is several times slower at these lengths.
        with sdpa_kernel(SDPBackend.MATH):
            out = torch.cat([encode_tokens(self.clip, tokens[i]) for i in order.chunk(parts)])
        return F.normalize(out.float(), dim=-1)[order.argsort()]

    def mapped(self, sentences: Tensor) -> Tensor:
        return F.normalize(self.map(sentences), dim=-1)


@dataclass(frozen=True)
class Corpus:
    """Training images, and the sentence embeddings of every text piece."""

    photos: PieceSet
    figures: PieceSet
    objects: ObjectSet
    words: list[str]
    photo_vectors: Tensor
    figure_vectors: Tensor
    name_vectors: Tensor
    word_vectors: Tensor


@dataclass(frozen=True)
class TextBatch:
    """Texts of one step: ``tokens`` ``(m, length)`` and their sentence embeddings ``(m, 384)``."""

    tokens: Tensor
    vectors: Tensor


@dataclass(frozen=True)
class Batch:
    """One step's input: ``m`` texts for ``n`` images, ``own`` ``(n, m)`` telling which belong together."""

    pixels: Tensor
    image_vectors: Tensor
    own: Tensor
    texts: TextBatch
    words: TextBatch
    bank: Tensor


def load_corpus(data: Path, cache: Path, device: str) -> Corpus:
    photos, figures, objects = load_photos(data), load_figures(data), load_objects(data)
    words = vocabulary_words(open_clip.get_tokenizer("ViT-B-32"))
    return Corpus(
        photos,
        figures,
        objects,
        words,
        teacher.embed(photos.texts, device, cache),
        teacher.embed(figures.texts, device, cache),
        teacher.embed([f"a photo of a {name}" for name in objects.names], device, cache),
        teacher.embed(words, device, cache),
    )


class Sampler:
    """Draws the batch of a given step; the same step always gives the same batch."""

    def __init__(self, corpus: Corpus, config: PretrainConfig, device: str) -> None:
        self.corpus, self.config, self.device = corpus, config, device
        self.tokenizer = open_clip.get_tokenizer("ViT-B-32", context_length=config.max_tokens)
        pre = config.model["preprocess_cfg"]
        self.mean = torch.tensor(pre["mean"], device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(pre["std"], device=device).view(1, 3, 1, 1)

    def batch(self, step: int, stage: Stage) -> Batch:
        config, corpus = self.config, self.corpus
        rng = np.random.default_rng((config.seed, step))
        torch_rng = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        photo = rng.choice(len(corpus.photos.images), config.photos, replace=False)
        figure = rng.choice(len(corpus.figures.images), config.figures, replace=False)
        thing = rng.choice(len(corpus.objects.images), config.objects, replace=False)
        pixels = torch.cat(
            [
                self._pixels(corpus.photos.images, photo, PHOTO, stage, torch_rng),
                self._pixels(corpus.figures.images, figure, FIGURE, stage, torch_rng),
                self._pixels(corpus.objects.images, thing, OBJECT, stage, torch_rng),
            ]
        )
        photo_texts = [self._piece(corpus.photos, corpus.photo_vectors, i, rng) for i in photo]
        figure_texts = [self._piece(corpus.figures, corpus.figure_vectors, i, rng) for i in figure]
        labels = corpus.objects.labels[thing]
        classes, column = labels.unique(return_inverse=True)
        templates = rng.choice(OBJECT_TEMPLATES, len(classes))
        prompts = [t.format(corpus.objects.names[c]) for t, c in zip(templates, classes, strict=True)]
        pieces = photo_texts + figure_texts
        own = torch.zeros(len(pixels), len(pieces) + len(prompts))
        own[torch.arange(len(pieces)), torch.arange(len(pieces))] = 1
        own[torch.arange(len(pieces), len(pixels)), len(pieces) + column] = 1
        vectors = torch.cat([torch.stack([v for _, v in pieces]), corpus.name_vectors[classes]])
        texts = self._texts([t for t, _ in pieces] + prompts, vectors)
        return Batch(
            pixels,
            (own @ vectors).to(self.device),
            own.to(self.device),
            texts,
            self._words(rng),
            self._bank(rng),
        )

    def _pixels(self, images, index, how, stage, rng) -> Tensor:
        chosen = images[torch.from_numpy(index)].to(self.device)
        return (augment(chosen, stage.pixels, how, rng) - self.mean) / self.std

    def _piece(self, pieces: PieceSet, vectors: Tensor, image: int, rng) -> tuple[str, Tensor]:
        """One text of the image, or two joined: descriptions met later are often several sentences."""
        mine = np.arange(pieces.first[image], pieces.first[image + 1])
        count = 2 if len(mine) > 1 and rng.random() < 0.3 else 1
        chosen = rng.choice(mine, count, replace=False)
        text = " ".join(pieces.texts[i] for i in chosen)
        return text, F.normalize(vectors[chosen].sum(0), dim=0)

    def _texts(self, texts: list[str], vectors: Tensor) -> TextBatch:
        return TextBatch(self.tokenizer(texts).to(self.device), vectors.to(self.device))

    def _words(self, rng) -> TextBatch:
        chosen = rng.integers(len(self.corpus.words), size=self.config.words)
        return self._texts([self.corpus.words[i] for i in chosen], self.corpus.word_vectors[chosen])

    def _bank(self, rng) -> Tensor:
        """Sentence embeddings of texts that serve as further negatives: photos, figures, class names."""
        corpus, half = self.corpus, self.config.bank // 2
        photo = rng.integers(len(corpus.photo_vectors), size=half)
        figure = rng.integers(len(corpus.figure_vectors), size=half)
        parts = [corpus.photo_vectors[photo], corpus.figure_vectors[figure], corpus.name_vectors]
        return torch.cat(parts).to(self.device)


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


class Validator:
    """Measures on the validation splits; nothing of any ``test`` split is read here."""

    def __init__(self, data: Path, config: PretrainConfig, device: str) -> None:
        self.photos = load_photos(data, "val")
        self.objects = load_objects(data, "val")
        self.config, self.device = config, device
        self.tokenizer = open_clip.get_tokenizer("ViT-B-32")
        pre = config.model["preprocess_cfg"]
        self.mean, self.std = torch.tensor(pre["mean"]), torch.tensor(pre["std"])

    @torch.inference_mode()
    def measure(self, student: Student, pixels: int) -> dict[str, float]:
        was_training = student.training
        student.eval()
        images = self._images(student, self.photos.images, pixels)
        texts = self._texts(student, self.photos.texts)
        owner = torch.from_numpy(self.photos.owner).to(images.device)
        recall = recall_at_k(images, texts, owner)
        first = texts[torch.from_numpy(self.photos.first[:-1])]
        things = self._images(student, self.objects.images, pixels)
        names = self._texts(student, [f"a photo of a {n}" for n in self.objects.names])
        right = (things @ names.T).argmax(1).cpu() == self.objects.labels
        student.train(was_training)
        return {
            "image_to_text@10": recall["image_to_text@10"],
            "text_to_image@10": recall["text_to_image@10"],
            "photo_grounding": float(grounding_sampled(images, first, 20, 0).mean()),
            "object_accuracy": float(right.double().mean()),
        }

    def _images(self, student: Student, images: Tensor, pixels: int) -> Tensor:
        out = []
        for part in images.split(250):
            part = F.interpolate(
                part.to(self.device).float() / 255, (pixels, pixels), mode="bicubic", antialias=True
            )
            part = (part - self.mean.view(1, 3, 1, 1).to(part)) / self.std.view(1, 3, 1, 1).to(part)
            with torch.autocast(self.device, torch.bfloat16):
                out.append(student.images(part.contiguous(memory_format=torch.channels_last)))
        return torch.cat(out)

    def _texts(self, student: Student, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts).to(self.device)
        with torch.autocast(self.device, torch.bfloat16):
            return torch.cat([student.texts(part) for part in tokens.split(250)])


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
        decay = get_ema_multi_avg_fn(config.average_decay)
        self.average = AveragedModel(self.student, multi_avg_fn=decay, use_buffers=True)
        self.optimizer = make_optimizer(self.student, config)
        self.sampler = Sampler(self.corpus, config, device)
        self.validator = Validator(data, config, device)
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
        part = self.checkpoint.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.checkpoint)

    def train(self) -> None:
        config, sums, count, began = self.config, {}, 0, time.monotonic()
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
                pixels = config.stage_at(self.step)[0].pixels
                self._log(self.validator.measure(self.average.module, pixels))
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
        total.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 5.0)
        self.optimizer.step()
        with torch.no_grad():
            self.student.clip.logit_scale.clamp_(0, float(np.log(100)))
        self._update_average()
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _update_average(self) -> None:
        self.average.update_parameters(self.student)
        # The causal mask is a buffer too, and the mean of two minus infinities is not a number.
        self.average.module.clip.attn_mask.copy_(self.student.clip.attn_mask)

    def _log(self, values: dict[str, float]) -> None:
        line = {"step": self.step, "scale": round(float(self.student.clip.logit_scale.exp()), 2)} | values
        log.info(json.dumps(line))
        with (self.output / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def export(self) -> None:
        """Write the averaged model as open_clip's own folder form, in float16."""
        folder = self.output / "model"
        folder.mkdir(exist_ok=True)
        state = self.average.module.clip.state_dict()
        half = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in state.items()}
        save_file(half, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
        (folder / "open_clip_config.json").write_text(json.dumps(self.config.model, indent=2) + "\n")
        run = {k: v for k, v in asdict(self.config).items() if k != "model"}
        run |= {"steps": self.step, "seconds": round(self.seconds), "torch": torch.__version__}
        (folder / "pretraining.json").write_text(json.dumps(run, indent=2) + "\n")


@click.command()
@click.option("--data", type=click.Path(path_type=Path), envvar="DESCSCORE_DATA", default=Path("../shared/data"))
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--steps", type=int, nargs=3, help="Steps of the three stages, in place of the recipe's.")
def main(data: Path, output: Path, device: str, seed: int, steps: tuple[int, int, int] | None) -> None:
    """Train the bundled base model from scratch on the train splits under --data."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = PretrainConfig(seed=seed)
    if steps:
        stages = tuple(replace(s, steps=n) for s, n in zip(config.stages, steps, strict=True))
        config = replace(config, stages=stages)
    run = Run(data, output, config, device)
    run.train()
    run.export()


if __name__ == "__main__":
    main()
