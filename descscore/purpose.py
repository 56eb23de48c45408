"""Read a text's purpose off its place in the subspace where the model keeps it.

The probability that a text is a description is a calibrated linear read-out of
(R z)_1..k, z being the state at the end-of-text token after one text block. It is
fitted on training data (``descscore.training.readout``) and travels with the adapter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from open_clip import CLIP
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrizations

from descscore.errors import DescscoreError, ModelError, UsageError
from descscore.towers.text import HalfRun, begin, carry_on, check_block, run_from_block, trim

# The exponential of a skew-symmetric matrix, which is orthogonal, with a gradient that costs little.
#
# torch differentiates ``matrix_exp`` by the exponential of a matrix twice as wide. For skew-symmetric
# S the derivative's adjoint is an average over rotations, which a series of commutators gives:
# with K the skew part of (dL/dE) E^T, E = exp(S),
#
#     dL/dS = integral over s in 0..1 of exp(-sS) K exp(sS) = K - [S, K] / 2! + [S, [S, K]] / 3! - ...
#
# A commutator of skew matrices is P - P^T with P = S K: one product a term. Where S is large, the
# average over 0..1 is built from that over 0..2^-j by j doublings. Source: Najfeld and Havel 1995,
# Derivatives of the matrix exponential and their computation, Adv. Appl. Math. 16.


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


# The learned rotation, and interchanging a text's purpose with another text's inside the text tower.
#
# A model keeps a text's purpose (to describe, or to caption) in a ``k``-dimensional
# subspace of one hidden state: the residual stream at the end-of-text token after
# one text block. The subspace is spanned by the first ``k`` rows of an orthogonal
# matrix R, learned by distributed alignment search. Source: Zur et al. 2024
# (arXiv 2406.09458); Geiger et al. 2024 (arXiv 2303.02536).


@dataclass(frozen=True)
class Site:
    """Where purpose is kept: after text block ``block`` (0-based), in ``k`` rotated coordinates."""

    block: int
    k: int


def check_site(clip: Any, site: Site) -> Site:
    """``site`` itself, or a :class:`UsageError` that says what this text tower allows."""
    check_block(clip, site.block)
    width = clip.transformer.width
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


FILE = "purpose.safetensors"


@dataclass(frozen=True)
class Readout:
    """probability = sigmoid(weight . (R z)_1..k + bias): weight ``(k,)``, bias ``()``, float32."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Purpose:
    """A model's purpose subspace.

    site: text block and k. rotation: R ``(width, width)``. readout: None where none
    was fitted. reference: cosines of reference descriptions with their own images,
    ascending ``(m,)``, under the scoring model; None where none were kept. places:
    ``(2, p)``, read-out log-odds of reference descriptions and of reference captions,
    ascending quantiles each; None where none were kept.
    """

    site: Site
    rotation: Tensor
    readout: Readout | None = None
    reference: Tensor | None = None
    places: Tensor | None = None

    def coordinates(self, state: Tensor) -> Tensor:
        """Purpose coordinates of states at the site: ``(n, width)`` -> ``(n, k)``."""
        return purpose(state, self.rotation, self.site.k)

    def log_odds(self, state: Tensor) -> Tensor:
        """Log-odds of being a description: states ``(n, width)`` -> ``(n,)``. Needs a read-out."""
        if self.readout is None:
            raise ModelError("this model has no purpose read-out")
        return self.coordinates(state) @ self.readout.weight + self.readout.bias

    def probability(self, state: Tensor) -> Tensor | None:
        """Probability of being a description: states ``(n, width)`` -> ``(n,)``; None without a read-out."""
        return None if self.readout is None else torch.sigmoid(self.log_odds(state))

    def percentile(self, cosines: Tensor) -> Tensor | None:
        """Share of reference descriptions that score lower, ties half: ``(n,)`` -> ``(n,)`` in 0..100."""
        if self.reference is None:
            return None
        cosines = cosines.to(self.reference)
        below = torch.searchsorted(self.reference, cosines)
        through = torch.searchsorted(self.reference, cosines, right=True)
        return 50 * (below + through).double() / len(self.reference)

    def to(self, device: torch.device) -> Purpose:
        readout = self.readout and Readout(self.readout.weight.to(device), self.readout.bias.to(device))
        reference, places = (None if t is None else t.to(device) for t in (self.reference, self.places))
        return Purpose(self.site, self.rotation.to(device), readout, reference, places)


def save_purpose(found: Purpose, folder: Path) -> None:
    """Write ``purpose.safetensors``; the site stands in the adapter's description."""
    tensors = {"rotation": found.rotation}
    if found.readout is not None:
        tensors |= {"readout.weight": found.readout.weight, "readout.bias": found.readout.bias}
    if found.reference is not None:
        tensors["reference"] = found.reference
    if found.places is not None:
        tensors["places"] = found.places
    save_file({k: v.detach().float().cpu().contiguous() for k, v in tensors.items()}, folder / FILE)


def load_purpose(folder: Path, site: Site, clip: CLIP) -> Purpose | None:
    """The purpose subspace in an adapter folder, None where it has none.

    Raises :class:`ModelError` naming the file where it is damaged or of another model.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        check_site(clip, site)
        tensors = load_file(path)
        width, rotation = clip.transformer.width, tensors["rotation"]
        shapes = {"rotation": (width, width), "readout.weight": (site.k,), "readout.bias": ()}
        for name, shape in shapes.items():
            if name in tensors and tuple(tensors[name].shape) != shape:
                raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, expected {shape}")
        readout = None
        if "readout.weight" in tensors:
            readout = Readout(tensors["readout.weight"], tensors["readout.bias"])
        places = tensors.get("places")
        if places is not None and (places.ndim != 2 or len(places) != 2 or not places.numel()):
            raise ValueError(f"places has shape {tuple(places.shape)}, expected (2, p)")
        return Purpose(site, rotation, readout, tensors.get("reference"), places)
    except DescscoreError as error:
        raise ModelError(f"{path}: {error}") from None
    except Exception as error:
        raise ModelError(f"{path}: damaged or made for another model ({error})") from error
