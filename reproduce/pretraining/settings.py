"""Every setting of the bundled base: its two towers, the stages of its training, and their losses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def model_config() -> dict[str, Any]:
    """The bundled base as an open_clip configuration (``open_clip_config.json``).

    The 49,408 token embeddings are most of the file: 19 MB of float16 at width 192. Images are
    squashed, not cropped, since a description may speak of what stands at the edge.
    """
    return {
        "model_cfg": {
            "embed_dim": 256,
            "vision_cfg": {
                "timm_model_name": "tf_efficientnet_lite0",
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
                "image_size": 224,
            },
            "text_cfg": {
                "context_length": 77,
                "vocab_size": 49408,
                "width": 192,
                "heads": 6,
                "layers": 6,
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }


@dataclass(frozen=True)
class Stage:
    """A run of steps with the same losses. Its learning rates rise, then fall to zero along a cosine."""

    name: str
    steps: int
    rates: dict[str, float]
    """Highest learning rate of each part that is trained; others stay as they are. ``late``: last stages of
    the image tower; ``head``: its projection and the temperature; ``text``; ``map``: of sentence vectors."""
    losses: dict[str, float]
    """Weight of each loss (:mod:`reproduce.pretraining.losses`)."""
    views: int = 1
    """How many of the views of each photo are used."""
    warmup: int = 50

    @property
    def needs_pictures(self) -> bool:
        return "bank" in self.losses


def stages() -> tuple[Stage, ...]:
    """The stages in their order."""
    seen = {"bank": 1.0, "classes": 0.5}
    read = seen | {"pair": 1.0, "follow": 1.0, "order": 0.3}
    return (
        # The text tower learns to put any text where the sentence encoder puts it.
        Stage("words", 600, {"text": 1e-3}, {"follow": 4.0, "match": 1.0}, warmup=100),
        # Pictures meet sentence vectors: cheap, since neither tower runs.
        Stage("head", 800, {"head": 1e-3}, seen),
        # Texts meet images.
        Stage("read", 700, {"head": 3e-4, "map": 3e-4, "text": 5e-4}, read, views=5),
        # The last stages of the image tower learn to see what texts speak of.
        Stage("see", 240, {"late": 2e-4, "head": 3e-4, "map": 2e-4, "text": 2e-4}, read, views=5),
    )


@dataclass(frozen=True)
class Settings:
    """Settings of one training of the base."""

    stages: tuple[Stage, ...] = field(default_factory=stages)
    model: dict[str, Any] = field(default_factory=model_config)
    seed: int = 0
    pictures: dict[str, int] = field(
        default_factory=lambda: {"photos": 96, "figures": 32, "objects": 24, "classes": 48}
    )
    """Pictures of a step by kind; ``classes`` counts virtual pictures, one for an ImageNet class."""
    views: dict[str, int] = field(default_factory=lambda: {"photos": 5, "figures": 2, "objects": 1})
    """Cached views of each picture by kind: the first is the whole picture, others are random crops."""
    bank: int = 2048
    """Sentence vectors of other texts that serve as negatives in a step."""
    follow: int = 48
    """Words and definitions of a step on which the text tower only follows the sentence encoder."""
    words_batch: int = 256
    """Texts of a step of the stage ``words``."""
    hard: int = 32
    """Texts of a step that are also met with their words shuffled."""
    soft_share: float = 0.3
    """Share of a target that is spread over texts by their likeness to the right one."""
    soft_temperature: float = 0.06
    """Temperature of that likeness, a cosine of sentence vectors."""
    match_scale: float = 30.0
    """Factor on cosines in the loss ``match``."""
    dropout: float = 0.5
    """Share of the image tower's features left out at random; without, it learns photos by heart."""
    word_dropout: float = 0.1
    """Share of the words of a longer text that is left out at random."""
    weight_decay: float = 0.05
    tokens: int = 64
    """Tokens of a text in training; later ones are cut."""
    compiled: bool = True
    """Compile the image tower that makes the cached views; needs a C++ compiler."""
    half: bool = True
    """Compute in bfloat16 where that is safe: faster on processors that have it."""
    save_every: int = 100
