"""The shortened text run against plain open_clip's full 77 tokens."""

from __future__ import annotations

from types import SimpleNamespace

import open_clip
import pytest
import torch

from conftest import TINY
from descscore.errors import ModelError
from descscore.towers.text import check_text_tower, encode_tokens, end_positions, trim

TEXTS = [
    "cat",
    "A white cup of black coffee on a saucer with a spoon, on a wooden table.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich 🐈",
    "word " * 200,
]


@pytest.fixture(scope="module")
def clip() -> open_clip.CLIP:
    torch.manual_seed(0)
    return open_clip.CLIP(**TINY["model_cfg"]).eval()


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return open_clip.get_tokenizer("ViT-B-32")(TEXTS)


def same_direction(clip: open_clip.CLIP, tokens: torch.Tensor) -> None:
    ours = torch.nn.functional.normalize(encode_tokens(clip, tokens), dim=-1)
    torch.testing.assert_close(ours, clip.encode_text(tokens, normalize=True), rtol=0, atol=1e-6)


@torch.inference_mode()
def test_equals_open_clip(clip: open_clip.CLIP, tokens: torch.Tensor) -> None:
    same_direction(clip, tokens)
    for row in tokens:
        same_direction(clip, row[None])


@torch.inference_mode()
def test_equals_open_clip_with_eos_pooling_and_linear_projection() -> None:
    config = {**TINY["model_cfg"]}
    config["text_cfg"] = {
        **config["text_cfg"],
        "pool_type": "eos",
        "eos_id": 49407,
        "proj_type": "linear",
        "proj_bias": True,
    }
    torch.manual_seed(0)
    clip = open_clip.CLIP(**config).eval()
    tokens = open_clip.get_tokenizer("ViT-B-32")(TEXTS)
    same_direction(clip, tokens)


def test_gradients_equal_open_clip(clip: open_clip.CLIP, tokens: torch.Tensor) -> None:
    weight = clip.transformer.resblocks[0].mlp.c_fc.weight
    (ours,) = torch.autograd.grad(encode_tokens(clip, tokens).sum(), weight)
    (theirs,) = torch.autograd.grad(clip.encode_text(tokens).sum(), weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_trim_keeps_the_end_token(clip: open_clip.CLIP, tokens: torch.Tensor) -> None:
    assert trim(clip, tokens[:1]).tolist() == [[49406, 2368, 49407]]
    assert end_positions(clip, tokens)[-1] == 76
    assert trim(clip, tokens).shape == (4, 77)


def test_models_without_a_feature_for_a_text_are_refused() -> None:
    config = {**TINY["model_cfg"], "text_cfg": {**TINY["model_cfg"]["text_cfg"], "pool_type": "none"}}
    with pytest.raises(ModelError, match="x: the text tower gives a feature for each token"):
        check_text_tower(open_clip.CLIP(**config), "x")
    with pytest.raises(ModelError, match="x: SimpleNamespace has no visual"):
        check_text_tower(SimpleNamespace(), "x")
