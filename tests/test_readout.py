"""The purpose read-out: by hand, calibrated on held-out groups, and carried by an adapter into scores."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import make_photo
from descscore import DescScorer
from descscore.adapters import AdapterInfo, include_base, save_full, weights_hash
from descscore.errors import ModelError
from descscore.interchange import Rotation
from descscore.models import load_model
from descscore.purpose import Purpose, Readout, Site, save_purpose
from descscore.records import band_of
from descscore.towers.text import run_to_block

TEXTS = ("A red car stands at a gate.", "Ada, 1902")


def test_probability_and_percentile_by_hand() -> None:
    readout = Readout(torch.tensor([2.0, -1.0]), torch.tensor(0.5))
    found = Purpose(Site(0, 2), torch.eye(3).flip(0), readout, torch.tensor([0.1, 0.2, 0.2, 0.4]))
    state = torch.tensor([[9.0, 1.0, 0.25]])  # reversed: coordinates 0.25, 1
    assert float(found.probability(state)) == pytest.approx(1 / (1 + np.exp(-(0.5 - 1 + 0.5))))  # type: ignore[arg-type]
    assert found.percentile(torch.tensor([0.0, 0.2, 0.3, 0.5])).tolist() == [0, 50, 75, 100]  # type: ignore[union-attr]
    bare = Purpose(Site(0, 2), torch.eye(3))
    assert bare.probability(state) is None
    assert bare.percentile(torch.tensor([0.1])) is None


def test_every_percentile_has_one_band_and_a_model_without_references_has_none() -> None:
    names = {percentile: band_of(percentile) for percentile in (0.0, 9.99, 10.0, 49.99, 50.0, 100.0)}
    assert [band.name for band in names.values() if band] == ["weak", "weak", "fair", "fair", "good", "good"]
    assert band_of(None) is None


@pytest.fixture
def adapter(tiny_folder: Path, tmp_path: Path) -> tuple[Path, Purpose]:
    """The tiny model's own text tower as an adapter, with a random rotation and read-out."""
    clip = load_model(tiny_folder, "cpu").clip
    torch.manual_seed(0)
    readout = Readout(torch.randn(5), torch.tensor(0.1))
    found = Purpose(Site(2, 5), Rotation(32, 1).matrix().detach(), readout, torch.linspace(-0.5, 0.5, 101))
    info = AdapterInfo(
        include_base(tiny_folder, tmp_path / "adapter"), weights_hash(clip), tuning="full", block=2, k=5
    )
    save_full(clip, clip, info, tmp_path / "adapter")
    save_purpose(found, tmp_path / "adapter")
    return tmp_path / "adapter", found


def test_scores_carry_probability_and_percentile(
    adapter: tuple[Path, Purpose], tiny_folder: Path, tmp_path: Path
) -> None:
    folder, found = adapter
    scorer = DescScorer.from_pretrained(folder, device="cpu", batch_size=1)
    photo = make_photo(tmp_path / "a.png", 0)
    results = scorer.score_batch([photo] * 2, list(TEXTS))
    plain = DescScorer.from_pretrained(tiny_folder, device="cpu").score_batch([photo] * 2, list(TEXTS))
    clip = scorer.model.clip
    for text, result, other in zip(TEXTS, results, plain, strict=True):
        tokens = torch.tensor([scorer.model.tokenizer.tokenize(text).rows[0]])
        with torch.no_grad():
            expected = found.probability(run_to_block(clip, tokens, 2).state)
        assert result.description_probability == pytest.approx(float(expected), abs=1e-6)  # type: ignore[arg-type]
        assert result.cosine == pytest.approx(other.cosine, abs=1e-6)
        assert result.percentile == pytest.approx(100 * np.clip(result.cosine + 0.5, 0, 1), abs=0.6)
        assert other.description_probability is None
        assert other.percentile is None


