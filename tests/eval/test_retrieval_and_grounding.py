"""Recall and grounding against values worked by hand and slow loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from descscore.errors import DataError
from descscore.eval.statistics.retrieval import (
    grounding_by_photo,
    grounding_sampled,
    pick_others,
    recall_at_k,
    wins_over_others,
)


def unit(rng: np.random.Generator, n: int, d: int = 8) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(n, d))), dim=-1)


def test_recall_equals_a_slow_count() -> None:
    rng = np.random.default_rng(0)
    images, texts, owner = unit(rng, 30), unit(rng, 90), np.arange(90) // 3
    recall = recall_at_k(images, texts, torch.from_numpy(owner), ks=(1, 4))
    similarity = (images @ texts.T).numpy()
    for k in (1, 4):
        hits = [any(owner[j] == i for j in np.argsort(-similarity[i])[:k]) for i in range(30)]
        assert recall[f"image_to_text@{k}"] == pytest.approx(np.mean(hits))
        hits = [owner[j] in np.argsort(-similarity[:, j])[:k] for j in range(90)]
        assert recall[f"text_to_image@{k}"] == pytest.approx(np.mean(hits))


def test_recall_by_hand() -> None:
    images = torch.eye(2, dtype=torch.float64)
    texts = torch.tensor([[1.0, 0], [0.6, 0.8], [0.8, 0.6]], dtype=torch.float64)
    recall = recall_at_k(images, texts, torch.tensor([0, 0, 1]), ks=(1, 2))
    # Image 0 has text 0 first. Image 1 likes text 1 (of image 0) best and its own second.
    assert (recall["image_to_text@1"], recall["image_to_text@2"]) == (0.5, 1.0)
    # Text 0 finds image 0; texts 1 and 2 prefer the wrong image.
    assert recall["text_to_image@1"] == pytest.approx(1 / 3)


def test_constant_features_get_no_credit() -> None:
    same = torch.ones(5, 4) / 2
    recall = recall_at_k(same, same, torch.arange(5), ks=(1,))
    assert recall == {"image_to_text@1": 0, "text_to_image@1": 0}
    assert float(grounding_sampled(same, same, 3, 0).sum()) == 0


def test_features_that_are_not_finite_are_refused() -> None:
    bad = torch.full((3, 2), torch.nan)
    with pytest.raises(DataError, match="not finite"):
        recall_at_k(bad, bad, torch.arange(3))


def test_others_are_other_and_fixed() -> None:
    others = pick_others(40, 20, seed=0)
    assert others.shape == (40, 20)
    assert all(i not in row and len(set(row)) == 20 for i, row in enumerate(others.tolist()))
    assert np.array_equal(others, pick_others(40, 20, seed=0))
    assert not np.array_equal(others, pick_others(40, 20, seed=1))


def test_a_tie_is_not_a_win() -> None:
    wins = wins_over_others(torch.tensor([0.5, 0.5]), torch.tensor([[0.5, 0.4], [0.6, 0.7]]))
    assert wins.tolist() == [0.5, 0.0]


def test_grounding_by_photo_by_hand() -> None:
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.9, 0.5, 0.2], [0.3, 0.3, 0.3]])
    assert grounding_by_photo(similarity, torch.tensor([0, 1, 2])).tolist() == [1.0, 0.5, 0.0]


def test_grounding_sampled_with_all_others_equals_by_photo() -> None:
    rng = np.random.default_rng(1)
    images, texts = unit(rng, 12), unit(rng, 12)
    sampled = grounding_sampled(images, texts, 99, seed=3)
    torch.testing.assert_close(sampled, grounding_by_photo(texts @ images.T, torch.arange(12)))
