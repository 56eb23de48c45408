"""Pairs made ready for training: image features computed once, texts as tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from descscore.cache import FeatureCache, image_key
from descscore.encoder import Encoder
from descscore.errors import DataError
from descscore.models import LoadedModel
from descscore.tables.rows import PreferencePair
from descscore.texts import Tokenizer, token_rows


@dataclass(frozen=True)
class Examples:
    """``n`` image pairs. Text row ``i`` is the description of image row ``i``, row ``n + i`` its caption.

    images: ``(n, embed_dim)`` unit features. owner: ``(n,)`` ints, equal where two
    rows show the same image. tokens: ``(2n, longest)`` padded with 0. tokenizer: what
    made the tokens, where words are to be swapped.
    """

    images: Tensor
    owner: Tensor
    tokens: Tensor
    tokenizer: Tokenizer | None = None

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> Examples:
        images, owner, tokens = self.images.to(device), self.owner.to(device), self.tokens.to(device)
        return Examples(images, owner, tokens, self.tokenizer)

    def fingerprint(self) -> str:
        """First 12 hex digits of the SHA-256 of all that training sees."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.owner, self.tokens):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]


def make_examples(
    model: LoadedModel, pairs: Sequence[PreferencePair], cache: Path, batch_size: int = 64
) -> Examples:
    """Encode images through the cache and tokenise texts (cut to the context, end token kept).

    Raises :class:`DataError` for no pairs, :class:`descscore.errors.ImageError` for
    an image that cannot be decoded, once all others are in the cache.
    """
    if not pairs:
        raise DataError("no pairs to train or validate on")
    encoder = Encoder(model, batch_size)
    store = FeatureCache(cache, image_key(model), batch_size)
    images = store.get_many([pair.image for pair in pairs], encoder.images)
    owner = torch.unique(images, dim=0, return_inverse=True)[1]
    texts = [pair.description for pair in pairs] + [pair.caption for pair in pairs]
    return Examples(images, owner, token_rows(model.tokenizer, texts), model.tokenizer)


def select(examples: Examples, rows: Tensor) -> Examples:
    """The image pairs ``rows`` ``(m,)``, in that order."""
    texts = torch.cat([rows, rows + len(examples)])
    parts = (examples.images[rows], examples.owner[rows], examples.tokens[texts])
    return Examples(*parts, examples.tokenizer)
