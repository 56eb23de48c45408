"""The rotation and the interchange, against plain hooks, their definition, and finite differences."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conftest import TINY
from descscore.errors import UsageError
from descscore.interchange import Exchange, Rotation, interchange, interchange_texts, skew_exponential
from descscore.purpose import Site, check_site, purpose_coordinates
from descscore.towers.text import join_tokens, run_from_block, run_to_block

EOT = 999
SMALL = {**TINY["model_cfg"], "text_cfg": {**TINY["model_cfg"]["text_cfg"], "vocab_size": EOT + 1}}
LENGTHS = (5, 9, 20, 77)


def make_clip(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return open_clip.CLIP(**SMALL).eval()


@pytest.fixture(scope="module")
def clip() -> nn.Module:
    return make_clip()


def make_tokens(*lengths: int, seed: int = 0) -> Tensor:
    """Random texts of those lengths, end token included, padded to the full context."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.zeros(len(lengths), 77, dtype=torch.int64)
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.randint(1, EOT, (length,), generator=generator)
        tokens[row, length - 1] = EOT
    return tokens


def hooked(clip: nn.Module, tokens: Tensor, block: int, replace: Any = None) -> tuple[Tensor, Tensor]:
    """An independent run: open_clip's own ``encode_text`` with a hook on a block, one text at a time."""
    states, features = [], []
    for row, text in enumerate(tokens):
        end = int((text == EOT).nonzero()[0])

        def hook(_module: nn.Module, _inputs: Any, output: Tensor, row: int = row, end: int = end) -> Tensor:
            states.append(output[0, end].clone())
            if replace is None:
                return output
            changed = output.clone()
            changed[0, end] = replace[row]
            return changed

        handle = clip.transformer.resblocks[block].register_forward_hook(hook)
        features.append(clip.encode_text(text[None])[0])
        handle.remove()
    return torch.stack(features), torch.stack(states)


@pytest.mark.parametrize("block", range(4))
def test_split_run_equals_encode_text(clip: nn.Module, block: int) -> None:
    tokens = make_tokens(*LENGTHS)
    run = run_to_block(clip, tokens, block)
    expected, states = hooked(clip, tokens, block)
    torch.testing.assert_close(run.state, states, atol=1e-5, rtol=0)
    torch.testing.assert_close(run_from_block(clip, run), clip.encode_text(tokens), atol=1e-5, rtol=0)
    torch.testing.assert_close(run_from_block(clip, run), expected, atol=1e-5, rtol=0)


def test_a_run_is_cut_to_its_longest_text(clip: nn.Module) -> None:
    assert run_to_block(clip, make_tokens(5, 9), 1).hidden.shape == (2, 9, 32)


@pytest.mark.parametrize("block", range(4))
def test_interchange_equals_a_plain_hook(clip: nn.Module, block: int) -> None:
    tokens, k = make_tokens(*LENGTHS), 5
    base, source = [0, 1, 2, 3, 3], [3, 0, 1, 0, 1]
    matrix = Rotation(32, seed=1).matrix().detach()
    found = interchange_texts(
        clip, tokens, Exchange(torch.tensor(base), torch.tensor(source)), matrix, Site(block, k)
    )
    plain, states = hooked(clip, tokens, block)
    mixed = torch.cat([states[source] @ matrix.T[:, :k], states[base] @ matrix.T[:, k:]], dim=1)
    swapped, _ = hooked(clip, tokens[base], block, replace=mixed @ matrix)
    torch.testing.assert_close(found.plain, plain, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.swapped, swapped, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.state, states, atol=1e-5, rtol=0)
    assert (found.swapped - found.plain[base]).abs().max() > 1e-3


