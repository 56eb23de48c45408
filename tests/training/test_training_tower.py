"""The text tower in training: features and gradients against plain open_clip, and the work left out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip import CLIP
from torch import Tensor, nn
from tower_models import TEXT_TOWERS, TEXTS, model, other_blocks, own_block, parametrised

from descscore.interchange import Exchange, Interchanged, Rotation, interchange_texts
from descscore.purpose import Site
from descscore.texts import pad
from descscore.towers.blocks import knows
from descscore.training.lora import attach_lora, select_full, trained_parameters
from descscore.training.objective import encode, encode_exchange

START, END = 49406, 49407
TUNINGS = ("attention", "tower", "full")


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return open_clip.get_tokenizer("ViT-B-32")(TEXTS)


def tuned(tuning: str, text: dict[str, Any] | None = None, **more: Any) -> CLIP:
    """A tower of large random weights in training, with updates as if it had been trained for a while."""
    clip = model(text, **more).requires_grad_(True)
    if tuning == "full":
        select_full(clip)
        return clip
    wrapped = attach_lora(clip, 4, 6, targets=tuning)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora" in name:
                weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return clip


def gradients(clip: CLIP, run: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Features in float64, and what a weighted sum of them gives as gradients."""
    clip.zero_grad()
    features = run()
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(3), dtype=features.dtype)
    (features * weights).sum().backward()
    found = {n: p.grad.clone() for n, p in trained_parameters(clip).items() if p.grad is not None}
    return features.detach(), found


def same(clip: CLIP, ours: Callable[[], Tensor], theirs: Callable[[], Tensor], tolerance: float) -> None:
    """In units of each gradient's own size."""
    (features, found), (expected, plain) = gradients(clip, ours), gradients(clip, theirs)
    torch.testing.assert_close(features, expected, rtol=0, atol=tolerance * float(expected.abs().max()))
    assert found.keys() == plain.keys()
    assert len(found) >= 4
    for name, gradient in plain.items():
        size = float(gradient.abs().max())
        assert size > 0
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=tolerance * size, msg=name)


@pytest.mark.parametrize("name", TEXT_TOWERS)
@pytest.mark.parametrize("tuning", TUNINGS)
def test_features_and_gradients_equal_open_clip(name: str, tuning: str, tokens: Tensor) -> None:
    clip = tuned(tuning, **TEXT_TOWERS[name]).double()
    assert knows(clip.transformer)
    same(clip, lambda: encode(clip, tokens), lambda: clip.encode_text(tokens), 1e-10)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_float32_differs_by_rounding_alone(tuning: str, tokens: Tensor) -> None:
    clip = tuned(tuning)
    same(clip, lambda: encode(clip, tokens), lambda: clip.encode_text(tokens), 3e-5)


def exchange(clip: CLIP, run: Any, tokens: Tensor, block: int, rotation: Rotation) -> Interchanged:
    met = Exchange(torch.tensor([0, 1, 6, 6, 5]), torch.tensor([3, 0, 2, 5, 5]))
    return run(clip, tokens, met, rotation.matrix(), Site(block, 9))


@pytest.mark.parametrize("block", range(4))
@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("part", ["plain", "swapped", "state"])
def test_an_interchange_equals_whole_runs(block: int, tuning: str, part: str, tokens: Tensor) -> None:
    """The whole runs are compared with plain hooks on open_clip in ``test_interchange.py``."""
    clip = tuned(tuning).double()
    clip.register_module("rotation", Rotation(32, seed=1).double())  # its gradient is compared too
    rotation: Any = clip.rotation

    def run(which: Any) -> Callable[[], Tensor]:
        return lambda: getattr(exchange(clip, which, tokens, block, rotation), part)

    features, found = gradients(clip, run(encode_exchange))
    expected, plain = gradients(clip, run(interchange_texts))
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-10)
    assert found.keys() == plain.keys()
    assert ("rotation.parametrizations.weight.original" in found) == (part != "state")
    for name, gradient in plain.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-9, msg=name)


ROWS = st.lists(st.lists(st.integers(0, 2), max_size=5), min_size=2, max_size=8)


@settings(max_examples=40, deadline=None)
@given(ROWS, st.integers(0, 2), st.randoms(use_true_random=False))
def test_any_texts_may_meet(bodies: list[list[int]], block: int, random: Any) -> None:
    """Equal rows, rows that are each other's beginning, a text as its own source, a base several times."""
    tokens = pad([(START, *body, END) for body in bodies])
    count = len(bodies)
    met = Exchange(*(torch.tensor([random.randrange(count) for _ in range(count)]) for _ in range(2)))
    clip, matrix = MEETING, Rotation(32, seed=1).double().matrix().detach()
    ours, theirs = (
        run(clip, tokens, met, matrix, Site(block, 9)) for run in (encode_exchange, interchange_texts)
    )
    for part in ("plain", "swapped", "state"):
        torch.testing.assert_close(getattr(ours, part), getattr(theirs, part), rtol=0, atol=1e-10)


