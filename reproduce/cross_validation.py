"""Choose a recipe by cross-validation over groups of the training split, such as textbooks.

    python -m reproduce.cross_validation --data DATA --recipes RECIPES.json --output RESULTS.jsonl

Texts of one book share their words and their editors, so a split that cuts books apart calls memorised
phrases skill. Each recipe is trained once a fold on the other folds' books. It is measured on
preference, grounding and interchange, on whole texts and on their beginnings, since alt text elsewhere
is much shorter than in textbooks.

The base was pretrained on the pairs of the training split, so grounding there says little. So grounding
is measured on another split too, which the base has not seen; and ``--retrieval`` measures recall on
Flickr8k, whose captions are plain sentences far from a textbook's: a text tower that has come to like
some words for their own sake loses recall on them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from open_clip import CLIP
from torch import Tensor

from descscore.errors import UsageError
from descscore.eval.features import image_features
from descscore.eval.quality import read_flickr8k
from descscore.eval.statistics.retrieval import recall_at_k
from descscore.models import LoadedModel, load_model
from descscore.options import PATH
from descscore.scorer import DescScorer
from descscore.tables.open import load_pairs
from descscore.tokenizer import token_rows
from descscore.training.config import FinetuneConfig, Tower, preset
from descscore.training.data import Examples, cut_at, make_examples
from descscore.training.finetune import train_folds
from descscore.training.lora import tower_shape
from descscore.training.objective import unit_features, validate
from descscore.training.trainer import Trainer

SHORT = 20
"""Tokens of a text's beginning, start and end token included: about the length of Concadia's texts."""
MOST_HELD = 600
"""Held-out pairs of a fold that are measured, at most."""
K = 10
"""Recall counts a right text, or image, among so many nearest ones."""


@dataclass(frozen=True)
class Recipe:
    """A preset with changes, under the name that the results give it."""

    name: str
    preset: str
    changes: dict[str, Any]

    def settings(self, tower: Tower) -> FinetuneConfig:
        """The settings on a text tower. Raises :class:`UsageError` for a value out of range."""
        return replace(preset(self.preset, tower), **self.changes)


def read_recipes(path: Path) -> list[Recipe]:
    """Recipes from JSON: ``{name: {"preset": ..., setting: value, ...}}``.

    Raises :class:`UsageError` that names the file, and the recipe if one cannot be used.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        recipes = [Recipe(name, one.pop("preset"), one) for name, one in content.items()]
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
    """What recipes are trained and measured on."""

    examples: Examples
    """The training split, with its groups."""
    folds: int
    """Number of folds of whole groups."""
    unseen: Examples
    """Pairs that neither the base nor a recipe has seen, for grounding."""
    gallery: Gallery | None = None
    """For recall; None for no recall."""


