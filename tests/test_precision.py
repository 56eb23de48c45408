"""Reduced precision against float32, on crops of real photos; and what stays in float32."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from click.testing import CliRunner
from torch.nn.functional import normalize
from tower_models import OTHER_IMAGE_TOWERS, model

from conftest import TINY, save_model
from descscore import DescScorer
from descscore.cli import main
from descscore.demo import PHOTOS
from descscore.encoder import with_precision
from descscore.errors import DataError, UsageError
from descscore.eval.precision import (
    Material,
    closeness,
    compare_precisions,
    made_material,
    published_material,
)
from descscore.images import load_image
from descscore.models import load_model
from descscore.tables.rows import PreferencePair


def crops() -> Material:
    """Sixteen crops of each of the demo's photos, with its texts and those of the photo after it."""
    images: dict[str, Any] = {}
    texts = {
        f"{i} {kind}": getattr(p, kind) for i, p in enumerate(PHOTOS) for kind in ("description", "caption")
    }
    pairs = []
    for i, photo in enumerate(PHOTOS):
        whole = load_image(photo.find())
        wide, high = whole.width // 2, whole.height // 2
        for j in range(16):
            left, top = (whole.width - wide) * (j % 4) // 3, (whole.height - high) * (j // 4) // 3
            images[f"{i} {j}"] = whole.crop((left, top, left + wide, top + high))
            for other in (i, (i + 1) % len(PHOTOS)):
                pairs += [(f"{i} {j}", f"{other} {kind}") for kind in ("description", "caption")]
    return Material(images, texts, pairs)


@pytest.fixture(scope="module")
def material() -> Material:
    return crops()


@pytest.mark.parametrize("name", ["base", "default"])
def test_the_bundled_models_keep_their_cosines_and_their_order(name: str, material: Material) -> None:
    bf16, fp16 = compare_precisions(load_model(name, "cpu"), material)
    assert bf16.pairs == len(material.pairs) == 256
    assert bf16.close
    assert fp16.close
    assert 0 < fp16.mean < bf16.mean


def test_closeness_by_hand() -> None:
    found = closeness("bf16", np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.1, 0.202, 0.299, 0.4]))
    assert found.mean == pytest.approx(0.003 / 4)
    assert found.largest == pytest.approx(0.002)
    assert found.spearman == pytest.approx(1)
    assert found.close
    swapped = closeness("bf16", np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.1, 0.2, 0.4, 0.3]))
    assert swapped.spearman == pytest.approx(0.8)
    assert not swapped.close


def test_published_pairs_are_own_texts_first_then_those_of_the_next_image() -> None:
    class Photo:
        def read(self) -> bytes:
            return PHOTOS[0].find().read_bytes()

    pairs = [
        PreferencePair(Photo(), f"description {i}", f"caption {i}", "test", str(i), None, "", "here", i)
        for i in range(2)
    ]
    found = published_material(pairs, 7)
    texts = [(image, found.texts[text]) for image, text in found.pairs]
    own = [("0", "description 0"), ("0", "caption 0"), ("1", "description 1"), ("1", "caption 1")]
    assert texts == [*own, ("0", "description 1"), ("0", "caption 1"), ("1", "description 0")]
    with pytest.raises(DataError, match="8 pairs, not 9"):
        published_material(pairs, 9)


def test_the_command_prints_what_it_measured(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", TINY)
    arguments = ["eval", "precision", "--pairs", "10", "--model", str(folder), "--precision", "bf16"]
    shown = CliRunner().invoke(main, [*arguments, "--json"])
    assert shown.exit_code == 0, shown.output
    (row,) = json.loads(shown.stdout)["rows"]
    (expected,) = compare_precisions(load_model(folder, "cpu"), made_material(10), ["bf16"])
    assert (row["pairs"], row["mean"]) == (10, pytest.approx(expected.mean))
    assert f"{expected.mean:.2e}" in CliRunner().invoke(main, arguments).stdout


@pytest.mark.parametrize("name", ["plain", *OTHER_IMAGE_TOWERS])
@torch.inference_mode()
def test_towers_of_every_form_run_in_reduced_precision(name: str, tmp_path: Path) -> None:
    scorer = DescScorer.from_pretrained(save_model(tmp_path, TINY), device="cpu")
    changed = model(**{"plain": {}, **OTHER_IMAGE_TOWERS}[name])
    text = model(text={"qk_norm": True}) if name == "other blocks" else changed
    changed.transformer = text.transformer
    changed.visual.preprocess_cfg = scorer.model.clip.visual.preprocess_cfg
    exact = DescScorer(replace(scorer.model, clip=changed, base=changed))
    half = DescScorer(exact.model, precision="bf16")
    pixels = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    for ours, theirs in (
        (half.encoder.pixels(pixels), exact.encoder.pixels(pixels)),
        (
            half.encoder.texts(["a cat", "two red boats"]).features,
            exact.encoder.texts(["a cat", "two red boats"]).features,
        ),
    ):
        assert 0 < float((ours - theirs).abs().max()) < 0.05
        assert float((ours * theirs).sum(-1).min()) > 0.999


def test_only_products_are_reduced_in_towers_that_are_known(tmp_path: Path) -> None:
    full = load_model(save_model(tmp_path, TINY), "cpu")
    half = with_precision(full, "bf16")
    kept = {name for name, weight in half.clip.named_parameters() if weight.dtype == torch.float32}
    reduced = {name for name, weight in half.clip.named_parameters() if weight.dtype == torch.bfloat16}
    assert {
        "token_embedding.weight",
        "text_projection",
        "visual.proj",
        "ln_final.bias",
        "logit_scale",
    } <= kept
    assert all(".ln_" in name or name.count(".") <= 2 for name in kept)
    assert {name.split(".")[-2] for name in reduced} == {"attn", "out_proj", "c_fc", "c_proj", "conv1"}
    assert {weight.dtype for weight in full.clip.parameters()} == {torch.float32}
    with pytest.raises(UsageError, match="bf16 already"):
        with_precision(half, "fp16")


@torch.inference_mode()
def test_a_residual_stream_in_float32_comes_closer_than_one_in_reduced_precision() -> None:
    import copy

    from descscore.encoder import _reduce_texts
    from descscore.towers.text import run_texts

    clip = model(text={"layers": 12})
    tokens = open_clip.get_tokenizer("ViT-B-32")([f"a photo of {i} red boats" for i in range(30)])
    exact = clip.encode_text(tokens, normalize=True)
    mixed, whole = copy.deepcopy(clip), copy.deepcopy(clip).to(torch.bfloat16)
    _reduce_texts(mixed, torch.bfloat16)
    errors = [
        float(
            (normalize(run_texts(each, tokens, torch.device("cpu")).raw.float(), dim=-1) - exact).abs().mean()
        )
        for each in (mixed, whole)
    ]
    assert 0 < errors[0] < 0.8 * errors[1]
