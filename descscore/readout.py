"""Read a text's purpose off its place in the subspace where the model keeps it.

The probability that a text is a description is a calibrated linear read-out of
(R z)_1..k, z being the state at the end-of-text token after one text block. It is
fitted on training data (``descscore.training.readout``) and travels with the adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from open_clip import CLIP
from safetensors.torch import load_file, save_file
from torch import Tensor

from descscore.errors import DescscoreError, ModelError
from descscore.interventions import Site, check_site, purpose

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
