"""An encoder that never encodes the same image or text twice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from descscore.cache import image_key
from descscore.encoder import EncodedTexts, Encoder
from descscore.models import LoadedModel
from descscore.texts import TokenizedText

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
