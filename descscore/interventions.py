"""The learned rotation, and interchanging a text's purpose with another text's inside the text tower.

A model keeps a text's purpose (to describe, or to caption) in a ``k``-dimensional
subspace of one hidden state: the residual stream at the end-of-text token after
one text block. The subspace is spanned by the first ``k`` rows of an orthogonal
matrix R, learned by distributed alignment search. Source: Zur et al. 2024
(arXiv 2406.09458); Geiger et al. 2024 (arXiv 2303.02536).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from descscore.errors import UsageError
from descscore.skew_exponential import skew_exponential
from descscore.text_tower import embed_tokens, end_positions, pool_state, trim


@dataclass(frozen=True)
class Site:
    """Where purpose is kept: after text block ``block`` (0-based), in ``k`` rotated coordinates."""

    block: int
    k: int


def _transformer(clip: nn.Module) -> Any:
    return clip.transformer


def check_site(clip: nn.Module, site: Site) -> Site:
    """``site`` itself, or a :class:`UsageError` that says what this text tower allows."""
    check_block(clip, site.block)
    width = _transformer(clip).width
    if not 1 <= site.k <= width:
        raise UsageError(f"k {site.k}: must lie in 1 to {width}, the width of the text tower")
    return site


class Rotation(nn.Module):
    """A learned orthogonal matrix R ``(width, width)``, in float32 (or float64 after ``.double()``).

    Starts as a random orthogonal matrix drawn from ``seed`` alone. It stays
    orthogonal whatever the optimiser does, since what is trained is the skew
    matrix whose exponential it is. Call :meth:`matrix` once a step and share the result.
    """

    def __init__(self, width: int, seed: int = 0) -> None:
        super().__init__()
        start = torch.empty(width, width)
        nn.init.orthogonal_(start, generator=torch.Generator().manual_seed(seed))
        self._hold(start)

    @classmethod
    def from_matrix(cls, matrix: Tensor) -> Rotation:
        """A rotation that starts at ``matrix`` ``(width, width)``, which must be orthogonal to 1e-3.

        Raises :class:`UsageError` for any other matrix.
        """
        square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
        if not square or not _is_orthogonal(matrix):
            raise UsageError(f"rotation of shape {tuple(matrix.shape)}: not an orthogonal matrix")
        rotation = cls.__new__(cls)
        nn.Module.__init__(rotation)
        rotation._hold(matrix.detach().clone())
        return rotation

    def _hold(self, start: Tensor) -> None:
        self.weight = nn.Parameter(start)
        parametrizations.orthogonal(self, "weight")

    @property
    def width(self) -> int:
        """Number of dimensions of the state that is rotated."""
        return int(self._trained.shape[0])

    @property
    def _trained(self) -> Tensor:
        held: Any = self.parametrizations
        original: Tensor = held.weight.original
        return original

    def matrix(self) -> Tensor:
        """R ``(width, width)``, differentiable.

        Autocast is off here: it would multiply in half precision, and R would be orthogonal to 1e-2 only.
        """
        held: Any = self.parametrizations
        lower = self._trained.tril()
        with torch.autocast(lower.device.type, enabled=False):
            # What ``self.weight`` computes too, there with a gradient that costs ten times as much.
            matrix: Tensor = held.weight[0].base @ skew_exponential(lower - lower.T)
            return matrix

    def forward(self, state: Tensor) -> Tensor:
        """All rotated coordinates R z: ``(..., width)`` -> ``(..., width)``."""
        return purpose(state, self.matrix(), self.width)


def _is_orthogonal(matrix: Tensor) -> bool:
    unit = torch.eye(matrix.shape[0], dtype=torch.float64, device=matrix.device)
    square = matrix.detach().double()
    return bool((square.T @ square - unit).abs().max() < 1e-3)


def purpose(state: Tensor, matrix: Tensor, k: int) -> Tensor:
    """Purpose coordinates (R z)_1..k: states ``(..., width)``, R ``(width, width)`` -> ``(..., k)``."""
    dtype = torch.promote_types(state.dtype, matrix.dtype)
    with torch.autocast(state.device.type, enabled=False):
        return state.to(dtype) @ matrix[:k].to(dtype).T


def interchange(base: Tensor, source: Tensor, matrix: Tensor, k: int) -> Tensor:
    """Base states with the source's purpose: ``(n, width)`` twice, R ``(width, width)`` -> ``(n, width)``.

    z' = R^T [(R z_s)_1..k ; (R z_b)_k+1..width], written as z_b + R_k^T R_k (z_s - z_b)
    with R_k the first k rows of R. The two are equal for orthogonal R; this form
    costs less and leaves a state that meets itself untouched to the last bit.
    Differentiable in all three tensors; the result has the dtype of ``base``.
    """
    dtype = torch.promote_types(base.dtype, matrix.dtype)
    with torch.autocast(base.device.type, enabled=False):
        difference = purpose(source.to(dtype) - base.to(dtype), matrix, k)
        return (base.to(dtype) + difference @ matrix[:k].to(dtype)).to(base.dtype)


def check_block(clip: nn.Module, block: int) -> None:
    """Raise :class:`UsageError` where the text tower has no block of that number (0-based)."""
    blocks = len(_transformer(clip).resblocks)
    if not 0 <= block < blocks:
        raise UsageError(f"block {block}: the text tower has blocks 0 to {blocks - 1}")


@dataclass(frozen=True)
class HalfRun:
    """Texts run through the text tower as far as one block.

    tokens: ``(n, length)``, cut to the longest text. end: ``(n,)`` positions of
    the end-of-text tokens. hidden: ``(n, length, width)`` residual stream after
    ``block`` (0-based).
    """

    tokens: Tensor
    end: Tensor
    hidden: Tensor
    block: int

    @property
    def state(self) -> Tensor:
        """The state at each end-of-text token: ``(n, width)``."""
        rows = torch.arange(self.tokens.shape[0], device=self.tokens.device)
        return self.hidden[rows, self.end]

    def replaced(self, rows: Tensor, state: Tensor) -> HalfRun:
        """The texts ``rows`` ``(m,)`` with ``state`` ``(m, width)`` put in at their end-of-text tokens."""
        end = self.end[rows]
        places = (torch.arange(len(rows), device=rows.device), end)
        hidden = self.hidden[rows].index_put(places, state.to(self.hidden.dtype))
        return HalfRun(self.tokens[rows], end, hidden, self.block)

    def joined(self, other: HalfRun) -> HalfRun:
        """The texts of both runs, which must have the same length and block, in one batch."""
        return HalfRun(
            torch.cat([self.tokens, other.tokens]),
            torch.cat([self.end, other.end]),
            torch.cat([self.hidden, other.hidden]),
            self.block,
        )


def run_to_block(clip: nn.Module, tokens: Tensor, block: int) -> HalfRun:
    """Run token rows ``(n, length)`` through embeddings and blocks 0 to ``block``, both included.

    Raises :class:`UsageError` for a block that the text tower lacks.
    """
    check_block(clip, block)
    return carry_on(clip, begin(clip, trim(clip, tokens)), block)


def begin(clip: Any, tokens: Tensor) -> HalfRun:
    """Embeddings of token rows ``(n, length)``, padding included: a run that has passed no block yet."""
    return HalfRun(tokens, end_positions(clip, tokens), embed_tokens(clip, tokens), -1)


def carry_on(clip: nn.Module, run: HalfRun, block: int) -> HalfRun:
    """``run`` through the blocks after its own, up to and including ``block``.

    A run of embeddings, which has passed no block yet, has ``block`` -1.
    """
    return replace(run, hidden=_run_blocks(clip, run.hidden, run.block + 1, block + 1), block=block)


def run_from_block(clip: nn.Module, run: HalfRun) -> Tensor:
    """Finish a run: the blocks after ``run.block``, final norm and projection -> ``(n, embed_dim)``.

    For a run as :func:`run_to_block` gives it, the result equals ``clip.encode_text``.
    """
    last = len(_transformer(clip).resblocks)
    hidden = _run_blocks(clip, run.hidden, run.block + 1, last)
    return pool_state(clip, hidden, run.tokens)


def _run_blocks(clip: nn.Module, hidden: Tensor, first: int, last: int) -> Tensor:
    length = hidden.shape[1]
    whole: Any = clip.attn_mask
    mask = whole[:length, :length]
    for block in _transformer(clip).resblocks[first:last]:
        hidden = block(hidden, attn_mask=mask)
    return hidden


def join_tokens(parts: Sequence[Tensor]) -> Tensor:
    """Token rows of any lengths in one batch, padded with 0: ``(n, length)`` each -> ``(sum, longest)``."""
    longest = max(part.shape[1] for part in parts)
    return torch.cat([nn.functional.pad(part, (0, longest - part.shape[1])) for part in parts])


@dataclass(frozen=True)
class Interchanged:
    """Raw text features from one pass with interchanges.

    plain: ``(n, embed_dim)``, every text as it is. swapped: ``(m, embed_dim)``,
    the base text of each interchange with its source's purpose. state: ``(n,
    width)`` at the site, before any interchange.
    """

    plain: Tensor
    swapped: Tensor
    state: Tensor


@dataclass(frozen=True)
class Exchange:
    """Which texts of a batch meet: ``base`` and ``source`` are row numbers, ``(m,)`` int64 each."""

    base: Tensor
    source: Tensor


def interchange_texts(
    clip: nn.Module, tokens: Tensor, exchange: Exchange, matrix: Tensor, site: Site
) -> Interchanged:
    """Features of texts, plain and with purpose interchanged, in one differentiable pass.

    tokens: ``(n, length)``, each distinct text once (see :func:`join_tokens`);
    lengths and end positions may differ between base and source. matrix: R
    ``(width, width)``. The blocks up to the site run once on the n texts, the rest
    once on n + m rows. Gradients flow through the source's run too.

    Raises :class:`UsageError` for a site that the text tower lacks.
    """
    check_site(clip, site)
    return interchange_run(clip, begin(clip, trim(clip, tokens)), exchange, matrix, site)


def interchange_run(
    clip: nn.Module, begun: HalfRun, exchange: Exchange, matrix: Tensor, site: Site
) -> Interchanged:
    """As :func:`interchange_texts`, for texts on their way that have not passed ``site`` yet."""
    run = carry_on(clip, begun, site.block)
    state = run.state
    new = interchange(state[exchange.base], state[exchange.source], matrix, site.k)
    features = run_from_block(clip, run.joined(run.replaced(exchange.base, new)))
    return Interchanged(features[: len(state)], features[len(state) :], state)
