"""The purpose subspace of a text tower: the probability of a description, and the percentile of a cosine.

A model keeps a text's purpose (to describe, or to caption) in a ``k``-dimensional
subspace of one hidden state z: the residual stream after one text block, at the position where the
feature is read (the end-of-text token in most models).
The first ``k`` rows of an orthogonal matrix R span the subspace.
:mod:`descscore.interchange` learns R. The probability is a calibrated linear read-out of
(R z)_1..k. It is fitted on training data (``descscore.training.readout``) and stored with the
adapter. Source: Zur et al. 2024 (arXiv 2406.09458); Geiger et al. 2024 (arXiv 2303.02536).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from descscore.clip import CLIP
from descscore.errors import DescscoreError, ModelError, UsageError
from descscore.files import atomic_write
from descscore.hub import PURPOSE_FILE
from descscore.towers.blocks import check_block, own_text_tower


@dataclass(frozen=True)
class Site:
    """Block and size of a purpose subspace."""

    block: int
    """Text block (0-based) after which the state is taken."""
    k: int
    """Number of rotated coordinates."""


def check_site(clip: Any, site: Site) -> Site:
    """Return ``site``; raises :class:`UsageError` with the allowed range if the text tower lacks it."""
    check_block(clip, site.block)
    width = own_text_tower(clip).transformer.width
    if not 1 <= site.k <= width:
        raise UsageError(f"k {site.k}: must lie in 1 to {width}, the width of the text tower")
    return site


def purpose_coordinates(state: Tensor, matrix: Tensor, k: int) -> Tensor:
    """(R z)_1..k: states z ``(..., width)``, R ``(width, width)`` -> ``(..., k)``."""
    dtype = torch.promote_types(state.dtype, matrix.dtype)
    with torch.autocast(state.device.type, enabled=False):
        return state.to(dtype) @ matrix[:k].to(dtype).T


def percent_below(ascending: Tensor, values: Tensor) -> Tensor:
    """Per cent of the ascending numbers ``(m,)`` below each value, ties half: ``(n,)`` -> float64."""
    below, through = (torch.searchsorted(ascending, values, right=right) for right in (False, True))
    return 50 * (below + through).double() / len(ascending)


@dataclass(frozen=True)
class Readout:
    """Computes a probability from purpose coordinates: sigmoid(weight . (R z)_1..k + bias)."""

    weight: Tensor
    """``(k,)`` float32."""
    bias: Tensor
    """``()`` float32."""


@dataclass(frozen=True)
class Purpose:
    """A model's purpose subspace."""

    site: Site
    """Text block and number of dimensions."""
    rotation: Tensor
    """R ``(width, width)``."""
    readout: Readout | None = None
    """None if none was fitted."""
    comparison: Tensor | None = None
    """Cosines of descriptions with their own images under the scoring model, ascending ``(m,)``. A percentile
    compares with them; the file calls them ``reference``. None if the adapter holds none."""

    def coordinates(self, state: Tensor) -> Tensor:
        """Purpose coordinates of states at the site: ``(n, width)`` -> ``(n, k)``."""
        return purpose_coordinates(state, self.rotation, self.site.k)

    def log_odds(self, state: Tensor) -> Tensor:
        """Log-odds of being a description: states ``(n, width)`` -> ``(n,)``. Needs a read-out."""
        if self.readout is None:
            raise ModelError("this model has no purpose read-out")
        return self.coordinates(state) @ self.readout.weight + self.readout.bias

    def probability(self, state: Tensor) -> Tensor | None:
        """Probability of being a description: states ``(n, width)`` -> ``(n,)``; None without a read-out."""
        return None if self.readout is None else torch.sigmoid(self.log_odds(state))

    def percentile(self, cosines: Tensor) -> Tensor | None:
        """Per cent of comparison descriptions with a lower cosine, 0..100, ties half: ``(n,)`` -> same.

        NaN for a cosine that is not finite.
        """
        if self.comparison is None:
            return None
        cosines = cosines.to(self.comparison)
        return percent_below(self.comparison, cosines).masked_fill(~cosines.isfinite(), torch.nan)

    def to(self, device: torch.device) -> Purpose:
        """A copy on another device."""
        readout = self.readout and Readout(self.readout.weight.to(device), self.readout.bias.to(device))
        comparison = None if self.comparison is None else self.comparison.to(device)
        return Purpose(self.site, self.rotation.to(device), readout, comparison)


def save_purpose(purpose: Purpose, folder: Path) -> None:
    """Write ``purpose.safetensors`` in one step; the adapter's description holds the site."""
    tensors = {"rotation": purpose.rotation}
    if purpose.readout is not None:
        tensors |= {"readout.weight": purpose.readout.weight, "readout.bias": purpose.readout.bias}
    if purpose.comparison is not None:
        tensors["reference"] = purpose.comparison
    with atomic_write(folder / PURPOSE_FILE) as part:
        save_file({k: v.detach().float().cpu().contiguous() for k, v in tensors.items()}, part)


def load_purpose(folder: Path, site: Site, clip: CLIP) -> Purpose | None:
    """Read the purpose subspace in an adapter's folder; None if there is none.

    Raises :class:`ModelError` with the file's name if it is damaged or belongs to another model.
    """
    path = folder / PURPOSE_FILE
    if not path.is_file():
        return None
    try:
        check_site(clip, site)
        tensors = {name: _checked(name, values) for name, values in load_file(path).items()}
        width, rotation = own_text_tower(clip).transformer.width, tensors["rotation"]
        shapes = {"rotation": (width, width), "readout.weight": (site.k,), "readout.bias": ()}
        for name, shape in shapes.items():
            if name in tensors and tuple(tensors[name].shape) != shape:
                raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, expected {shape}")
        readout = None
        if "readout.weight" in tensors:
            readout = Readout(tensors["readout.weight"], tensors["readout.bias"])
        comparison = tensors.get("reference")
        if comparison is not None and (comparison.ndim != 1 or not len(comparison)):
            raise ValueError(f"reference has shape {tuple(comparison.shape)}, expected (m,)")
        if comparison is not None and (comparison.diff() < 0).any():
            raise ValueError("reference is not in ascending order")
        return Purpose(site, rotation, readout, comparison)
    except DescscoreError as error:
        raise ModelError(f"{path}: {error}") from None
    except Exception as error:
        raise ModelError(f"{path}: damaged or made for another model ({error})") from error


def _checked(name: str, values: Tensor) -> Tensor:
    if not values.is_floating_point():
        raise ValueError(
            f"{name} holds {str(values.dtype).removeprefix('torch.')}, expected floating-point numbers"
        )
    if not values.float().isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity")
    return values.float()
