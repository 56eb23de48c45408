"""The exponential of a skew-symmetric matrix and its gradient, against torch's own and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from descscore.purpose import Rotation, skew_exponential


def skewed(lower: Tensor) -> Tensor:
    lower = lower.tril()
    return lower - lower.T


def values(size: float, width: int = 24) -> Tensor:
    return size * torch.randn(width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gradient(exponential: object, lower: Tensor) -> Tensor:
    start = lower.detach().clone().requires_grad_()
    towards = torch.randn(lower.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (exponential(skewed(start)) * towards.to(lower.dtype)).sum().backward()  # type: ignore[operator]
    assert start.grad is not None
    return start.grad


SIZES = [0.0, 1e-6, 1e-3, 0.1, 1.0, 7.0]


@pytest.mark.parametrize("size", SIZES)
def test_equals_torch_in_float64(size: float) -> None:
    lower = values(size)
    assert torch.equal(skew_exponential(skewed(lower)), torch.matrix_exp(skewed(lower)))
    expected = gradient(torch.matrix_exp, lower)
    torch.testing.assert_close(gradient(skew_exponential, lower), expected, rtol=0, atol=1e-10)
    assert float(expected.abs().max()) > 0.1


@pytest.mark.parametrize("size", SIZES)
def test_float32_is_no_further_from_the_truth_than_torch(size: float) -> None:
    lower = values(size, 96)
    exact = gradient(torch.matrix_exp, lower)
    ours, theirs = (
        float((gradient(which, lower.float()).double() - exact).norm() / exact.norm())
        for which in (skew_exponential, torch.matrix_exp)
    )
    assert ours < 3 * theirs + 1e-6


@pytest.mark.parametrize("size", [0.0, 0.3, 3.0])
def test_gradient_matches_finite_differences(size: float) -> None:
    lower = values(size, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: skew_exponential(skewed(x)), lower, atol=1e-6)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite_end_in_nan_and_not_in_a_loop(bad: float) -> None:
    lower = values(0.1)
    lower[3, 1] = bad
    assert gradient(skew_exponential, lower).isnan().any()


def test_the_rotation_is_what_its_parametrisation_says() -> None:
    rotation = Rotation(24, seed=3).double()
    with torch.no_grad():
        rotation.parametrizations.weight.original += values(0.2)  # type: ignore[union-attr, operator]
    matrix = rotation.matrix()
    torch.testing.assert_close(matrix, rotation.weight, rtol=0, atol=1e-12)
    (rotation.weight * values(1.0)).sum().backward()
    original = rotation.parametrizations.weight.original  # type: ignore[union-attr]
    expected, original.grad = original.grad, None  # type: ignore[union-attr]
    (rotation.matrix() * values(1.0)).sum().backward()
    torch.testing.assert_close(original.grad, expected, rtol=0, atol=1e-10)  # type: ignore[union-attr]
