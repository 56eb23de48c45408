"""The runs that ``docs/results.md`` reports, the shipped model's recipe, and what was tried to find it.

Published settings are for ViT-B/32 and 100,000 pairs. On a small tower and 5,441 pairs
of textbook figures all runs here share :data:`SMALL`: 24 texts a step, three passes,
texts cut to windows, and a rate that falls to zero.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import click
import numpy as np
import torch
from open_clip import CLIP
from torch import Tensor

from descscore.errors import UsageError
from descscore.eval.statistics.retrieval import recall_at_k
from descscore.eval.zero_shot import image_features, read_flickr8k
from descscore.models import LoadedModel, load_model
from descscore.scorer import DescScorer
from descscore.tables.open import load_pairs
from descscore.texts import token_rows
from descscore.training.config import PRESETS, FinetuneConfig, Tower, preset
from descscore.training.data import Examples, make_examples
from descscore.training.finetune import groups_of
from descscore.training.objective import subset, unit_features, validate
from descscore.training.plan import cut_at
from descscore.training.readout import fold_of, part, train_without
from descscore.training.trainer import Trainer

# What a recipe leaves of the base: recall on photos whose captions nothing is tuned on or tuned for.
#
# Flickr8k's validation split. Its captions are plain sentences, far from a textbook's, so a
# text tower that has come to like some words for their own sake loses recall on them.


K = 10


@dataclass(frozen=True)
class Gallery:
    """images: ``(n, embed_dim)`` unit features. tokens: ``(m, longest)`` padded with 0. owner:
    ``(m,)`` ints, the image that each text belongs to."""

    images: Tensor
    tokens: Tensor
    owner: Tensor


def read_gallery(model: LoadedModel, data: Path) -> Gallery:
    """Flickr8k's ``val`` in the data folder. Raises :class:`DataError` for a missing file."""
    found = read_flickr8k(data, "val")
    images = image_features(DescScorer(model), found.images)
    return Gallery(images, token_rows(model.tokenizer, found.texts), torch.tensor(list(found.owner)))


@torch.no_grad()
def recall(clip: CLIP, gallery: Gallery) -> dict[str, float]:
    """Recall at 10 in 0..1, by the way it goes: ``recall_image_to_text``, ``recall_text_to_image``."""
    found = recall_at_k(gallery.images, unit_features(clip, gallery.tokens), gallery.owner, (K,))
    return {f"recall_{way.removesuffix(f'@{K}')}": value for way, value in found.items()}


# Choose a recipe by cross-validation over groups of the training split, such as textbooks.
#
# Texts of one book share their words and their editors, so a split that cuts books
# apart calls memorised phrases skill. Each recipe is trained once a fold on the other
# folds' books and measured on preference, grounding and interchange, on whole texts and
# on their beginnings: alt text elsewhere is much shorter than in textbooks. Grounding in
# the training split says little of a base that was pretrained on its pairs, so that of
# another split, which the base has not seen, is measured beside it; and with ``--retrieval``
# recall on photos with captions, to see what of the base a recipe loses.
#
#     python -m reproduce.cross_validation --data DATA --recipes RECIPES.json \
#         --output RESULTS.jsonl


Array: TypeAlias = "np.ndarray[Any, Any]"

SHORT = 20
"""Tokens of a text's beginning, start and end token included: about the length of Concadia's texts."""


@dataclass(frozen=True)
class Recipe:
    """A preset with changes. name: how the results call it."""

    name: str
    preset: str
    changes: dict[str, Any]

    def settings(self, tower: Tower) -> FinetuneConfig:
        """The settings on a text tower. Raises :class:`UsageError` for a value out of range."""
        return replace(preset(self.preset, tower), **self.changes)


