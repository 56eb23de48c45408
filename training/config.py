"""The settings of a fine-tuning run, each with its range and its reason, and the presets.

Five presets have the rates and sizes of Zur et al. 2024 (arXiv 2406.09458) for the text tower of ViT-B/32
(12 blocks, width 512). On other towers they keep the same proportions. ``small-data`` is this package's own.
``docs/training.md`` lists in which ways runs differ from the paper's.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field, fields
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from descscore.errors import UsageError

Loss = Literal["interchange", "preference", "joint"]
Tuning = Literal["lora", "full"]
SourceImage = Literal["other", "same"]
Targets = Literal["attention", "tower"]
Schedule = Literal["constant", "linear"]
MixedPrecision = Literal["no", "fp16", "bf16"]


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may be: ``least`` to ``most``, ``above`` and ``below`` left out."""

    least: float = 0
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        within = self.least <= value <= self.most and self.above < value < self.below
        return within and math.isfinite(value)

    def __str__(self) -> str:
        low = f"at least {self.least}" if self.above < self.least else f"above {self.above}"
        high = "" if self.most == math.inf else f" and at most {self.most}"
        return low + high + ("" if self.below == math.inf else f" and below {self.below}")


def _about(summary: str, **limits: float) -> dict[str, Any]:
    """Metadata of a setting that ``descscore train`` offers as an option, with ``summary`` as its help.

    limits: the ends of its :class:`Range`; a setting with a list of choices needs none.
    """
    return {"help": summary, "range": Range(**limits)}


