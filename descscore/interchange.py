"""Learn the purpose subspace of a text tower, and interchange the purposes of two texts.

Distributed alignment search learns an orthogonal matrix R, the :class:`Rotation`. An
interchange gives a text another text's purpose: it replaces the first k rotated coordinates
of the state at :class:`descscore.purpose.Site`, and then runs the rest of the text tower.
Source: Zur et al. 2024 (arXiv 2406.09458); Geiger et al. 2024 (arXiv 2303.02536).

R is the exponential of a skew-symmetric matrix S. Such an exponential is always orthogonal.
torch differentiates ``matrix_exp`` by the exponential of a matrix twice as wide.
:func:`skew_exponential` costs a tenth of that. For skew-symmetric S, the adjoint of the derivative
is an average over rotations, and a series of commutators computes it. With E = exp(S), and K the
skew part of (dL/dE) E^T::

    dL/dS = integral over s in 0..1 of exp(-sS) K exp(sS) = K - [S, K] / 2! + [S, [S, K]] / 3! - ...

The commutator of skew matrices S and K is P - P^T with P = S K: one product per term. For large S,
j doublings turn the average over 0..2^-j into the average over 0..1. Source: Najfeld and Havel
1995, Derivatives of the matrix exponential and their computation, Adv. Appl. Math. 16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrizations

from descscore.purpose import Site, check_site, purpose_coordinates
from descscore.towers.text import HalfRun, begin, carry_on, run_from_block, trim

_MOST_TERMS = 60
"""Far more than the series needs: its n-th term is below 2^n / (n + 1)!."""


def skew_exponential(skew: Tensor) -> Tensor:
    """exp(S) of a skew-symmetric matrix: ``(n, n)`` -> ``(n, n)``, orthogonal; once differentiable.

    The result's gradient is only the skew part of the true gradient. This is enough if S is computed as
    L - L^T, because the other part then cancels. Autocast must be off.
    """
    exponential: Tensor = _Exponential.apply(skew)
    return exponential


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
    """A bound on the largest singular value. Each occurs twice, hence the division by sqrt(2)."""
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


class Rotation(nn.Module):
    """A learned orthogonal matrix R ``(width, width)``, in float32 (or float64 after ``.double()``).

    It starts as a random orthogonal matrix that depends only on ``seed``. R stays orthogonal during
    training: the optimiser changes the skew matrix, and R is its exponential. Call :meth:`matrix`
    once per step and share the result.
    """

    def __init__(self, width: int, seed: int = 0) -> None:
        super().__init__()
        start = torch.empty(width, width)
        nn.init.orthogonal_(start, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(start)
        parametrizations.orthogonal(self, "weight")

    @property
    def width(self) -> int:
        """Number of dimensions of the state that is rotated."""
        return int(self._trained.shape[0])

    @property
    def _trained(self) -> Tensor:
        parametrized: Any = self.parametrizations
        original: Tensor = parametrized.weight.original
        return original

    def matrix(self) -> Tensor:
        """R ``(width, width)``, differentiable.

        Autocast is off here: with products in half precision, R would be orthogonal only to 1e-2.
        """
        parametrized: Any = self.parametrizations
        lower = self._trained.tril()
        with torch.autocast(lower.device.type, enabled=False):
            # ``self.weight`` computes the same, with a gradient that costs ten times as much.
            matrix: Tensor = parametrized.weight[0].base @ skew_exponential(lower - lower.T)
            return matrix

    def forward(self, state: Tensor) -> Tensor:
        """All rotated coordinates R z: ``(..., width)`` -> ``(..., width)``."""
        return purpose_coordinates(state, self.matrix(), self.width)


def interchange(base: Tensor, source: Tensor, matrix: Tensor, k: int) -> Tensor:
    """Base states with the source's purpose: ``(n, width)`` twice, R ``(width, width)`` -> ``(n, width)``.

    z' = R^T [(R z_s)_1..k ; (R z_b)_k+1..width], written as z_b + R_k^T R_k (z_s - z_b)
    with R_k the first k rows of R. The two forms are equal for orthogonal R. The second
    form costs less, and leaves a state bit for bit unchanged if base and source are equal.
    Differentiable in all three tensors; the result has the dtype of ``base``.
    """
    dtype = torch.promote_types(base.dtype, matrix.dtype)
    with torch.autocast(base.device.type, enabled=False):
        difference = purpose_coordinates(source.to(dtype) - base.to(dtype), matrix, k)
        return (base.to(dtype) + difference @ matrix[:k].to(dtype)).to(base.dtype)


@dataclass(frozen=True)
class Exchange:
    """The pairs of texts in a batch that are interchanged, as row numbers: ``(m,)`` int64 each."""

    base: Tensor
    """The texts that receive another text's purpose."""
    source: Tensor
    """The texts whose purpose they receive."""


@dataclass(frozen=True)
class Interchanged:
    """Raw text features from one pass with interchanges."""

    plain: Tensor
    """Every text with its own purpose: ``(n, embed_dim)``."""
    swapped: Tensor
    """The base text of each interchange with its source's purpose: ``(m, embed_dim)``."""
    state: Tensor
    """States at the site before any interchange: ``(n, width)``."""


def interchange_texts(
    clip: nn.Module, tokens: Tensor, exchange: Exchange, matrix: Tensor, site: Site
) -> Interchanged:
    """Features of texts, plain and with purpose interchanged, in one differentiable pass.

    The blocks up to the site run once on the n texts, the rest once on n + m rows. Gradients flow through the
    source's run too. Raises :class:`UsageError` for a text tower without such a site.

    Args:
        clip: The model.
        tokens: ``(n, length)``, each distinct text once (see :func:`descscore.towers.text.join_tokens`).
        exchange: The pairs of texts to interchange.
        matrix: R ``(width, width)``.
        site: Block and size of the purpose subspace.
    """
    check_site(clip, site)
    return interchange_run(clip, begin(clip, trim(clip, tokens)), exchange, matrix, site)


def interchange_run(
    clip: nn.Module, begun: HalfRun, exchange: Exchange, matrix: Tensor, site: Site
) -> Interchanged:
    """As :func:`interchange_texts`, for a run that has not passed ``site`` yet."""
    run = carry_on(clip, begun, site.block)
    state = run.state
    new = interchange(state[exchange.base], state[exchange.source], matrix, site.k)
    features = run_from_block(clip, run.joined(run.replaced(exchange.base, new)))
    return Interchanged(features[: len(state)], features[len(state) :], state)