def cross_validate(model: LoadedModel, data: FoldData, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Train and measure a recipe on each fold, one record at a time: recipe, fold, accuracies in 0..1."""
    settings = recipe.settings(tower_shape(model.clip))
    with TemporaryDirectory() as folder:
        trained = train_folds(model.clip, data.examples, data.folds, settings, Path(folder))
        for number, (held, trainer) in enumerate(trained):
            measured = measure(trainer, data.examples.select(held).sample(MOST_HELD), data.unseen)
            if data.gallery is not None:
                measured |= recall(trainer.objective.clip, data.gallery)
            yield {"recipe": recipe.name, "fold": number} | measured


def measure(trainer: Trainer, held: Examples, unseen: Examples) -> dict[str, Any]:
    """Accuracies on held-out pairs, on their texts' beginnings (``short_...``) and on unseen ones.

    ``score``, to choose by: the mean of preference on whole and on short texts and of
    grounding over other descriptions in unseen pairs with whole and with short texts.
    """
    measured: dict[str, Any] = {"steps": trainer.step, "seconds": round(trainer.seconds, 1)}
    for kind, cut in (("", lambda pairs: pairs), ("short_", _beginnings)):
        here, elsewhere = validate(trainer.objective, cut(held)), validate(trainer.objective, cut(unseen))
        measured |= {f"{kind}{name}": value for name, value in here.items() if name != "score"}
        for name in ("grounding", "text_grounding"):
            measured[f"{kind}unseen_{name}"] = elsewhere[name]
    names = [f"{kind}{name}" for kind in ("", "short_") for name in ("preference", "unseen_text_grounding")]
    return measured | {"score": sum(measured[name] for name in names) / len(names)}


def _beginnings(pairs: Examples) -> Examples:
    starts = torch.zeros(len(pairs.tokens), dtype=torch.int64)
    return replace(pairs, tokens=cut_at(pairs.tokens, SHORT, starts))


def remaining(recipes: Sequence[Recipe], output: Path) -> list[Recipe]:
    """The recipes that are not in ``output`` yet."""
    lines = output.read_text(encoding="utf-8").splitlines() if output.is_file() else []
    done = {json.loads(line)["recipe"] for line in lines}
    return [recipe for recipe in recipes if recipe.name not in done]


def keep(records: Iterable[dict[str, Any]], output: Path) -> None:
    """Print the records of a recipe one by one, and add them to ``output`` at the end: all folds or none."""
    lines = []
    for record in records:
        lines.append(json.dumps(record) + "\n")
        click.echo(lines[-1], nl=False)
    with output.open("a", encoding="utf-8") as file:
        file.writelines(lines)


@dataclass(frozen=True)
class Gallery:
    """Photos with captions that nothing is tuned on."""

    images: Tensor
    """Unit features ``(n, embed_dim)``."""
    tokens: Tensor
    """``(m, longest)``, padded with 0."""
    owner: Tensor
    """``(m,)`` ints, the image that each text belongs to."""


def read_gallery(model: LoadedModel, data: Path) -> Gallery:
    """Flickr8k's ``val`` in the data folder. Raises :class:`DataError` for a missing file."""
    photos = read_flickr8k(data, "val")
    images = image_features(DescScorer(model), photos.images)
    return Gallery(images, token_rows(model.tokenizer, photos.texts), torch.tensor(list(photos.owner)))


@torch.no_grad()
def recall(clip: CLIP, gallery: Gallery) -> dict[str, float]:
    """Recall at 10 in 0..1, in both directions: ``recall_image_to_text``, ``recall_text_to_image``."""
    by_way = recall_at_k(gallery.images, unit_features(clip, gallery.tokens), gallery.owner, (K,))
    return {f"recall_{way.removesuffix(f'@{K}')}": value for way, value in by_way.items()}


@click.command()
@click.option("--data", required=True, help="Pairs with splits train and val, and with groups.")
@click.option("--recipes", required=True, type=PATH, help="JSON: name -> settings.")
@click.option("--output", required=True, type=PATH, help="JSON lines, added to.")
@click.option("--base", default="base", show_default=True, help="The untuned model to start from.")
@click.option("--folds", default=3, show_default=True, type=click.IntRange(2), help="Number of folds.")
@click.option("--retrieval", type=PATH, help="Data folder with flickr8k, for recall.")
@click.option("--cache", default=Path("runs/features"), show_default=True, type=PATH)
def main(
    data: str, recipes: Path, output: Path, base: str, folds: int, retrieval: Path | None, cache: Path
) -> None:
    """Train and measure each recipe on each fold, and add a line for each to --output.

    A recipe that --output has already is left out.
    """
    model = load_model(base)
    todo = remaining(read_recipes(recipes), output)
    pairs = load_pairs(data)
    examples, unseen = (make_examples(model, pairs.split(name), cache) for name in ("train", "val"))
    gallery = None if retrieval is None else read_gallery(model, retrieval)
    fold_data = FoldData(examples, folds, unseen, gallery)
    for recipe in todo:
        keep(cross_validate(model, fold_data, recipe), output)


if __name__ == "__main__":
    main()
