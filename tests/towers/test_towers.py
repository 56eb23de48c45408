"""Towers run for features alone, against plain open_clip on the full context length."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip import CLIP
from torch import Tensor, nn
from torch.nn.functional import normalize
from tower_models import (
    IMAGE_TOWERS,
    OTHER_IMAGE_TOWERS,
    TEXT_TOWERS,
    TEXTS,
    model,
    other_blocks,
    own_block,
    parametrised,
)

from descscore.texts import pad
from descscore.towers.blocks import knows
from descscore.towers.image import encode_images
from descscore.towers.text import find_prefixes, run_texts, run_to_block

CPU = torch.device("cpu")
START, END = 49406, 49407


@pytest.fixture(scope="module")
def clip() -> CLIP:
    return model()


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return open_clip.get_tokenizer("ViT-B-32")(TEXTS)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
@pytest.mark.parametrize("name", TEXT_TOWERS)
def test_texts_equal_open_clip(name: str, tokens: Tensor) -> None:
    clip = model(**TEXT_TOWERS[name])
    assert knows(clip.transformer)
    ours = normalize(run_texts(clip, tokens, CPU).raw, dim=-1)
    theirs = clip.encode_text(tokens, normalize=True)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert float((theirs[0] - theirs[1]).abs().max()) > 1e-3
    for row, expected in zip(tokens, theirs, strict=True):
        alone = normalize(run_texts(clip, row[None], CPU).raw, dim=-1)
        torch.testing.assert_close(alone, expected[None], rtol=0, atol=1e-6)


@torch.inference_mode()
@pytest.mark.parametrize("block", range(4))
def test_states_on_the_way_equal_those_of_a_run_by_blocks(clip: CLIP, tokens: Tensor, block: int) -> None:
    run = run_texts(clip, tokens, CPU, block)
    torch.testing.assert_close(run.state, run_to_block(clip, tokens, block).state, rtol=0, atol=1e-5)
    torch.testing.assert_close(run.raw, clip.encode_text(tokens), rtol=0, atol=1e-5)


ROWS = st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(ROWS)
@torch.inference_mode()
def test_every_prefix_is_run_once_and_no_text_depends_on_the_others(
    clip: CLIP, bodies: list[list[int]]
) -> None:
    rows = [(START, *body, END) for body in bodies]
    prefixes = find_prefixes(pad(rows), torch.tensor([len(row) for row in rows]))
    assert len(prefixes.tokens) == len({row[: i + 1] for row in rows for i in range(len(row))})
    together = run_texts(clip, pad(rows), CPU).raw
    for row, found in zip(rows, together, strict=True):
        torch.testing.assert_close(found, clip.encode_text(full(row))[0], rtol=0, atol=1e-5)


def full(row: Sequence[int]) -> Tensor:
    out = torch.zeros(1, 77, dtype=torch.int64)
    out[0, : len(row)] = torch.tensor(row)
    return out


def test_prefixes_by_hand() -> None:
    """Rows 7 8 9, 7 8 and 7 0, of which the last two are padded with 0."""
    found = find_prefixes(torch.tensor([[7, 8, 9], [7, 8, 0], [7, 0, 0]]), torch.tensor([3, 2, 2]))
    assert found.tokens.tolist() == [7, 0, 8, 9]
    assert found.positions.tolist() == [0, 1, 1, 2]
    assert found.ends[found.back].tolist() == [3, 2, 1]
    assert found.lengths[found.back].tolist() == [3, 2, 2]


@torch.inference_mode()
@pytest.mark.parametrize("name", [*IMAGE_TOWERS, *OTHER_IMAGE_TOWERS])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_equal_open_clip(name: str, layout: torch.memory_format, pixels: Tensor) -> None:
    clip = model(**(IMAGE_TOWERS | OTHER_IMAGE_TOWERS)[name])
    ours = normalize(encode_images(clip, pixels.contiguous(memory_format=layout)), dim=-1)
    theirs = clip.encode_image(pixels, normalize=True)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert float((theirs[0] - theirs[1]).abs().max()) > 1e-3


def unmerged_lora(clip: CLIP) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    from descscore.lora import unpack_attention

    config = LoraConfig(r=2, target_modules=["resblocks.2.attn.q_proj"], init_lora_weights=False)
    inject_adapter_in_model(config, unpack_attention(clip).transformer)


@torch.inference_mode()
@pytest.mark.parametrize("change", [other_blocks, parametrised, unmerged_lora, own_block])
def test_what_is_not_known_runs_as_it_is_written(change: Any, tokens: Tensor) -> None:
    clip = model()
    before = clip.encode_text(tokens)
    change(clip)
    expected = clip.encode_text(tokens)
    assert float((expected - before).abs().max()) > 0.01
    torch.testing.assert_close(run_texts(clip, tokens, CPU).raw, expected, rtol=0, atol=1e-5)
    state = run_texts(clip, tokens, CPU, 2).state
    torch.testing.assert_close(state, run_to_block(clip, tokens, 2).state, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_changed_weights_count_at_once(tokens: Tensor) -> None:
    """Nothing of the weights is kept between runs."""
    clip = model()
    run_texts(clip, tokens, CPU)
    clip.transformer.resblocks[0].attn.in_proj_weight.data *= 2
    torch.testing.assert_close(run_texts(clip, tokens, CPU).raw, clip.encode_text(tokens), rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_close_as_open_clips_own(
    dtype: torch.dtype, tokens: Tensor, pixels: Tensor
) -> None:
    clip = model()
    half = copy.deepcopy(clip).to(dtype)
    for exact, ours, theirs in (
        (clip.encode_text(tokens), run_texts(half, tokens, CPU).raw, half.encode_text(tokens)),
        (
            clip.encode_image(pixels),
            encode_images(half, pixels.to(dtype)),
            half.encode_image(pixels.to(dtype)),
        ),
    ):
        own, their = (
            float((normalize(x.float(), dim=-1) - normalize(exact, dim=-1)).abs().max())
            for x in (ours, theirs)
        )
        assert 0 < own < 2 * their + 1e-3


def positions(transformer: Any, run: Callable[[], Tensor]) -> list[int]:
    """How many positions pass the feed-forward part of each block."""
    seen: list[int] = []

    def note(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.append(given[0].shape[:-1].numel())

    hooks = [block.mlp.register_forward_pre_hook(note) for block in transformer.resblocks]
    run()
    for hook in hooks:
        hook.remove()
    return seen


@torch.inference_mode()
def test_work_is_left_out(clip: CLIP, pixels: Tensor) -> None:
    texts = [f"A man in a red coat {i}" for i in range(10, 20)]
    tokens = open_clip.get_tokenizer("ViT-B-32")(texts)
    assert positions(clip.transformer, lambda: clip.encode_text(tokens)) == [770] * 4
    # Seven shared tokens with the start, then the digit that is shared, one of its own and the end.
    assert positions(clip.transformer, lambda: run_texts(clip, tokens, CPU).raw) == [28, 28, 28, 10]
    assert positions(clip.visual.transformer, lambda: clip.encode_image(pixels)) == [15, 15]
    assert positions(clip.visual.transformer, lambda: encode_images(clip, pixels)) == [15, 3]