@given(st.integers(0, 2**16), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_interchange_follows_its_definition(seed: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    base, source = torch.randn(2, 3, 12, generator=generator, dtype=torch.float64)
    matrix = Rotation(12, seed).double().matrix().detach()
    new = interchange(base, source, matrix, k)
    rotated = torch.cat([(source @ matrix.T)[:, :k], (base @ matrix.T)[:, k:]], dim=1)
    torch.testing.assert_close(new, rotated @ matrix, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        purpose_coordinates(new, matrix, k), purpose_coordinates(source, matrix, k), atol=1e-5, rtol=0
    )


@given(st.integers(0, 2**16), st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_interchange_with_itself_changes_nothing(seed: int, k: int) -> None:
    state = torch.randn(3, 12, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(interchange(state, state, Rotation(12, seed).matrix(), k), state)


def test_a_text_as_its_own_source_keeps_its_features(clip: nn.Module) -> None:
    rows = torch.arange(4)
    found = interchange_texts(
        clip, make_tokens(*LENGTHS), Exchange(rows, rows), Rotation(32).matrix(), Site(2, 16)
    )
    torch.testing.assert_close(found.plain, found.swapped, rtol=0, atol=1e-5)


def test_whole_interchange_gives_the_sources_state() -> None:
    base, source = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    new = interchange(base, source, Rotation(32).matrix(), 32)
    torch.testing.assert_close(new, source, atol=1e-5, rtol=0)


def test_whole_interchange_after_the_last_block_gives_the_sources_features(clip: nn.Module) -> None:
    exchange = Exchange(torch.tensor([0, 2]), torch.tensor([3, 1]))
    found = interchange_texts(clip, make_tokens(*LENGTHS), exchange, Rotation(32).matrix(), Site(3, 32))
    torch.testing.assert_close(found.swapped, found.plain[[3, 1]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("block", [0, 2])
def test_gradients_of_the_interchange_match_finite_differences(block: int) -> None:
    clip = make_clip().double()
    tokens = make_tokens(4, 7)
    weight = clip.transformer.resblocks[0].ln_1.weight.detach()
    rotation = Rotation(32, 3).double()
    original = rotation.parametrizations.weight.original.detach()
    exchange = Exchange(torch.tensor([0, 1]), torch.tensor([1, 0]))

    def features(weight: Tensor, original: Tensor) -> Tensor:
        names = {"parametrizations.weight.original": original}
        tower = {"transformer.resblocks.0.ln_1.weight": weight}
        matrix = torch.func.functional_call(Matrix(rotation), {f"inner.{n}": v for n, v in names.items()}, ())
        return torch.func.functional_call(
            Swap(clip, exchange, block), {f"inner.{n}": v for n, v in tower.items()}, (tokens, matrix)
        )

    inputs = (weight.requires_grad_(), original.clone().requires_grad_())
    assert torch.autograd.gradcheck(features, inputs, fast_mode=True, atol=1e-6)


class Matrix(nn.Module):
    """The rotation's matrix as a forward pass."""

    def __init__(self, inner: Rotation) -> None:
        super().__init__()
        self.inner = inner

    def forward(self) -> Tensor:
        return self.inner.matrix()


class Swap(nn.Module):
    """Features of interchanged texts as a forward pass."""

    def __init__(self, inner: nn.Module, exchange: Exchange, block: int) -> None:
        super().__init__()
        self.inner, self.exchange, self.block = inner, exchange, block

    def forward(self, tokens: Tensor, matrix: Tensor) -> Tensor:
        return interchange_texts(self.inner, tokens, self.exchange, matrix, Site(self.block, 5)).swapped


def test_gradients_flow_through_the_source(clip: nn.Module) -> None:
    base, source = torch.randn(2, 3, 8, dtype=torch.float64).unbind()
    matrix = Rotation(8).double().matrix().detach()
    inputs = (base.requires_grad_(), source.requires_grad_(), matrix.requires_grad_())
    assert torch.autograd.gradcheck(lambda b, s, m: interchange(b, s, m, 3), inputs)


def off_orthogonal(matrix: Tensor) -> float:
    square = matrix.detach().double()
    return float((square.T @ square - torch.eye(len(square))).abs().max())


def test_rotation_stays_orthogonal_in_training() -> None:
    rotation = Rotation(24, seed=2)
    start = rotation.matrix().detach().clone()
    optimizer = torch.optim.Adam(rotation.parameters(), lr=0.05)
    states, target = torch.randn(2, 40, 24, generator=torch.Generator().manual_seed(0))
    for _ in range(50):
        optimizer.zero_grad()
        (purpose_coordinates(states, rotation.matrix(), 6) - target[:, :6]).square().mean().backward()
        optimizer.step()
    assert off_orthogonal(rotation.matrix()) < 1e-5
    assert (rotation.matrix() - start).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rotation_keeps_float32_under_autocast(dtype: torch.dtype) -> None:
    rotation = Rotation(24)
    states = torch.randn(4, 24)
    with torch.autocast("cpu", dtype):
        matrix = rotation.matrix()
        coordinates, new = (
            purpose_coordinates(states, matrix, 6),
            interchange(states, states.flip(0), matrix, 6),
        )
    assert matrix.dtype == coordinates.dtype == new.dtype == torch.float32
    assert off_orthogonal(matrix) < 1e-5
    torch.testing.assert_close(coordinates, purpose_coordinates(states, matrix, 6), rtol=0, atol=1e-6)


def test_interchange_keeps_the_base_dtype() -> None:
    states = torch.randn(2, 24, dtype=torch.bfloat16)
    assert interchange(states, states.flip(0), Rotation(24).matrix(), 6).dtype == torch.bfloat16


def test_a_pass_under_autocast_stays_near_float32(clip: nn.Module) -> None:
    exchange = Exchange(torch.tensor([0, 1]), torch.tensor([1, 0]))
    arguments = (clip, make_tokens(6, 9), exchange, Rotation(32).matrix(), Site(2, 16))
    exact = interchange_texts(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        rough = interchange_texts(*arguments)
    cosine = torch.cosine_similarity(rough.swapped.float(), exact.swapped)
    assert cosine.min() > 0.99


def test_rotation_depends_on_its_seed_alone() -> None:
    torch.manual_seed(1)
    first = Rotation(16, seed=5).matrix()
    torch.manual_seed(2)
    torch.testing.assert_close(first, Rotation(16, seed=5).matrix(), rtol=0, atol=1e-6)
    assert (first - Rotation(16, seed=6).matrix()).abs().max() > 0.1


def test_rotation_survives_saving() -> None:
    rotation = Rotation(16, seed=5)
    state = torch.randn(3, 16)
    torch.testing.assert_close(rotation(state), state @ rotation.matrix().T, atol=1e-5, rtol=0)
    other = Rotation(16, seed=9)
    other.load_state_dict(rotation.state_dict())
    torch.testing.assert_close(other.matrix(), rotation.matrix(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("site", "words"),
    [
        (Site(4, 5), "block 4.*0 to 3"),
        (Site(-1, 5), "block -1"),
        (Site(2, 0), "k 0"),
        (Site(2, 33), "1 to 32"),
    ],
)
def test_a_site_outside_the_tower_is_refused(clip: nn.Module, site: Site, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_site(clip, site)


def test_joined_tokens_keep_their_texts(clip: nn.Module) -> None:
    tokens = make_tokens(5, 20)
    joined = join_tokens([tokens[:1, :5], tokens[1:, :20]])
    assert joined.shape == (2, 20)
    torch.testing.assert_close(
        run_from_block(clip, run_to_block(clip, joined, 1)), clip.encode_text(tokens), atol=1e-5, rtol=0
    )


# The exponential of a skew-symmetric matrix, against torch's own and finite differences.


def skewed(lower: Tensor) -> Tensor:
    lower = lower.tril()
    return lower - lower.T


def random_square(size: float, width: int = 24) -> Tensor:
    return size * torch.randn(width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gradient(exponential: object, lower: Tensor) -> Tensor:
    start = lower.detach().clone().requires_grad_()
    towards = torch.randn(lower.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (exponential(skewed(start)) * towards.to(lower.dtype)).sum().backward()  # type: ignore[operator]
    assert start.grad is not None
    return start.grad


SKEW_SIZES = [0.0, 1e-6, 1e-3, 0.1, 1.0, 7.0]


@pytest.mark.parametrize("size", SKEW_SIZES)
def test_equals_torch_in_float64(size: float) -> None:
    lower = random_square(size)
    found, expected = skew_exponential(skewed(lower)), torch.matrix_exp(skewed(lower))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    expected = gradient(torch.matrix_exp, lower)
    torch.testing.assert_close(gradient(skew_exponential, lower), expected, rtol=0, atol=1e-10)
    assert float(expected.abs().max()) > 0.1


@pytest.mark.parametrize("size", SKEW_SIZES)
def test_float32_is_no_further_from_the_truth_than_torch(size: float) -> None:
    lower = random_square(size, 96)
    exact = gradient(torch.matrix_exp, lower)
    ours, theirs = (
        float((gradient(which, lower.float()).double() - exact).norm() / exact.norm())
        for which in (skew_exponential, torch.matrix_exp)
    )
    assert ours < 3 * theirs + 1e-6


@pytest.mark.parametrize("size", [0.0, 0.3, 3.0])
def test_gradient_matches_finite_differences(size: float) -> None:
    lower = random_square(size, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: skew_exponential(skewed(x)), lower, atol=1e-6)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite_end_in_nan_and_not_in_a_loop(bad: float) -> None:
    lower = random_square(0.1)
    lower[3, 1] = bad
    assert gradient(skew_exponential, lower).isnan().any()


def test_the_rotation_is_what_its_parametrisation_says() -> None:
    rotation = Rotation(24, seed=3).double()
    with torch.no_grad():
        rotation.parametrizations.weight.original += random_square(0.2)  # type: ignore[union-attr, operator]
    matrix = rotation.matrix()
    torch.testing.assert_close(matrix, rotation.weight, rtol=0, atol=1e-12)
    (rotation.weight * random_square(1.0)).sum().backward()
    original = rotation.parametrizations.weight.original  # type: ignore[union-attr]
    expected, original.grad = original.grad, None  # type: ignore[union-attr]
    (rotation.matrix() * random_square(1.0)).sum().backward()
    torch.testing.assert_close(original.grad, expected, rtol=0, atol=1e-10)  # type: ignore[union-attr]