def test_windows_have_the_mean_probability(adapter: tuple[Path, Purpose]) -> None:
    scorer = DescScorer.from_pretrained(adapter[0], device="cpu", text_policy="windows")
    first, second = "A red car stands at a gate. " * 10, "Ada met Grace in the year 1902. " * 8
    both = scorer.encoder.texts([first + second], "windows")
    rows = both.texts[0].rows
    assert len(rows) > 1
    parts = scorer.encoder._rows(scorer.model.clip, list(rows), scorer.model.purpose)[2]
    assert both.probabilities is not None
    assert float(both.probabilities[0]) == pytest.approx(float(parts.mean()), abs=1e-6)  # type: ignore[union-attr]


@pytest.mark.parametrize("damage", ["bytes", "k", "block"])
def test_a_damaged_purpose_is_named(adapter: tuple[Path, Purpose], damage: str) -> None:
    folder = adapter[0]
    if damage == "bytes":
        (folder / "purpose.safetensors").write_bytes(b"nonsense")
    else:
        path = folder / "descscore_adapter.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), damage: 9}))
    with pytest.raises(ModelError, match=r"purpose\.safetensors"):
        load_model(folder, "cpu")


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("reference", torch.tensor([0.2, 0.1]), "reference is not in ascending order"),
        ("reference", torch.zeros(2, 2), r"reference has shape \(2, 2\)"),
        ("readout.bias", torch.tensor(1), "readout.bias holds int64"),
        ("readout.bias", torch.tensor(torch.nan), "readout.bias holds NaN or infinity"),
    ],
)
def test_what_is_wrong_with_a_purpose_is_said(
    adapter: tuple[Path, Purpose], name: str, values: torch.Tensor, said: str
) -> None:
    path = adapter[0] / "purpose.safetensors"
    save_file(load_file(path) | {name: values}, path)
    with pytest.raises(ModelError, match=said):
        load_model(adapter[0], "cpu")


# Fully tuned towers


def test_only_words_that_have_changed_are_kept(tiny_folder: Path, tmp_path: Path) -> None:
    base = load_model(tiny_folder, "cpu").clip
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned.token_embedding.weight[[5, 700]] += 1
        tuned.transformer.resblocks[0].mlp.c_fc.weight += 0.1
    info = AdapterInfo(include_base(tiny_folder, tmp_path), weights_hash(base), tuning="full")
    save_full(tuned, base, info, tmp_path)
    kept = load_file(tmp_path / "text_tower.safetensors")
    assert kept["token_embedding.rows"].tolist() == [5, 700]
    assert "token_embedding.weight" not in kept
    assert weights_hash(load_model(tmp_path, "cpu").clip) == weights_hash(tuned)


def test_half_precision_weights_are_read_as_float32(tiny_folder: Path, tmp_path: Path) -> None:
    base = load_model(tiny_folder, "cpu").clip
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if not name.startswith("visual."):
                parameter.copy_((parameter * 1.01).half().float())
    info = AdapterInfo(include_base(tiny_folder, tmp_path), weights_hash(base), tuning="full")
    save_full(tuned, base, info, tmp_path, torch.float16)
    assert {v.dtype for v in load_file(tmp_path / "text_tower.safetensors").values()} <= {
        torch.float16,
        torch.int32,
    }
    assert weights_hash(load_model(tmp_path, "cpu").clip) == weights_hash(tuned)


def test_a_word_that_the_base_lacks_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    base = load_model(tiny_folder, "cpu").clip
    save_full(
        base,
        base,
        AdapterInfo(include_base(tiny_folder, tmp_path), weights_hash(base), tuning="full"),
        tmp_path,
    )
    path = tmp_path / "text_tower.safetensors"
    kept = load_file(path)
    kept |= {"token_embedding.rows": torch.tensor([10**6]), "token_embedding.changed": torch.zeros(1, 32)}
    save_file(kept, path)
    with pytest.raises(ModelError, match=r"text_tower\.safetensors cannot be loaded"):
        load_model(tmp_path, "cpu")
