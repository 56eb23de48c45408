"""The settings of pretraining, the model that is trained, and its validation."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from descscore.eval.statistics.retrieval import grounding_sampled, recall_at_k
from descscore.towers.text import encode_tokens, end_positions
from reproduce.pretraining.data import load_objects, load_photos

# Every setting of the bundled model's pretraining, in one frozen record.


def model_config() -> dict[str, Any]:
    """The bundled model as an open_clip configuration (``open_clip_config.json``).

    The text tower is narrow because its 49,408 token embeddings are most of the
    file: at width 128 they take 12.6 MB in float16. Images are squashed, not
    cropped: a description may speak of what stands at the edge.
    """
    return {
        "model_cfg": {
            "embed_dim": 128,
            "vision_cfg": {
                "timm_model_name": "regnetx_004",
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
                "image_size": 144,
            },
            "text_cfg": {
                "context_length": 77,
                "vocab_size": 49408,
                "width": 128,
                "heads": 4,
                "layers": 6,
            },
        },
        "preprocess_cfg": {
            "mean": [0.48145466, 0.4578275, 0.40821073],
            "std": [0.26862954, 0.26130258, 0.27577711],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }


@dataclass(frozen=True)
class Stage:
    """A run of steps at one image size; the learning rate goes linearly from ``start`` to ``end``."""

    steps: int
    pixels: int
    start: float
    end: float


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of one pretraining run.

    ``photos``, ``figures`` and ``objects`` are the images per step from Flickr8k,
    OpenStax and Tiny ImageNet; ``words`` is the number of single vocabulary words
    per step on which the text tower only follows the sentence encoder.
    """

    stages: tuple[Stage, ...] = (
        Stage(steps=300, pixels=80, start=0.05, end=1.0),
        Stage(steps=3200, pixels=80, start=1.0, end=1.0),
        Stage(steps=1800, pixels=112, start=1.0, end=0.0),
        Stage(steps=1300, pixels=112, start=0.6, end=0.0),
    )
    seed: int = 0
    photos: int = 96
    figures: int = 48
    objects: int = 112
    words: int = 96
    bank: int = 2048
    image_rate: float = 1.5e-3
    text_rate: float = 1.0e-3
    weight_decay: float = 0.1
    average_decay: float = 0.999
    soft_share: float = 0.4
    soft_temperature: float = 0.06
    distill_weight: float = 2.0
    cutmix_share: float = 0.3
    drop_path: float = 0.05
    max_tokens: int = 40
    evaluate_every: int = 1000
    save_every: int = 250
    norm_batches: int = 16
    compile: bool = True
    model: dict[str, Any] = field(default_factory=model_config)

    @property
    def total_steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[Stage, float]:
        """The stage that ``step`` (0-based) falls in and the factor on the learning rates."""
        first = 0
        for stage in self.stages:
            if step < first + stage.steps:
                done = (step - first) / stage.steps
                return stage, stage.start + (stage.end - stage.start) * done
            first += stage.steps
        last = self.stages[-1]
        return last, last.end


# The model in pretraining: the CLIP to be shipped and what only its training needs.


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
        for part in torch.split(images, 250):
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
