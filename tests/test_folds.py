"""Folds keep groups whole, a recipe is measured on what it did not see, and a wrong one is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from descscore.errors import DataError, UsageError
from descscore.models import load_model
from descscore.training.config import Tower, preset
from descscore.training.data import Examples
from descscore.training.readout import fold_of, part
from reproduce.cross_validation import FoldData, Gallery, Recipe, cross_validate, read_recipes, recall


@given(st.lists(st.sampled_from("abcdefg"), min_size=3, max_size=60).filter(lambda g: len(set(g)) >= 3))
def test_folds_keep_groups_whole_whatever_the_order(groups: list[str]) -> None:
    fold = fold_of(groups, 3)
    places = {name: {int(f) for f, g in zip(fold, groups, strict=True) if g == name} for name in groups}
    assert all(len(found) == 1 for found in places.values())
    assert set(fold.tolist()) == {0, 1, 2}
    assert fold_of(groups[::-1], 3).tolist() == fold.tolist()[::-1]


def test_folds_are_evened_out_by_size() -> None:
    groups = ["a"] * 50 + ["b"] * 30 + ["c"] * 20 + ["d"] * 10
    assert sorted(np.bincount(fold_of(groups, 2)).tolist()) == [50, 60]
    with pytest.raises(DataError, match="2 groups cannot be cut into 3 folds"):
        fold_of(["a", "b"], 3)


def examples(n: int = 24) -> Examples:
    """Descriptions say "a", captions "b", whatever the picture. As in real towers, pictures have a mean."""
    rng = torch.Generator().manual_seed(0)
    images = torch.nn.functional.normalize(1 + torch.randn(n, 16, generator=rng), dim=1)
    tokens = torch.randint(500, 40000, (2 * n, 7), generator=rng)
    tokens[:n, 2], tokens[n:, 2] = 320, 321
    tokens[:, 0], tokens[:, -1] = 49406, 49407
    return Examples(images, torch.arange(n), tokens)


def test_a_fold_is_measured_without_having_been_trained_on(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reproduce import cross_validation

    seen: list[set[bytes]] = []
    real = cross_validation.train_without

    def spy(clip, pairs, keep, *rest):  # type: ignore[no-untyped-def]
        seen.append({row.numpy().tobytes() for row in part(pairs, keep).images})
        return real(clip, pairs, keep, *rest)

    measured: list[set[bytes]] = []
    measure = cross_validation.measure

    def spy_measure(trainer, held, unseen):  # type: ignore[no-untyped-def]
        measured.append({row.numpy().tobytes() for row in held.images})
        return measure(trainer, held, unseen)

    monkeypatch.setattr(cross_validation, "train_without", spy)
    monkeypatch.setattr(cross_validation, "measure", spy_measure)
    model, data = load_model(tiny_folder, "cpu"), examples()
    before = model.weights_hash
    recipe = Recipe("joint", "joint", {"epochs": 6, "batch_size": 8, "learning_rate": 1e-2})
    folds = FoldData(data, fold_of(["x"] * 8 + ["y"] * 8 + ["z"] * 8, 3), data)
    records = list(cross_validate(model, folds, [recipe]))
    assert [(r["recipe"], r["fold"]) for r in records] == [("joint", 0), ("joint", 1), ("joint", 2)]
    for train, held in zip(seen, measured, strict=True):
        assert len(train) == 16
        assert len(held) == 8
        assert not train & held
    assert np.mean([r["preference"] for r in records]) > 0.9  # one word tells them apart
    from descscore.adapters import weights_hash

    assert weights_hash(model.clip) == before


def test_recall_is_measured_beside_on_other_texts(tiny_folder: Path) -> None:
    """As counted by hand from plain open_clip's features of the same tower."""
    model, data = load_model(tiny_folder, "cpu"), examples()
    gallery = Gallery(data.images, data.tokens, torch.arange(len(data)).repeat(2))
    folds = FoldData(data, fold_of(["x"] * 12 + ["y"] * 12, 2), data, gallery=gallery)
    found = next(cross_validate(model, folds, [Recipe("as it is", "joint", {"epochs": 1, "batch_size": 8})]))
    assert {"recall_image_to_text", "recall_text_to_image"} <= set(found)
    plain = recall(model.clip, gallery)
    with torch.no_grad():
        texts = model.clip.encode_text(F.pad(data.tokens, (0, model.clip.context_length - 7)), normalize=True)
    near = (data.images @ texts.T).topk(10, dim=1).indices % len(data)
    hits = (near == torch.arange(len(data))[:, None]).any(1)
    assert plain["recall_image_to_text"] == pytest.approx(float(hits.double().mean()))


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
