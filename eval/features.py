"""Features of a data set's images and texts: encoded in batches, each once, and their cosines."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from descscore.cache import image_key
from descscore.encoder import Encoder
from descscore.eval.statistics.correlation import Array
from descscore.images import ImageSource, load_pixels
from descscore.models import LoadedModel
from descscore.scorer import DescScorer
from descscore.tables.rows import PreferencePair
from descscore.texts import EncodedTexts, TokenizedText


def image_features(scorer: DescScorer, images: Sequence[ImageSource]) -> Tensor:
    """Unit features ``(n, d)`` in order; only one batch of prepared pictures is in memory at a time."""
    size = scorer.encoder.batch_size
    parts = [images[i : i + size] for i in range(0, len(images), size)]
    spec, encode = scorer.encoder.spec, scorer.encoder.pixels
    return torch.cat(
        [encode(torch.from_numpy(np.stack([load_pixels(i, spec) for i in part]))) for part in parts]
    )


def text_features(scorer: DescScorer, texts: Sequence[str]) -> Tensor:
    """Unit features ``(n, d)`` of texts in order, under the scorer's text policy."""
    return scorer.encoder.texts(texts, scorer.text_policy).features


def matched_cosines(images: Tensor, texts: Tensor) -> Array:
    """Cosines of image i with text i: unit features ``(n, d)`` each -> ``(n,)``, -1..1."""
    cosines: Array = (images.double() * texts.double()).sum(1).cpu().numpy()
    return cosines


def pair_cosines(
    scorer: DescScorer,
    images: Mapping[str, ImageSource],
    texts: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
) -> Array:
    """Raw cosines, -1..1, of pairs of image key and text key: ``(n,)`` in the order given.

    Raises :class:`descscore.errors.InputError` if an image or text cannot be scored.
    """
    left = image_features(scorer, list(images.values()))
    right = text_features(scorer, list(texts.values()))
    row, column = {key: i for i, key in enumerate(images)}, {key: i for i, key in enumerate(texts)}
    similarity = (left.double() @ right.double().T).clamp(-1, 1)
    picked = similarity[[row[image] for image, _ in pairs], [column[text] for _, text in pairs]]
    return picked.cpu().numpy()


def image_owner(pairs: Sequence[PreferencePair]) -> Array:
    """Which image each pair shows, by content: ``(n,)`` ints, equal for the same bytes."""
    place: dict[bytes, int] = {}
    digests = [hashlib.sha256(pair.image.read()).digest() for pair in pairs]
    return np.array([place.setdefault(digest, len(place)) for digest in digests])


ImageMemory = dict[tuple[str, bytes], Tensor]
"""Features ``(embed_dim,)`` by image tower and digest of the prepared pixels."""

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
    def pixels(self, pixels: Tensor) -> Tensor:
        """Prepared pictures, as for :meth:`Encoder.pixels`; each distinct picture is encoded once."""
        keys = [(self._tower, hashlib.sha256(picture.tobytes()).digest()) for picture in pixels.numpy()]
        fresh = {key: place for place, key in enumerate(keys) if key not in self._images}
        if fresh:
            features = super().pixels(pixels[list(fresh.values())])
            self._images |= zip(fresh, (row.clone() for row in features), strict=True)
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

    def _keep(self, encoded: EncodedTexts) -> None:
        for i, text in enumerate(encoded.texts):
            probability = None if encoded.probabilities is None else encoded.probabilities[i].clone()
            feature = encoded.features[i].clone()
            base = encoded.base_features[i].clone() if self.model.tuned else feature
            self._texts[text.rows] = (feature, base, encoded.norms[i].clone(), probability)
