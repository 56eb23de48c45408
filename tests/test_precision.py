"""Towers in reduced precision: close to float32, and what stays in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from torch.nn.functional import normalize
from tower_models import OTHER_IMAGE_TOWERS, model

from conftest import TINY, save_model
from descscore import DescScorer
from descscore.encoder import with_precision
from descscore.errors import UsageError
from descscore.models import load_model


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
