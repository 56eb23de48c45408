"""Which weights are trained, and that low-rank updates add up to what they should."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from conftest import TINY, save_model
from descscore.attention import PROJECTIONS, UnpackedAttention
from descscore.errors import ModelError, UsageError
from descscore.interchange import Exchange, Rotation, interchange_texts
from descscore.lora import TARGETS, unpack_attention
from descscore.models import load_model
from descscore.purpose import Site
from descscore.training.config import preset
from descscore.training.lora import (
    Interpolation,
    attach_lora,
    lora_parameters,
    select_full,
    tower_shape,
    trained_parameters,
)

SMALL = {**TINY["model_cfg"], "text_cfg": {**TINY["model_cfg"]["text_cfg"], "vocab_size": 1000}}


def make_clip() -> nn.Module:
    torch.manual_seed(0)
    return open_clip.CLIP(**SMALL)


def make_tokens(count: int = 4) -> Tensor:
    tokens = torch.zeros(count, 77, dtype=torch.int64)
    for row in range(count):
        length = 6 + 5 * row
        tokens[row, :length] = torch.arange(length) * 7 % 900 + 1
        tokens[row, length - 1] = 999
    return tokens


def stir(model: nn.Module, seed: int = 1) -> nn.Module:
    """Give the updates values as if they had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def summed(clip: nn.Module, adapted: nn.Module, scale: float) -> nn.Module:
    """The plain model with every update added by hand, worked out from the stored matrices alone."""
    state = adapted.state_dict()
    clip = copy.deepcopy(clip)
    for block, attention in enumerate(clip.transformer.resblocks):
        root = f"base_model.model.transformer.resblocks.{block}.attn."
        change = {
            name: scale
            * state[f"{root}{name}.lora_B.default.weight"]
            @ state[f"{root}{name}.lora_A.default.weight"]
            for name in PROJECTIONS
        }
        with torch.no_grad():
            attention.attn.in_proj_weight += torch.cat([change[name] for name in PROJECTIONS[:3]])
            attention.attn.out_proj.weight += change["out_proj"]
    return clip


@pytest.fixture(scope="module")
def vit_b_32() -> Any:
    """ViT-B-32 with no memory behind its weights: counting needs shapes only."""
    config = open_clip.get_model_config("ViT-B-32")
    with torch.device("meta"):
        return open_clip.CLIP(
            **{k: v for k, v in config.items() if k in ("embed_dim", "vision_cfg", "text_cfg")}
        )


@pytest.mark.parametrize(
    ("name", "expected"), [("das-lora", 3_145_728), ("bft-lora", 6_291_456), ("joint", 3_145_728)]
)
def test_trained_parameters_of_the_lora_presets_on_vit_b_32(vit_b_32: Any, name: str, expected: int) -> None:
    config = preset(name, tower_shape(vit_b_32))
    clip = copy.deepcopy(vit_b_32)
    assert config.lora_rank is not None
    wrapped = attach_lora(clip, config.lora_rank, config.lora_alpha)
    assert sum(p.numel() for p in trained_parameters(wrapped).values()) == expected
    assert lora_parameters(vit_b_32, config.lora_rank) == expected == 12 * 8 * config.lora_rank * 512


@pytest.mark.parametrize("name", ["das-full", "bft-full"])
def test_trained_parameters_of_the_full_presets_on_vit_b_32(vit_b_32: Any, name: str) -> None:
    assert preset(name, tower_shape(vit_b_32)).tuning == "full"
    clip = copy.deepcopy(vit_b_32)
    select_full(clip)
    assert sum(p.numel() for p in trained_parameters(clip).values()) == 63_428_097


def test_lora_trains_the_text_attention_alone() -> None:
    clip = make_clip()
    names = set(trained_parameters(attach_lora(clip, 4)))
    root = "base_model.model.transformer.resblocks."
    parts = [f"{name}.lora_{side}" for name in PROJECTIONS for side in "AB"]
    assert names == {f"{root}{block}.attn.{part}.default.weight" for block in range(4) for part in parts}
    assert not clip.logit_scale.requires_grad
    assert type(clip.visual.transformer.resblocks[0].attn) is nn.MultiheadAttention