MEETING = tuned("attention").double()


def test_gradients_match_finite_differences() -> None:
    clip = tuned("attention").double()
    rows = pad([(START, 5, 6, 7, END), (START, 5, 6, END), (START, 9, END)])
    chosen = {
        n: p for n, p in trained_parameters(clip).items() if ".0.attn.k_proj" in n or ".3.attn.out" in n
    }
    names = list(chosen)
    matrix = Rotation(32, seed=1).double().matrix().detach()

    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.clip = clip

        def forward(self) -> Tensor:
            met = Exchange(torch.tensor([0, 2]), torch.tensor([1, 0]))
            found = encode_exchange(self.clip, rows, met, matrix, Site(1, 9))
            return torch.cat([found.plain, found.swapped])

    def features(*values: Tensor) -> Tensor:
        held = {f"clip.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(Swapped(), held, ())

    assert len(names) == 4
    inputs = tuple(p.detach().clone().requires_grad_() for p in chosen.values())
    assert torch.autograd.gradcheck(features, inputs, fast_mode=True, atol=1e-6)


@pytest.mark.parametrize("change", [other_blocks, parametrised, own_block])
def test_what_is_not_known_runs_as_it_is_written(change: Any, tokens: Tensor) -> None:
    clip = model()
    change(clip)
    assert not knows(clip.transformer)
    torch.testing.assert_close(encode(clip, tokens), clip.encode_text(tokens), rtol=0, atol=1e-5)
    rotation = Rotation(32, seed=1)
    ours, theirs = (exchange(clip, run, tokens, 2, rotation) for run in (encode_exchange, interchange_texts))
    torch.testing.assert_close(ours.swapped, theirs.swapped, rtol=0, atol=1e-5)


def test_disabled_and_merged_updates(tokens: Tensor) -> None:
    plain, clip = model(), model().requires_grad_(True)
    wrapped = attach_lora(clip, 4)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight += 0.1
    moved = clip.encode_text(tokens).detach()
    assert float((moved - plain.encode_text(tokens)).abs().max()) > 0.1

    def close(expected: Tensor) -> None:
        torch.testing.assert_close(encode(clip, tokens), expected, rtol=0, atol=2e-4)
        with torch.no_grad():
            torch.testing.assert_close(encode(clip, tokens), expected, rtol=0, atol=2e-4)

    close(moved)
    with wrapped.disable_adapter():
        close(plain.encode_text(tokens))
    wrapped.merge_adapter()
    close(moved)
    with wrapped.disable_adapter():
        close(plain.encode_text(tokens))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_as_close_as_the_whole_run(dtype: torch.dtype, tokens: Tensor) -> None:
    clip = tuned("attention")
    exact = gradients(clip, lambda: clip.encode_text(tokens))[1]
    far = []
    for run in (encode, lambda clip, tokens: clip.encode_text(tokens)):
        with torch.autocast("cpu", dtype):
            found = gradients(clip, lambda run=run: run(clip, tokens).float())[1]
        assert {gradient.dtype for gradient in found.values()} == {torch.float32}
        far.append(sum(float((found[n] - g).norm() / g.norm()) for n, g in exact.items()) / len(exact))
    assert 0 < far[0] < 1.5 * far[1]


def test_no_gradient_is_made_for_frozen_weights(tokens: Tensor) -> None:
    clip = tuned("attention")
    encode(clip, tokens).sum().backward()
    frozen = [n for n, p in clip.named_parameters() if not p.requires_grad and p.grad is not None]
    assert frozen == []


def test_work_is_left_out() -> None:
    """Texts of 3, 5 and 6 tokens that share their start, and two interchanges after the second block of 4."""
    clip = tuned("attention")
    tokens = pad([(START, 1, END), (START, 2, 3, 4, END), (START, 3, 3, 3, 3, END)])
    seen: list[int] = []
    for block in clip.transformer.resblocks:
        block.mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[:-1].numel()))
    encode(clip, tokens)
    assert seen == [12, 12, 12, 3]
    seen.clear()
    met = Exchange(torch.tensor([0, 1]), torch.tensor([2, 0]))
    encode_exchange(clip, tokens, met, Rotation(32).matrix(), Site(1, 9))
    assert seen == [12, 12, 14, 5]


def test_models_are_not_changed_by_a_run(tokens: Tensor) -> None:
    clip = tuned("attention")
    before = copy.deepcopy(clip.state_dict())
    encode(clip, tokens).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in clip.state_dict().items())
