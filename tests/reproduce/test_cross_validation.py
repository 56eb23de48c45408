"""A recipe is measured on what it did not see, and a wrong recipe is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toy_examples import examples

from descscore.adapters import weights_hash
from descscore.errors import UsageError
from descscore.models import load_model
from descscore.training import finetune
from descscore.training.config import Tower, preset
from reproduce import cross_validation
from reproduce.cross_validation import (
    FoldData,
    Gallery,
    Recipe,
    cross_validate,
    keep,
    read_recipes,
    recall,
    remaining,
)


def test_a_fold_is_measured_without_having_been_trained_on(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[bytes]] = []
    real = finetune.train_without

    def spy(clip, pairs, keep, *rest):  # type: ignore[no-untyped-def]
        seen.append({row.numpy().tobytes() for row in pairs.select(keep).images})
        return real(clip, pairs, keep, *rest)

    measured: list[set[bytes]] = []
    measure = cross_validation.measure

    def spy_measure(trainer, held, unseen):  # type: ignore[no-untyped-def]
        measured.append({row.numpy().tobytes() for row in held.images})
        return measure(trainer, held, unseen)

    monkeypatch.setattr(finetune, "train_without", spy)
    monkeypatch.setattr(cross_validation, "measure", spy_measure)
    model, data = load_model(tiny_folder, "cpu"), examples()
    before = model.weights_hash
    recipe = Recipe("joint", "joint", {"epochs": 6, "batch_size": 8, "learning_rate": 1e-2})
    folds = FoldData(replace(data, groups=("x",) * 8 + ("y",) * 8 + ("z",) * 8), 3, data)
    records = list(cross_validate(model, folds, recipe))
    assert [(r["recipe"], r["fold"]) for r in records] == [("joint", 0), ("joint", 1), ("joint", 2)]
    for train, held in zip(seen, measured, strict=True):
        assert len(train) == 16
        assert len(held) == 8
        assert not train & held
    assert np.mean([r["preference"] for r in records]) > 0.9  # one word tells them apart
    assert weights_hash(model.clip) == before


def test_recall_is_measured_beside_on_other_texts(tiny_folder: Path) -> None:
    """As counted by hand from plain open_clip's features of the same tower."""
    model, data = load_model(tiny_folder, "cpu"), examples()
    gallery = Gallery(data.images, data.tokens, torch.arange(len(data)).repeat(2))
    folds = FoldData(replace(data, groups=("x",) * 12 + ("y",) * 12), 2, data, gallery=gallery)
    found = next(cross_validate(model, folds, Recipe("as it is", "joint", {"epochs": 1, "batch_size": 8})))
    assert {"recall_image_to_text", "recall_text_to_image"} <= set(found)
    plain = recall(model.clip, gallery)
    with torch.no_grad():
        texts = model.clip.encode_text(F.pad(data.tokens, (0, model.clip.context_length - 7)), normalize=True)
    near = (data.images @ texts.T).topk(10, dim=1).indices % len(data)
    hits = (near == torch.arange(len(data))[:, None]).any(1)
    assert plain["recall_image_to_text"] == pytest.approx(float(hits.double().mean()))


def test_a_recipe_stands_in_the_file_with_all_its_folds_or_not_at_all(tmp_path: Path) -> None:
    """A run that was stopped between two folds trains them all again: no fold may stand there twice."""
    output, recipes = tmp_path / "results.jsonl", [Recipe(name, "joint", {}) for name in ("a", "b")]

    def folds(stop: bool) -> Iterator[dict[str, Any]]:
        yield {"recipe": "a", "fold": 0}
        if stop:
            raise KeyboardInterrupt
        yield {"recipe": "a", "fold": 1}

    with pytest.raises(KeyboardInterrupt):
        keep(folds(stop=True), output)
    assert remaining(recipes, output) == recipes
    keep(folds(stop=False), output)
    assert [json.loads(line)["fold"] for line in output.read_text().splitlines()] == [0, 1]
    assert remaining(recipes, output) == recipes[1:]


def test_recipes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "recipes.json"
    path.write_text(json.dumps({"mine": {"preset": "joint", "learning_rate": 0.5}}))
    (recipe,) = read_recipes(path)
    settings = recipe.settings(Tower(32, 4))
    assert settings.learning_rate == 0.5
    assert settings.k == preset("joint", Tower(32, 4)).k


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON object of recipes"),
        ('{"a": {"learning_rate": 1}}', "preset"),
        ('{"a": {"preset": "nope"}}', "recipe 'a': preset 'nope'"),
        ('{"a": {"preset": "joint", "rate": 1}}', "recipe 'a'.*rate"),
        ('{"a": {"preset": "joint", "epochs": 0}}', "recipe 'a': epochs 0"),
    ],
)
def test_recipes_that_cannot_be_used_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipes.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_recipes(path)
    assert str(path) in str(caught.value)
