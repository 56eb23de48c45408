"""When a batch does not fit into memory, is filled up, or runs in reduced precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from batch_inputs import TEXTS, make_pairs
from model_passes import at_most, image_batches, seen

from descscore import DescScorer
from descscore.encoder import Encoder
from descscore.errors import UsageError
from descscore.models import load_model


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_pairs(tmp_path_factory.mktemp("photos"), 7, images=7).images


def full_gpu() -> Exception:
    return torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def test_batches_filled_up_for_a_gpu_give_the_same_features(tiny_folder: Path) -> None:
    """Filled up on the CPU here; also where a batch is halved because even a full one does not fit."""
    model = load_model(tiny_folder, "cpu")
    filled, plain = Encoder(model, 8, pad=True), Encoder(model, 8)
    pictures = torch.randint(0, 256, (11, 32, 32, 3), dtype=torch.uint8)
    tower = model.clip.visual.ln_pre
    with at_most(tower, 6, full_gpu()), image_batches(model.clip) as ran:
        features = filled.pixels(pictures)
    torch.testing.assert_close(features, plain.pixels(pictures), rtol=0, atol=1e-6)
    assert ran == [4, 4, 4]  # the last batch holds three pictures


@pytest.mark.parametrize("limit", [1, 3])
def test_the_batch_is_halved_when_memory_runs_out(tiny_folder: Path, photos: list[Path], limit: int) -> None:
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu", batch_size=16)
    pairs = [(photos[i % 7], f"{TEXTS[i % 5]} {i}") for i in range(14)]
    full_host = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
    clip = scorer.model.clip
    with at_most(clip.visual.ln_pre, limit, full_gpu()), at_most(clip.ln_final, limit, full_host):
        scores = scorer.score_batch(*zip(*pairs, strict=True))
    assert scorer.encoder.batch_size <= limit
    plain = DescScorer.from_pretrained(tiny_folder, device="cpu")
    expected = [plain.score(image, text).cosine for image, text in pairs]
    assert [score.cosine for score in scores] == pytest.approx(expected, abs=1e-6)


def test_other_errors_of_the_model_are_not_taken_for_memory(tiny_folder: Path, photos: list[Path]) -> None:
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")

    def fail(_: int) -> None:
        raise RuntimeError("shapes do not fit")

    with seen(scorer.model.clip.visual.ln_pre, fail), pytest.raises(RuntimeError, match="shapes do not fit"):
        scorer.score(photos[0], "A cat.")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_is_close_and_in_the_signature(
    tiny_folder: Path, photos: list[Path], precision: str
) -> None:
    full = DescScorer.from_pretrained(tiny_folder, device="cpu")
    reduced = DescScorer.from_pretrained(tiny_folder, device="cpu", precision=precision)
    assert f"precision:{precision}" in reduced.signature
    assert "precision:float32" in full.signature
    images, texts = photos * 3, [f"{TEXTS[i % 5]} {i}" for i in range(21)]
    a, b = (np.array([score.cosine for score in s.score_batch(images, texts)]) for s in (full, reduced))
    assert 0 < np.abs(a - b).mean() < 3e-3
    assert full.model.clip.ln_final.weight.dtype == torch.float32
    with pytest.raises(UsageError, match="bfloat"):
        DescScorer.from_pretrained(tiny_folder, device="cpu", precision="bfloat")