def test_query_key_and_value_have_an_a_of_their_own() -> None:
    clip = make_clip()
    attach_lora(clip, 4)
    attention = clip.transformer.resblocks[0].attn
    shapes = {n: p.shape for n, p in attention.named_parameters() if "lora" in n}
    assert set(shapes.values()) == {(4, 32), (32, 4)}
    starts = [getattr(attention, name).lora_A["default"].weight for name in PROJECTIONS]
    assert all(not torch.equal(starts[0], other) for other in starts[1:])


def packed_state(clip: Any) -> dict[str, Tensor]:
    """The weights under the names of a plain tower, where query, key and value are one matrix."""
    state = dict(clip.state_dict())
    for name in [name for name in state if ".q_proj." in name]:
        parts = [state.pop(name.replace("q_proj", part)) for part in PROJECTIONS[:3]]
        state[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return state


@pytest.mark.parametrize("bias", [True, False])
def test_unpacking_changes_nothing_and_keeps_every_weight(bias: bool) -> None:
    plain = make_clip()
    if not bias:
        for block in plain.transformer.resblocks:
            block.attn = nn.MultiheadAttention(32, 4, bias=False, batch_first=True)
    clip, tokens = copy.deepcopy(plain), make_tokens()
    unpack_attention(clip)
    torch.testing.assert_close(clip.encode_text(tokens), plain.encode_text(tokens), atol=1e-6, rtol=0)
    packed = packed_state(clip)
    assert packed.keys() == plain.state_dict().keys()
    assert all(torch.equal(packed[name], value) for name, value in plain.state_dict().items())
    assert type(clip.visual.transformer.resblocks[0].attn) is nn.MultiheadAttention


def test_a_tower_with_attention_of_its_own_is_refused() -> None:
    clip = make_clip()
    clip.transformer.resblocks[2].attn = nn.MultiheadAttention(32, 4, add_zero_attn=True, batch_first=True)
    with pytest.raises(ModelError, match="text block 2"):
        attach_lora(clip, 4)


def test_full_trains_all_text_weights_and_no_image_weight() -> None:
    clip = make_clip()
    select_full(clip)
    frozen = {name for name, p in clip.named_parameters() if not p.requires_grad}
    assert frozen == {f"visual.{name}" for name, _ in clip.visual.named_parameters()}


@pytest.mark.parametrize(
    "changes",
    [{"proj_bias": True}, {"ls_init_value": 0.1}, {"pool_type": "eos", "proj_type": "linear"}],
    ids=["linear projection", "layer scale", "end token by number"],
)
def test_full_trains_every_form_of_text_tower_whole(changes: dict[str, Any]) -> None:
    clip = open_clip.CLIP(**{**SMALL, "text_cfg": {**SMALL["text_cfg"], **changes}}, init_logit_bias=-10)
    select_full(clip)
    frozen = {name for name, p in clip.named_parameters() if not p.requires_grad}
    assert frozen == {"logit_bias"} | {f"visual.{name}" for name, _ in clip.visual.named_parameters()}


def test_lora_on_too_few_layers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a library had renamed some of them."""
    monkeypatch.setitem(TARGETS, "attention", r"transformer\.resblocks\.0\.attn\.q_proj")
    with pytest.raises(ModelError, match=r"256 values would be trained, not the expected 4,096"):
        attach_lora(make_clip(), 4)


@pytest.mark.parametrize(("rank", "alpha"), [(0, 1), (4, 0), (-1, 2)])
def test_a_rank_under_one_is_refused(rank: int, alpha: int) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        attach_lora(make_clip(), rank, alpha)


def test_starts_as_its_base_from_its_seed_alone() -> None:
    plain, first, second = make_clip(), make_clip(), make_clip()
    torch.manual_seed(1)
    a = attach_lora(first, 4, seed=3).state_dict()
    state = torch.get_rng_state()
    b = attach_lora(second, 4, seed=3).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a[name], b[name]) for name in a)
    # The updates are exact zeros, but the two models may add in different orders: float32 rounding.
    torch.testing.assert_close(
        first.encode_text(make_tokens()), plain.encode_text(make_tokens()), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("alpha", [4, 10])
@pytest.mark.parametrize("training", [True, False])
def test_every_update_is_added_once(alpha: int, training: bool) -> None:
    plain, clip = make_clip(), make_clip()
    wrapped = stir(attach_lora(clip, 4, alpha)).train(training)
    tokens = make_tokens()
    expected = summed(plain, wrapped, alpha / 4).train(training).encode_text(tokens)
    assert (expected - plain.encode_text(tokens)).abs().max() > 1e-2
    torch.testing.assert_close(clip.encode_text(tokens), expected, atol=1e-5, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(clip.encode_text(tokens), expected, atol=1e-5, rtol=0)
    merged, state = make_clip(), packed_state(wrapped.merge_and_unload())
    assert state.keys() == plain.state_dict().keys()
    merged.load_state_dict(state)
    torch.testing.assert_close(merged.encode_text(tokens), expected, atol=1e-5, rtol=0)


def test_frozen_weights_do_not_drift() -> None:
    clip = make_clip()
    wrapped = attach_lora(clip, 4)
    frozen = {n: p.detach().clone() for n, p in wrapped.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.Adam(trained_parameters(wrapped).values(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        clip.encode_text(make_tokens()).square().mean().backward()
        optimizer.step()
    assert all(torch.equal(frozen[n], p) for n, p in wrapped.named_parameters() if n in frozen)


def test_disabled_and_merged_adapters() -> None:
    plain, clip = make_clip(), make_clip()
    wrapped = stir(attach_lora(clip, 4))
    tokens = make_tokens()
    tuned = clip.encode_text(tokens)
    with wrapped.disable_adapter():
        torch.testing.assert_close(clip.encode_text(tokens), plain.encode_text(tokens), atol=1e-5, rtol=0)
    wrapped.merge_adapter(safe_merge=True)
    torch.testing.assert_close(clip.encode_text(tokens), tuned, atol=1e-5, rtol=0)
    wrapped.unmerge_adapter()
    torch.testing.assert_close(clip.encode_text(tokens), tuned, atol=1e-5, rtol=0)
    wrapped.merge_adapter()
    with wrapped.disable_adapter():
        torch.testing.assert_close(clip.encode_text(tokens), plain.encode_text(tokens), atol=1e-5, rtol=0)


def test_files_have_pefts_own_form(tmp_path: Path) -> None:
    clip, other = make_clip(), make_clip()
    stir(attach_lora(clip, 4)).save_pretrained(str(tmp_path))
    config = LoraConfig.from_pretrained(str(tmp_path))
    assert config.target_modules == TARGETS["attention"]
    wrapped = get_peft_model(unpack_attention(other), config)
    wrapped.load_adapter(str(tmp_path), "default")
    assert isinstance(other.transformer.resblocks[0].attn, UnpackedAttention)
    torch.testing.assert_close(
        other.encode_text(make_tokens()), clip.encode_text(make_tokens()), atol=1e-5, rtol=0
    )


def interchange_gradients(parts: list[list[int]]) -> dict[str, Tensor]:
    """Gradients of a sum over interchanges, accumulated over parts of the batch."""
    clip = make_clip()
    wrapped = stir(attach_lora(clip, 4))
    matrix = Rotation(32).matrix().detach()
    for rows in parts:
        base = torch.tensor(rows)
        found = interchange_texts(clip, make_tokens(), Exchange(base, (base + 1) % 4), matrix, Site(2, 16))
        (found.swapped.square().sum() + found.plain[base].sum()).backward()
    return {name: p.grad for name, p in trained_parameters(wrapped).items() if p.grad is not None}


def test_gradients_flow_and_accumulate_over_the_split_run() -> None:
    whole, parts = interchange_gradients([[0, 1, 2, 3]]), interchange_gradients([[0, 1], [2, 3]])
    assert len(whole) == 32
    assert all(gradient.abs().max() > 0 for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-4, rtol=1e-4)


def test_a_block_may_run_twice_in_one_graph() -> None:
    clip = make_clip()
    wrapped = stir(attach_lora(clip, 4))
    tokens = make_tokens()
    (clip.encode_text(tokens[:2]).square().sum() + clip.encode_text(tokens[2:]).square().sum()).backward()
    twice = {name: p.grad.clone() for name, p in trained_parameters(wrapped).items() if p.grad is not None}
    wrapped.zero_grad()
    clip.encode_text(tokens).square().sum().backward()
    for name, parameter in trained_parameters(wrapped).items():
        torch.testing.assert_close(twice[name], parameter.grad, atol=1e-4, rtol=1e-4)


def test_gradients_match_finite_differences() -> None:
    clip = make_clip().double()
    wrapped = stir(attach_lora(clip, 2)).double()
    start = {name: p.detach().clone().requires_grad_() for name, p in trained_parameters(wrapped).items()}
    names = [name for name in start if ".0.attn" in name]
    tokens = make_tokens(2)

    def features(*values: Tensor) -> Tensor:
        weights = dict(zip(names, values, strict=True))
        return torch.func.functional_call(
            Text(wrapped), {f"inner.{n}": v for n, v in weights.items()}, (tokens,)
        )

    assert torch.autograd.gradcheck(features, tuple(start[n] for n in names), fast_mode=True, atol=1e-6)


class Text(nn.Module):
    """Text features of a wrapped model as a forward pass."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.inner.base_model.model.encode_text(tokens)
        return features


def test_updates_keep_float32_under_autocast() -> None:
    clip = make_clip()
    wrapped = stir(attach_lora(clip, 4))
    exact = clip.encode_text(make_tokens())
    with torch.autocast("cpu", torch.bfloat16):
        rough = clip.encode_text(make_tokens())
        rough.float().square().sum().backward()
    assert torch.cosine_similarity(rough.float(), exact).min() > 0.99
    assert all(
        p.grad is not None and p.grad.dtype == torch.float32 for p in trained_parameters(wrapped).values()
    )


# Blending with the weights before training


def test_a_quarter_of_the_change_worked_by_hand() -> None:
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0]]))
        layer.bias.zero_()
    parameters = trained_parameters(layer)
    start = Interpolation(parameters, lora=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, -2.0]]))
        layer.bias.fill_(4.0)
    start.apply(parameters, 0.25)
    assert layer.weight.tolist() == [[1.5, -2.0]]
    assert layer.bias.tolist() == [1.0]


@pytest.mark.parametrize("targets", ["attention", "tower"])
def test_of_lora_the_merged_change_is_kept_in_part(tmp_path: Path, targets: str) -> None:
    """With both factors shrunk the product would keep the square of the share."""
    plain = load_model(save_model(tmp_path / "base", TINY), "cpu").clip
    clip = copy.deepcopy(plain).requires_grad_(True)
    wrapped = attach_lora(clip, 4, seed=1, targets=targets)
    parameters = trained_parameters(clip)
    start = Interpolation(parameters, lora=True)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
    # What stays is the other factor, so the whole change to compare with is one of the same factors.
    whole = packed_state(copy.deepcopy(wrapped).merge_and_unload())
    start.apply(parameters, 0.8)
    part = packed_state(wrapped.merge_and_unload())
    changed = 0
    for name, before in plain.state_dict().items():
        torch.testing.assert_close(part[name], before + 0.8 * (whole[name] - before), rtol=0, atol=1e-6)
        changed += not torch.equal(whole[name], before)
    assert changed >= 8
