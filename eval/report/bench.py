"""What a report measures with: a data folder and models, each file read and each item encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from descscore.cache import image_key
from descscore.encoder import Encoder
from descscore.errors import UsageError
from descscore.eval.statistics.bootstrap import Resampling
from descscore.models import LoadedModel
from descscore.scorer import DescScorer
from descscore.tables.open import DataOptions, load_pairs
from descscore.tables.rows import PreferenceSet
from descscore.texts import EncodedTexts, TokenizedText

# An encoder that never encodes the same image or text twice.


ImageMemory = dict[tuple[str, bytes], Tensor]
"""Features ``(embed_dim,)`` by image tower and digest of the pixels."""

_Rows = tuple[tuple[int, ...], ...]


class RememberingEncoder(Encoder):
    """Keeps all features in memory (2 KB each at 512 dimensions).

    memory: of image features; models with the same image tower may share one, since
    an adapter changes texts only.
    """

    def __init__(self, model: LoadedModel, batch_size: int, memory: ImageMemory | None = None) -> None:
        super().__init__(model, batch_size)
        self._tower = image_key(model).folder
        self._images: ImageMemory = {} if memory is None else memory
        self._texts: dict[_Rows, tuple[Tensor, Tensor, Tensor, Tensor | None]] = {}

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images -> ``(n, embed_dim)`` unit features, each distinct picture encoded once."""
        keys = [(self._tower, _digest(image)) for image in images]
        fresh = {key: image for key, image in zip(keys, images, strict=True) if key not in self._images}
        if fresh:
            found = super().images(list(fresh.values()))
            self._images |= zip(fresh, (row.clone() for row in found), strict=True)
        return torch.stack([self._images[key].to(self.model.device) for key in keys])

    @torch.inference_mode()
    def tokenized(self, texts: Sequence[TokenizedText]) -> EncodedTexts:
        """Tokenised texts -> unit features, each distinct text encoded once."""
        fresh = {text.rows: text for text in texts if text.rows not in self._texts}
        if fresh:
            self._keep(super().tokenized(list(fresh.values())))
        features, base, norms, probabilities = zip(*(self._texts[text.rows] for text in texts), strict=True)
        tuned = torch.stack(features)
        return EncodedTexts(
            tuned,
            torch.stack(base) if self.model.tuned else tuned,
            torch.stack(norms),
            tuple(texts),
            None if None in probabilities else torch.stack(probabilities),
        )

    def _keep(self, found: EncodedTexts) -> None:
        for i, text in enumerate(found.texts):
            probability = None if found.probabilities is None else found.probabilities[i].clone()
            feature = found.features[i].clone()
            base = found.base_features[i].clone() if self.model.tuned else feature
            self._texts[text.rows] = (feature, base, found.norms[i].clone(), probability)


def _digest(image: Image.Image) -> bytes:
    head = f"{image.mode} {image.size}".encode()
    return hashlib.sha256(head + image.tobytes()).digest()


@dataclass(frozen=True)
class Subject:
    """A model under the name it was asked for."""

    name: str
    scorer: DescScorer

    def to_dict(self) -> dict[str, Any]:
        """What a reader must know of it: plain JSON types."""
        model = self.scorer.model
        return {
            "name": self.name,
            "signature": self.scorer.signature,
            "parameters": sum(p.numel() for p in model.clip.parameters()),
            "tuned": model.tuned,
            "readout": bool(model.purpose and model.purpose.readout),
        }


@dataclass(frozen=True)
class Bench:
    """data: the data folder. resampling: of the correlations with people's ratings."""

    data: Path
    subjects: tuple[Subject, ...]
    resampling: Resampling = field(default_factory=Resampling)
    _pairs: dict[str, PreferenceSet] = field(default_factory=dict, repr=False)

    def pairs(self, source: str) -> PreferenceSet:
        """The pairs of a file or folder below the data folder.

        Those with equal texts stay in: no metric can win them, and they count against all.
        Raises :class:`descscore.errors.DataError` for damaged files.
        """
        if source not in self._pairs:
            self._pairs[source] = load_pairs(self.data / source, DataOptions(keep_equal=True))
        return self._pairs[source]


def load_subjects(names: Sequence[str], device: str | None = None) -> tuple[Subject, ...]:
    """Load each model once; all that share an image tower share its features.

    Raises :class:`UsageError` for a name given twice, :class:`descscore.errors.ModelError`
    for a model that cannot be loaded.
    """
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UsageError(f"model {repeated[0]!r} is given more than once")
    memory: ImageMemory = {}
    return tuple(Subject(name, _scorer(name, device, memory)) for name in names)


def _scorer(name: str, device: str | None, memory: ImageMemory) -> DescScorer:
    scorer = DescScorer.from_pretrained(name, device=device)
    scorer.encoder = RememberingEncoder(scorer.model, scorer.encoder.batch_size, memory)
    return scorer
