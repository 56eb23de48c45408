"""Pairs made ready for training: image features computed once, texts as tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    """``n`` image pairs. Text row ``i`` is the description of image row ``i``, row ``n + i`` its caption."""

    images: Tensor
    """Unit features ``(n, embed_dim)``."""
    owner: Tensor
    """``(n,)`` ints, equal where two rows show the same image."""
    tokens: Tensor
    """``(2n, longest)``, padded with 0."""
    tokenizer: Tokenizer | None = None
    """The tokenizer of the tokens. Only swapping words needs it."""
    groups: tuple[str, ...] = ()
    """The group of each pair, such as its book: no fold may split one. Only folds need them."""

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> Examples:
        """The same on another device."""
        images, owner, tokens = self.images.to(device), self.owner.to(device), self.tokens.to(device)
        return replace(self, images=images, owner=owner, tokens=tokens)

    def select(self, rows: Tensor) -> Examples:
        """Some of the pairs: row numbers ``(m,)``, in that order, or a mask ``(n,)``."""
        rows = torch.arange(len(self))[rows]
        texts = torch.cat([rows, rows + len(self)])
        groups = tuple(self.groups[i] for i in rows.tolist()) if self.groups else ()
        return Examples(self.images[rows], self.owner[rows], self.tokens[texts], self.tokenizer, groups)

    def sample(self, most: int) -> Examples:
        """At most ``most`` pairs, always the same ones, in their own order."""
        if len(self) <= most:
            return self
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        return self.select(order[:most].sort().values)

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

    A pair without a group of its own is grouped by its image.

    Raises:
        DataError: There are no pairs.
        ImageError: An image cannot be decoded. All others are in the cache then.
    """
    if not pairs:
        raise DataError("no pairs to train or validate on")
    encoder = Encoder(model, batch_size)
    store = FeatureCache(cache, image_key(model), batch_size)
    images = store.get_many([pair.image for pair in pairs], encoder.images)
    owner = torch.unique(images, dim=0, return_inverse=True)[1]
    texts = [pair.description for pair in pairs] + [pair.caption for pair in pairs]
    groups = tuple(pair.group or f"image {i}" for pair, i in zip(pairs, owner.tolist(), strict=True))
    return Examples(images, owner, token_rows(model.tokenizer, texts), model.tokenizer, groups)
