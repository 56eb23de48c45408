"""Tokenised texts as rows of tokens, with the image that each text is explained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from descscore.texts import TokenizedText, pad


@dataclass(frozen=True)
class TextRows:
    """n texts as token rows, each with the image that its cosine is taken with.

    tokens: ``(r, length)`` padded with 0. owner: ``(r,)`` the text of each row, 0..n-1
    (a text in windows has several). images: ``(n, embed_dim)`` unit features. share: ``(r,)``
    what each row counts, adding up to 1 for a text; None where its rows count alike.
    """

    tokens: Tensor
    owner: Tensor
    images: Tensor
    share: Tensor | None = None

    @classmethod
    def of(cls, texts: Sequence[TokenizedText], images: Tensor) -> TextRows:
        """The rows of tokenised texts, on the images' device."""
        device = images.device
        return cls(
            pad([row for text in texts for row in text.rows]).to(device),
            torch.tensor([i for i, text in enumerate(texts) for _ in text.rows], device=device),
            images,
            torch.tensor([weight for text in texts for weight in text.weights], device=device),
        )

    @property
    def shares(self) -> Tensor:
        """``share``, or what it stands for: ``(r,)``."""
        if self.share is not None:
            return self.share
        return 1 / torch.bincount(self.owner)[self.owner].float()