@dataclass(frozen=True)
class FinetuneConfig:
    """All settings of one fine-tuning run. Raises :class:`UsageError` for a value out of range.

    Each field states its type, default, meaning and range in code; the text below it says why. "Published"
    means by Zur et al. 2024. A step is one update of the weights.
    """

    preset: str
    """Name of the preset that the settings started from. Only recorded."""
    loss: Loss
    """What is minimised: ``interchange`` (IIT-DAS), ``preference``, or ``joint`` for their weighted sum."""
    tuning: Tuning
    """Which weights change: ``lora`` for low-rank updates, ``full`` for all text weights."""
    learning_rate: float = field(metadata=_about("Learning rate of Adam.", above=0))
    """The presets set it. The rotation has the same rate; there is no weight decay."""
    schedule: Schedule = field(default="constant", metadata=_about("Course of the learning rate."))
    """``constant`` as published, or falling ``linear``-ly to 0 at the end of the run."""

    lora_rank: int | None = field(default=None, metadata=_about("Rank of the low-rank updates.", least=1))
    """The presets set it; None with ``full`` tuning."""
    lora_alpha: int | None = field(default=None, metadata=_about("Rank times scale; default: rank.", least=1))
    """The updates are multiplied by ``lora_alpha / lora_rank``: 1 in the presets and in the command."""
    lora_targets: Targets = field(default="attention", metadata=_about("Text weights that get updates."))
    """The blocks' ``attention`` as published, or the whole ``tower``: also embeddings and feed-forward."""

    block: int | None = field(default=None, metadata=_about("Interchange after this text block, from 0."))
    """The presets set the last but one; None with the preference loss."""
    k: int | None = field(default=None, metadata=_about("Dimensions of the purpose subspace.", least=1))
    """At most the tower's width; the presets take half of it. None with the preference loss."""
    source_image: SourceImage = field(default="other", metadata=_about("Image of an interchange's source."))
    """The source text gives its purpose to the base text. Published is the ``same`` image; with another
    image's text, only its purpose can help, not what it says about the image."""
    joint_weight: float = field(default=0.5, metadata=_about("Share of the interchange loss.", most=1))
    """Share of the interchange loss in the loss ``joint``; no value is published."""

    contrastive_weight: float = field(default=0.0, metadata=_about("Factor on the contrastive loss."))
    """Keeps a description closer to its own image than other images' descriptions. Published is 0."""
    hold_weight: float = field(default=0.0, metadata=_about("Factor on the loss that holds grounding."))
    """Keeps how the untuned model tells images apart by one text, description or caption
    (:func:`descscore.training.losses.hold_loss`). Published is 0."""
    spread_weight: float = field(default=0.0, metadata=_about("Factor on the loss that levels wordings."))
    """Keeps the model from liking some descriptions, or some captions, better for their wording
    (:func:`descscore.training.losses.spread_loss`). Published is 0."""
    caption_weight: float = field(default=0.0, metadata=_about("Factor on the loss that holds captions."))
    """Keeps an image's caption over other images' descriptions, which a preference for descriptions would put
    first. Published is 0."""
    neither_weight: float = field(default=0.0, metadata=_about("Factor on the loss of empty texts."))
    """Keeps an image's description over the third kind of text (:mod:`descscore.training.neither`): empty
    phrases, file names, keywords, and its own words without grammar. Published is 0."""
    ending_weight: float = field(default=0.0, metadata=_about("Factor on the loss of a final full stop."))
    """Keeps a final full stop from moving a score. In half of the texts, drawn anew each epoch and alike for
    both kinds, the stop is added or taken off. Published is 0."""

    epochs: int = field(default=10, metadata=_about("Passes through the training split.", least=1))
    """10 are published, for 100,000 pairs."""
    batch_size: int = field(default=12, metadata=_about("Texts in a step.", least=2))
    """Base texts of as many interchanges, or the two texts of half as many image pairs, over all
    processes and accumulated parts: a multiple of ``2 * accumulation``. 12 are published."""
    accumulation: int = field(default=1, metadata=_about("Parts that a step is cut into.", least=1))
    """More parts need less memory and give the same step, but for the losses that compare texts of several
    images (``contrastive``, ``caption``, ``neither``, ``spread``): each part sees its own texts alone."""
    examples_per_epoch: int | None = field(
        default=None, metadata=_about("Interchanges drawn an epoch.", least=1)
    )
    """Drawn with replacement: 100,000 as published, in the presets for ViT-B/32. None takes each text once
    as base, and sources from the same step's texts, at half the cost."""

    text_window: int | None = field(
        default=None, metadata=_about("Tokens to cut training texts to.", least=3)
    )
    """Longer texts are cut to it, start and end token included, at places drawn anew each epoch. Cut texts
    cost less, and show a text's purpose without its beginning. Published is None: texts stay whole."""
    token_dropout: float = field(default=0.0, metadata=_about("Chance to leave a token out.", below=1))
    """Drawn anew each epoch. Keeps single words from carrying the purpose alone. Published is 0."""
    word_swap: float = field(default=0.0, metadata=_about("Chance to swap a word for a similar one.", most=1))
    """In half of the training texts, drawn anew each epoch; similar are neighbours in the untuned token
    embedding. Other data sets tell purpose by other words. Published is 0."""

    validation_pairs: int = field(default=5000, metadata=_about("Most pairs in a validation.", least=1))
    """5,000 are published."""
    validate_every: int = field(default=500, metadata=_about("Steps between validations.", least=1))
    """500 are published. The weights that did best in a validation are kept."""
    save_every: int = field(default=500, metadata=_about("Steps between checkpoints.", least=1))
    """A stopped run loses the steps since its last checkpoint."""
    patience: int | None = field(default=None, metadata=_about("Validations to wait for a best.", least=1))
    """The run stops when so many have brought no better one. Published is None: it never stops early."""
    interpolation: float = field(default=1.0, metadata=_about("Share of the change that is kept.", most=1))
    """Blends tuned and original weights at the end (0.8 = 80 % tuned). This restores more of the
    original's ability than it costs. Published is 1. Validations see the tuned weights."""

    precision: MixedPrecision = field(default="no", metadata=_about("Mixed precision; no for float32."))
    """Number format of products. Weights stay float32. ``fp16`` needs a GPU."""
    seed: int = field(default=0, metadata=_about("Seed of everything that is drawn."))
    """The paper reports 0 to 4."""

    def __post_init__(self) -> None:
        for one in fields(self):
            _check(one.name, getattr(self, one.name), one.metadata.get("range"))
        _check_parts(self)

    @property
    def needs_pairs(self) -> bool:
        """Whether a step needs image pairs: any loss but that of interchanges does."""
        return self.loss != "interchange" or any(getattr(self, name) for name in LOSS_WEIGHTS)

    @property
    def pairs_per_batch(self) -> int:
        """Images in a step, each with its description and its caption."""
        return self.batch_size // 2

    def steps_per_epoch(self, pairs: int) -> int:
        """Steps of an epoch over a split of that many image pairs; the last step is filled up."""
        drawn = self.examples_per_epoch if self.loss != "preference" else None
        return -(-(drawn or 2 * pairs) // self.batch_size)


_HINTS = get_type_hints(FinetuneConfig)

LOSS_WEIGHTS = tuple(
    one.name for one in fields(FinetuneConfig) if one.name.endswith("_weight") and one.name != "joint_weight"
)
"""The settings that weigh losses on image pairs, which come on top of the one that ``loss`` names."""

DEFAULTS: dict[str, Any] = {
    one.name: one.default for one in fields(FinetuneConfig) if one.default is not MISSING
}
"""Default values by setting. A run that was made before a setting existed had what is now its default."""


@dataclass(frozen=True)
class Option:
    """A setting as a command offers it."""

    name: str
    choices: tuple[str, ...]
    """The values that it may be; empty for a number."""
    type: Any
    """Type of the number."""
    help: str


def options() -> list[Option]:
    """All settings that a command offers, in their order; without them, the preset decides."""
    offered = []
    for one in fields(FinetuneConfig):
        if one.metadata:
            hint, known = _HINTS[one.name], one.default not in (None, MISSING)
            choices = get_args(hint) if get_origin(hint) is Literal else ()
            notes = [f"default: {one.default}"] if known else []
            notes += [] if choices else [str(one.metadata["range"])]
            text = f"{one.metadata['help']}  [{'; '.join(notes)}]"
            offered.append(Option(one.name, choices, (get_args(hint) or (hint,))[0], text))
    return offered


def _check(name: str, value: Any, limits: Range | None) -> None:
    hint = _HINTS[name]
    kinds = get_args(hint) or (hint,)
    if get_origin(hint) is Literal:
        if value not in kinds:
            raise UsageError(f"{name} {value!r}: choose one of {', '.join(kinds)}")
    elif limits is not None and not (value is None and NoneType in kinds):
        whole = int in kinds
        if type(value) not in ((int,) if whole else (int, float)) or value not in limits:
            raise UsageError(f"{name} {value!r}: must be a {'whole ' if whole else ''}number, {limits}")


def _check_parts(config: FinetuneConfig) -> None:
    if config.batch_size % (2 * config.accumulation):
        raise UsageError(
            f"batch_size {config.batch_size}: must be a multiple of {2 * config.accumulation}, "
            "two texts for each pair of each accumulated part"
        )
    lora = {config.lora_rank is not None, config.lora_alpha is not None}
    if lora != {config.tuning == "lora"}:
        raise UsageError("lora_rank and lora_alpha: needed by the tuning 'lora', and by no other")
    site = {config.block is not None, config.k is not None}
    if site != {config.loss != "preference"}:
        raise UsageError("block and k: needed by the losses 'interchange' and 'joint', and by no other")


@dataclass(frozen=True)
class Tower:
    """Shape of a text tower, as far as the presets depend on it; by default that of ViT-B/32."""

    width: int = 512
    blocks: int = 12


VIT_B_32 = Tower()


class _Preset(NamedTuple):
    """rank_divisor: the tower's width over the LoRA rank; None for full tuning, or a rank of its own."""

    loss: Loss
    tuning: Tuning
    learning_rate: float
    rank_divisor: int | None
    others: dict[str, Any] = {}  # noqa: RUF012 - never changed
    """Settings of its own."""


_SMALL_DATA: dict[str, Any] = {
    "lora_rank": 16,
    "lora_alpha": 16,
    "lora_targets": "tower",
    "schedule": "linear",
    "epochs": 2,
    "batch_size": 48,
    "examples_per_epoch": None,
    "text_window": 32,
    "token_dropout": 0.05,
    "word_swap": 0.5,
    "contrastive_weight": 0.25,
    "hold_weight": 0.25,
    "spread_weight": 0.75,
    "neither_weight": 1.0,
    "ending_weight": 1.0,
}
_PRESETS = {
    "das-lora": _Preset("interchange", "lora", 1e-5, 8),
    "bft-lora": _Preset("preference", "lora", 1e-5, 4),
    "das-full": _Preset("interchange", "full", 1e-5, None),
    "bft-full": _Preset("preference", "full", 5e-6, None),
    "joint": _Preset("joint", "lora", 1e-5, 8),  # no rate is published: that of the interchange loss
    "small-data": _Preset("joint", "lora", 1e-3, None, _SMALL_DATA),
}
PRESETS = tuple(_PRESETS)


def preset(name: str, tower: Tower = VIT_B_32) -> FinetuneConfig:
    """The settings of a preset on a text tower.

    block = blocks - 2, k = width / 2, rank = alpha = width / 8 (width / 4 for ``bft-lora``, 16 for
    ``small-data``). An epoch of interchanges is 100,000 on ViT-B/32's tower, as published, and one pass
    through the split on others and for ``small-data``.

    Raises :class:`UsageError` for an unknown preset or a tower that is too small.
    """
    if name not in _PRESETS:
        raise UsageError(f"preset {name!r}: choose one of {', '.join(PRESETS)}")
    if tower.blocks < 2 or tower.width < 8:
        raise UsageError(
            f"preset {name!r}: a text tower of {tower.blocks} blocks, width {tower.width}, is too small"
        )
    loss, tuning, rate, divisor, others = _PRESETS[name]
    rank, swaps = divisor and tower.width // divisor, loss != "preference"
    settings: dict[str, Any] = {
        "lora_rank": rank,
        "lora_alpha": rank,
        "block": tower.blocks - 2 if swaps else None,
        "k": tower.width // 2 if swaps else None,
        "examples_per_epoch": 100_000 if swaps and tower == VIT_B_32 else None,
    }
    return FinetuneConfig(name, loss, tuning, rate, **(settings | others))
