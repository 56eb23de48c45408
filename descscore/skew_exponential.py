"""The exponential of a skew-symmetric matrix, which is orthogonal, with a gradient that costs little.

torch differentiates ``matrix_exp`` by the exponential of a matrix twice as wide. For skew-symmetric
S the derivative's adjoint is an average over rotations, which a series of commutators gives:
with K the skew part of (dL/dE) E^T, E = exp(S),

    dL/dS = integral over s in 0..1 of exp(-sS) K exp(sS) = K - [S, K] / 2! + [S, [S, K]] / 3! - ...

A commutator of skew matrices is P - P^T with P = S K: one product a term. Where S is large, the
average over 0..1 is built from that over 0..2^-j by j doublings. Source: Najfeld and Havel 1995,
Derivatives of the matrix exponential and their computation, Adv. Appl. Math. 16.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_MOST_TERMS = 60
"""Far more than a series needs whose n-th term is below 2^n / (n + 1)!."""


def skew_exponential(skew: Tensor) -> Tensor:
    """exp(S) of a skew-symmetric matrix: ``(n, n)`` -> ``(n, n)``, orthogonal; once differentiable.

    The gradient is the skew part of the true one: all that reaches values of which S is made
    as L - L^T. Autocast must be off.
    """
    out: Tensor = _Exponential.apply(skew)
    return out


class _Exponential(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, skew: Tensor) -> Tensor:
        exponential = torch.matrix_exp(skew)
        ctx.save_for_backward(skew, exponential)
        return exponential

    @staticmethod
    @once_differentiable  # type: ignore[misc, untyped-decorator, unused-ignore]
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        skew, exponential = ctx.saved_tensors
        with torch.autocast(skew.device.type, enabled=False):
            moved = gradient @ exponential.T
            return _average(skew, (moved - moved.T) / 2)


def _average(skew: Tensor, moved: Tensor) -> Tensor:
    """Mean of exp(-sS) K exp(sS) over s in 0..1; ``(n, n)`` skew-symmetric twice -> the same."""
    size = _size(skew)
    if not math.isfinite(size):
        return torch.full_like(moved, math.nan)
    doublings = max(0, math.ceil(math.log2(size))) if size else 0
    small = skew * 0.5**doublings
    mean = _series(small, moved)
    if doublings:
        rotation = torch.matrix_exp(small)
        for _ in range(doublings):
            mean = (mean + rotation.T @ mean @ rotation) / 2
            rotation = rotation @ rotation
    return mean


def _size(skew: Tensor) -> float:
    """A bound on the largest singular value: these come in pairs, hence the root of 2."""
    return min(float(skew.norm()) / math.sqrt(2), float(skew.abs().sum(0).max()))


def _series(skew: Tensor, moved: Tensor) -> Tensor:
    total, term = moved.clone(), moved
    enough = torch.finfo(moved.dtype).eps / 4
    for n in range(2, _MOST_TERMS):
        product = skew @ term
        term = (product.T - product) / n
        total += term
        if float(term.norm()) <= enough * float(total.norm()):
            break
    return total
