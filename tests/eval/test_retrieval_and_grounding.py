"""Recall and grounding against values worked by hand and slow loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from descscore.errors import DataError
from descscore.eval.statistics.retrieval import (
    count_others,
    grounding_by_photo,
    grounding_over_texts,
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
    assert float(grounding_sampled(same, same, count=3).sum()) == 0


def test_features_that_are_not_finite_are_refused() -> None:
    bad = torch.full((3, 2), torch.nan)
    with pytest.raises(DataError, match="not finite"):
        recall_at_k(bad, bad, torch.arange(3))


def test_others_are_other_and_fixed() -> None:
    owner = np.arange(40)
    others = pick_others(owner)
    assert others.shape == (40, 20)
    assert all(i not in row and len(set(row)) == 20 for i, row in enumerate(others.tolist()))
    assert np.array_equal(others, pick_others(owner))
    assert not np.array_equal(others, pick_others(owner, seed=1))


def test_rows_of_one_image_are_no_others() -> None:
    owner = np.array([0, 0, 0, 1, 1, 2, 3, 4])
    others = pick_others(owner)
    assert others.shape == (8, count_others(owner)) == (8, 5)  # the first image leaves five
    assert (owner[others] != owner[:, None]).all()
    assert all(len(set(row)) == 5 for row in others.tolist())
    assert count_others(np.zeros(3)) == 0


def test_a_second_right_description_is_no_rival() -> None:
    """Two rows show image 0, and its second description fits a little better than its first."""
    images = torch.tensor([[1.0, 0], [1.0, 0], [0, 1.0]])
    texts = torch.tensor([[0.8, 0.6], [1.0, 0], [0, 1.0]])
    owner = np.array([0, 0, 1])
    assert grounding_over_texts(images, texts, owner).tolist() == [1, 1, 1]
    assert grounding_sampled(images, texts, owner).tolist() == [1, 1, 1]
    assert grounding_over_texts(images, texts).tolist() == [0.5, 1, 1]  # as if all images were different


def test_a_tie_is_not_a_win() -> None:
    wins = wins_over_others(torch.tensor([0.5, 0.5]), torch.tensor([[0.5, 0.4], [0.6, 0.7]]))
    assert wins.tolist() == [0.5, 0.0]


def test_grounding_by_photo_by_hand() -> None:
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.9, 0.5, 0.2], [0.3, 0.3, 0.3]])
    assert grounding_by_photo(similarity, torch.tensor([0, 1, 2])).tolist() == [1.0, 0.5, 0.0]


def test_grounding_sampled_with_all_others_equals_by_photo() -> None:
    rng = np.random.default_rng(1)
    images, texts = unit(rng, 12), unit(rng, 12)
    sampled = grounding_sampled(images, texts, count=99, seed=3)
    torch.testing.assert_close(sampled, grounding_by_photo(texts @ images.T, torch.arange(12)))
