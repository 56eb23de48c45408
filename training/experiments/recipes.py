"""The runs that ``docs/results.md`` reports, the shipped model's recipe, and what was tried to find it.

Published settings are for ViT-B/32 and 100,000 pairs. On a small tower and 5,441 pairs
of textbook figures all runs here share :data:`SMALL`: 24 texts a step, three passes,
texts cut to windows, and a rate that falls to zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from descscore.training.config import PRESETS
from descscore.training.experiments.cross_validation import Recipe

SMALL = {"batch_size": 24, "epochs": 3, "text_window": 32, "schedule": "linear"}
CHOSEN_RATE = {"lora": 1e-3, "full": 3e-4}
"""By kind of tuning: the better ones of those tried (``docs/cross_validation.jsonl``)."""
SEEDS = (0, 1, 2, 3, 4)

SHIPPED = Recipe(
    "shipped",
    "das-full",
    {
        **SMALL,
        "loss": "joint",
        "learning_rate": 3e-4,
        "contrastive_weight": 0.0625,
        "hold_weight": 0.05,
        "spread_weight": 0.1,
        "token_dropout": 0.1,
        "word_swap": 0.75,
        "interpolation": 0.85,
    },
)


@dataclass(frozen=True)
class Run:
    """One training: a recipe and a seed. published_rate: whether at the preset's published rate."""

    recipe: Recipe
    seed: int
    published_rate: bool = False

    @property
    def name(self) -> str:
        return f"{self.recipe.name}-{self.seed}"


def runs() -> Iterator[Run]:
    """The shipped recipe and the LoRA presets over all seeds, every other preset once, and all presets
    once at their published rates."""
    for seed in SEEDS:
        yield Run(SHIPPED, seed)
    for name in PRESETS:
        rate = CHOSEN_RATE["full" if name.endswith("full") else "lora"]
        chosen = Recipe(name, name, {**SMALL, "learning_rate": rate})
        for seed in SEEDS if name in ("das-lora", "bft-lora") else SEEDS[:1]:
            yield Run(chosen, seed)
    for name in PRESETS:
        yield Run(Recipe(f"{name} at the published rate", name, dict(SMALL)), 0, True)