def read_recipes(path: Path) -> list[Recipe]:
    """Recipes from JSON: ``{name: {"preset": ..., setting: value, ...}}``.

    Raises :class:`UsageError` naming the file, and the recipe, where one cannot be used.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        recipes = [Recipe(name, one.pop("preset"), one) for name, one in found.items()]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UsageError(f"{path}: not a JSON object of recipes, each with a preset ({error!r})") from None
    for recipe in recipes:
        try:
            recipe.settings(Tower())
        except (UsageError, TypeError) as error:
            raise UsageError(f"{path}: recipe {recipe.name!r}: {error}") from None
    return recipes


@dataclass(frozen=True)
class FoldData:
    """examples: the training split. fold: ``(n,)``, from :func:`fold_of`. unseen: pairs that neither
    the base nor a recipe has seen, for grounding. most: held-out pairs measured a fold.
    gallery: for recall, None for none."""

    examples: Examples
    fold: Array
    unseen: Examples
    most: int = 600
    gallery: Gallery | None = None


def cross_validate(model: LoadedModel, data: FoldData, recipes: Sequence[Recipe]) -> Iterator[dict[str, Any]]:
    """Train and measure each recipe on each fold, one record at a time: recipe, fold, accuracies in 0..1."""
    examples, fold = data.examples, data.fold
    for recipe in recipes:
        for number in range(int(fold.max()) + 1):
            held = subset(part(examples, fold == number), data.most, 0)
            with TemporaryDirectory() as folder:
                settings = recipe.settings(Tower.of(model.clip))
                trainer = train_without(model.clip, examples, fold != number, settings, Path(folder))
            found = measure(trainer, held, data.unseen)
            if data.gallery is not None:
                found |= recall(trainer.objective.clip, data.gallery)
            yield {"recipe": recipe.name, "fold": number} | found


def measure(trainer: Trainer, held: Examples, unseen: Examples) -> dict[str, Any]:
    """Accuracies on held-out pairs, on their texts' beginnings (``short_...``) and on unseen ones.

    ``score``, to choose by: the mean of preference on whole and on short texts and of
    grounding over other descriptions in unseen pairs with whole and with short texts.
    """
    found: dict[str, Any] = {"steps": trainer.step, "seconds": round(trainer.seconds, 1)}
    for kind, cut in (("", lambda pairs: pairs), ("short_", _beginnings)):
        here, elsewhere = validate(trainer.objective, cut(held)), validate(trainer.objective, cut(unseen))
        found |= {f"{kind}{name}": value for name, value in here.items() if name != "score"}
        for name in ("grounding", "text_grounding"):
            found[f"{kind}unseen_{name}"] = elsewhere[name]
    names = [f"{kind}{name}" for kind in ("", "short_") for name in ("preference", "unseen_text_grounding")]
    return found | {"score": sum(found[name] for name in names) / len(names)}


def _beginnings(pairs: Examples) -> Examples:
    starts = torch.zeros(len(pairs.tokens), dtype=torch.int64)
    return Examples(pairs.images, pairs.owner, cut_at(pairs.tokens, SHORT, starts))


def read_folds(model: LoadedModel, data: str, folds: int, cache: Path) -> FoldData:
    """The training split of ``data`` in folds of whole groups; ``val`` holds the unseen pairs."""
    found = load_pairs(data)
    pairs = found.split("train")
    examples = make_examples(model, pairs, cache)
    unseen = make_examples(model, found.split("val"), cache)
    return FoldData(examples, fold_of(groups_of(pairs, examples), folds), unseen)


def remaining(recipes: Sequence[Recipe], output: Path, folds: int) -> list[Recipe]:
    """The recipes whose folds are not all in ``output`` yet."""
    lines = output.read_text(encoding="utf-8").splitlines() if output.is_file() else []
    done = [json.loads(line)["recipe"] for line in lines]
    return [recipe for recipe in recipes if done.count(recipe.name) < folds]


@click.command()
@click.option("--data", required=True, help="Pairs with splits train and val, and with groups.")
@click.option("--recipes", required=True, type=click.Path(path_type=Path), help="JSON: name -> settings.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="JSON lines, added to.")
@click.option("--base", default="base", show_default=True, help="The untuned model to start from.")
@click.option("--folds", default=3, show_default=True, type=click.IntRange(2), help="How many.")
@click.option("--retrieval", type=click.Path(path_type=Path), help="Data folder with flickr8k, for recall.")
@click.option("--cache", default=Path("runs/features"), show_default=True, type=click.Path(path_type=Path))
def main(
    data: str, recipes: Path, output: Path, base: str, folds: int, retrieval: Path | None, cache: Path
) -> None:
    """Train and measure each recipe on each fold, and add a line for each to --output."""
    model = load_model(base)
    todo = remaining(read_recipes(recipes), output, folds)
    found = read_folds(model, data, folds, cache)
    if retrieval is not None:
        found = replace(found, gallery=read_gallery(model, retrieval))
    for record in cross_validate(model, found, todo):
        line = json.dumps(record)
        click.echo(line)
        with output.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


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


if __name__ == "__main__":
    main()
