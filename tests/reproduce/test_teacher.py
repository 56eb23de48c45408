"""The published sentence encoder of the extra ``train``, as pretraining uses it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reproduce.pretraining import data as teacher

TEXTS = ["A dog runs on the beach.", "A puppy is running over the sand.", "Election results of 1932."]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("teacher") / "cache"


@pytest.fixture(scope="module")
def vectors(cache: Path) -> torch.Tensor:
    return teacher.embed(TEXTS, "cpu", cache)


def test_texts_that_mean_the_same_lie_near(vectors: torch.Tensor) -> None:
    assert vectors.shape == (3, 384)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    same, other = float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2])
    assert same > 0.5 > 0.3 > other


def test_a_second_call_takes_what_the_first_kept(
    vectors: torch.Tensor, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(device: str) -> None:
        raise AssertionError("the encoder was loaded again")

    monkeypatch.setattr(teacher, "_encoder", gone)
    assert torch.equal(teacher.embed(TEXTS, "cpu", cache), vectors)
    with pytest.raises(AssertionError, match="loaded again"):
        teacher.embed(TEXTS[::-1], "cpu", cache)
