"""Every setting of the bundled model's pretraining, in one frozen record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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
