"""Every setting of a fine-tuning run in one frozen record, and the presets.

The presets are those of Zur et al. 2024 (arXiv 2406.09458) on ViT-B/32's text
tower (12 blocks, width 512); on other towers they keep the same proportions.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from descscore.errors import UsageError
from descscore.purpose import Site

Loss = Literal["interchange", "preference", "joint"]
Tuning = Literal["lora", "full"]
SourceImage = Literal["other", "same"]
Targets = Literal["attention", "tower"]
Schedule = Literal["constant", "linear"]
Precision = Literal["no", "fp16", "bf16"]


@dataclass(frozen=True)
class Tower:
    """Shape of a text tower, as far as the presets depend on it; by default ViT-B/32's."""

    width: int = 512
    blocks: int = 12

    @classmethod
    def of(cls, clip: Any) -> Tower:
        """The shape of an open_clip model's text tower."""
        return cls(int(clip.transformer.width), len(clip.transformer.resblocks))


VIT_B_32 = Tower()


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of one fine-tuning run. Raises :class:`UsageError` for a value out of range.

    preset: the preset it started from, for the record. loss, tuning: what is
    minimised and which weights move. learning_rate: for Adam without weight decay,
    the rotation's too; schedule: ``constant`` as published, or falling ``linear``ly to
    zero over the run. lora_rank, lora_alpha: None with ``full`` tuning; lora_targets: the
    text blocks' attention as published, or the whole tower. block (0-based), k: the
    site; None with the preference loss. joint_weight: share of the interchange loss in the joint one, 0..1.

    source_image: whether the source text of an interchange belongs to another
    image (``other``) or, as published, to the base text's (``same``).
    contrastive_weight, hold_weight, spread_weight: factors on the losses that keep the score's
    grip on the image (:mod:`descscore.training.losses`).

    batch_size: texts a step, over all processes and accumulated parts: base texts
    for an interchange, two for each image pair otherwise. accumulation: parts that a
    step is cut into. examples_per_epoch: interchanges drawn with replacement; None
    goes through the training split once, sources coming from the same step's texts.
    text_window: tokens, start and end token included, to which longer training texts are
    cut, at places drawn anew each epoch; None leaves them whole. token_dropout: chance
    of each token of a training text to be left out, word_swap: of each word of half of the texts to
    be replaced by one like it (:mod:`descscore.training.plan`), drawn anew each epoch. validation_pairs:
    most pairs that a validation looks at. validate_every, save_every: in steps. patience: validations
    without a better one before stopping; None never stops early. interpolation: share of the weights'
    change that is kept at the end, 0..1 (:mod:`descscore.training.lora`); validations see all of it.
    """

    preset: str
    loss: Loss
    tuning: Tuning
    learning_rate: float
    schedule: Schedule = "constant"
    lora_rank: int | None = None
    lora_alpha: int | None = None
    lora_targets: Targets = "attention"
    block: int | None = None
    k: int | None = None
    joint_weight: float = 0.5
    source_image: SourceImage = "other"
    contrastive_weight: float = 0.0
    hold_weight: float = 0.0
    spread_weight: float = 0.0
    epochs: int = 10
    batch_size: int = 12
    accumulation: int = 1
    examples_per_epoch: int | None = None
    text_window: int | None = None
    token_dropout: float = 0.0
    word_swap: float = 0.0
    validation_pairs: int = 5000
    validate_every: int = 500
    save_every: int = 500
    patience: int | None = None
    interpolation: float = 1.0
    precision: Precision = "no"
    seed: int = 0

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_ranges(self)
        _check_parts(self)

    @property
    def site(self) -> Site | None:
        """Where purpose is interchanged; None with the preference loss."""
        return None if self.block is None or self.k is None else Site(self.block, self.k)

    @property
    def pairs_per_batch(self) -> int:
        """Images a step, each with its description and its caption."""
        return self.batch_size // 2

    def to_json(self) -> str:
        """All settings as readable JSON, a line each."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> FinetuneConfig:
        """The settings in ``text``. Raises :class:`UsageError` for what :meth:`to_json` cannot write."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise UsageError(f"fine-tuning settings: not valid JSON ({error})") from None
        if not isinstance(data, dict):
            raise UsageError(f"fine-tuning settings: expected an object, got {type(data).__name__}")
        unknown = sorted(set(data) - {field.name for field in fields(cls)})
        if unknown:
            raise UsageError(f"fine-tuning settings: unknown {', '.join(map(repr, unknown))}")
        try:
            return cls(**data)
        except TypeError as error:
            raise UsageError(f"fine-tuning settings: {error}") from None


def _check_choices(config: FinetuneConfig) -> None:
    for name, hint in get_type_hints(FinetuneConfig).items():
        known, value = get_args(hint), getattr(config, name)
        if hint in (Loss, Tuning, SourceImage, Targets, Schedule, Precision) and value not in known:
            raise UsageError(f"{name} {value!r}: choose one of {', '.join(known)}")


_WHOLE = {  # smallest value allowed
    "lora_rank": 1,
    "lora_alpha": 1,
    "block": 0,
    "k": 1,
    "epochs": 1,
    "batch_size": 2,
    "accumulation": 1,
    "examples_per_epoch": 1,
    "text_window": 3,
    "validation_pairs": 1,
    "validate_every": 1,
    "save_every": 1,
    "patience": 1,
    "seed": 0,
}
_OPTIONAL = {"lora_rank", "lora_alpha", "block", "k", "examples_per_epoch", "text_window", "patience"}


_NUMBERS = (
    *("learning_rate", "joint_weight", "token_dropout", "word_swap", "interpolation"),
    *("contrastive_weight", "hold_weight", "spread_weight"),
)


def _check_ranges(config: FinetuneConfig) -> None:
    for name, least in _WHOLE.items():
        value = getattr(config, name)
        if value is None and name in _OPTIONAL:
            continue
        if type(value) is not int or value < least:
            raise UsageError(f"{name} {value!r}: must be a whole number, at least {least}")
    for name in _NUMBERS:
        value = getattr(config, name)
        if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
            raise UsageError(f"{name} {value!r}: must be a number, at least 0")
    if config.learning_rate == 0:
        raise UsageError("learning_rate 0: must be above 0")
    for name in ("joint_weight", "word_swap", "interpolation"):
        if getattr(config, name) > 1:
            raise UsageError(f"{name} {getattr(config, name)}: must lie in 0 to 1")
    if config.token_dropout >= 1:
        raise UsageError(f"token_dropout {config.token_dropout}: must lie under 1")
    if config.batch_size % (2 * config.accumulation):
        raise UsageError(
            f"batch_size {config.batch_size}: must be a multiple of {2 * config.accumulation}, "
            "two texts for each pair of each accumulated part"
        )


def _check_parts(config: FinetuneConfig) -> None:
    if (config.lora_rank is None) != (config.tuning == "full") or (
        (config.lora_alpha is None) != (config.lora_rank is None)
    ):
        raise UsageError("lora_rank and lora_alpha: needed by the tuning 'lora', and by no other")
    if (config.block is None) != (config.loss == "preference") or (config.k is None) != (
        config.block is None
    ):
        raise UsageError("block and k: needed by the losses 'interchange' and 'joint', and by no other")


@dataclass(frozen=True)
class _Recipe:
    loss: Loss
    tuning: Tuning
    learning_rate: float
    rank_divisor: int | None


_RECIPES = {
    "das-lora": _Recipe("interchange", "lora", 1e-5, 8),
    "bft-lora": _Recipe("preference", "lora", 1e-5, 4),
    "das-full": _Recipe("interchange", "full", 1e-5, None),
    "bft-full": _Recipe("preference", "full", 5e-6, None),
    "joint": _Recipe("joint", "lora", 1e-5, 8),
}
PRESETS = tuple(_RECIPES)


def published_rate(name: str) -> float:
    """The preset's learning rate as published (``joint``: as for the interchange loss, none being published).

    Raises :class:`UsageError` for an unknown preset.
    """
    return _recipe(name).learning_rate


def preset(name: str, tower: Tower = VIT_B_32) -> FinetuneConfig:
    """The settings of a preset on a text tower: block = blocks - 2, k = width / 2, rank = alpha =
    width / 8 (width / 4 for ``bft-lora``). On ViT-B/32's tower an epoch of interchanges
    is 100,000 as published, on others one pass through the training split.

    Raises :class:`UsageError` for an unknown preset or a tower that is too small.
    """
    recipe = _recipe(name)
    if tower.blocks < 2 or tower.width < 8:
        raise UsageError(
            f"preset {name!r}: a text tower of {tower.blocks} blocks, width {tower.width}, is too small"
        )
    rank = None if recipe.rank_divisor is None else tower.width // recipe.rank_divisor
    swaps = recipe.loss != "preference"
    return FinetuneConfig(
        preset=name,
        loss=recipe.loss,
        tuning=recipe.tuning,
        learning_rate=recipe.learning_rate,
        lora_rank=rank,
        lora_alpha=rank,
        block=tower.blocks - 2 if swaps else None,
        k=tower.width // 2 if swaps else None,
        examples_per_epoch=100_000 if swaps and tower == VIT_B_32 else None,
    )


def _recipe(name: str) -> _Recipe:
    if name not in _RECIPES:
        raise UsageError(f"preset {name!r}: choose one of {', '.join(PRESETS)}")
    return _RECIPES[name]
