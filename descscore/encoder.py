"""Images and texts to unit features, in float32, in whatever order is quickest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip import CLIP
from PIL import Image
from torch import Tensor

from descscore.models import LoadedModel
from descscore.text_tower import encode_tokens
from descscore.texts import TextPolicy, TokenizedText, pad


@dataclass(frozen=True)
class EncodedTexts:
    """Texts under the scoring model and under its base.

    features, base_features: ``(n, embed_dim)`` unit vectors (the same tensor
    where the model is its own base). texts: what was tokenised, in the same order.
    """

    features: Tensor
    base_features: Tensor
    texts: tuple[TokenizedText, ...]


class Encoder:
    """Encodes with one model; results do not depend on order or on what else is in the batch."""

    def __init__(self, model: LoadedModel, batch_size: int) -> None:
        self.model, self.batch_size = model, batch_size

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images -> ``(n, embed_dim)`` unit features."""
        parts = []
        for start in range(0, len(images), self.batch_size):
            part = [self.model.preprocess(image) for image in images[start : start + self.batch_size]]
            pixels = torch.stack(part).to(self.model.device)
            parts.append(F.normalize(self.model.clip.encode_image(pixels), dim=-1))
        return torch.cat(parts)

    def texts(self, texts: Sequence[str], policy: TextPolicy = "truncate") -> EncodedTexts:
        """Texts -> unit features, each text once however often it occurs."""
        return self.tokenized([self.model.tokenizer.tokenize(text, policy) for text in texts])

    @torch.inference_mode()
    def tokenized(self, texts: Sequence[TokenizedText]) -> EncodedTexts:
        """Tokenised texts -> unit features."""
        rows = list(dict.fromkeys(row for text in texts for row in text.rows))
        features = self._pooled(self.model.clip, rows, texts)
        base = self._pooled(self.model.base, rows, texts) if self.model.tuned else features
        return EncodedTexts(features, base, tuple(texts))

    def _pooled(self, clip: CLIP, rows: list[tuple[int, ...]], texts: Sequence[TokenizedText]) -> Tensor:
        """Unit features of whole texts: the unit mean over each text's windows."""
        features = self._rows(clip, rows)
        place = {row: i for i, row in enumerate(rows)}
        index = [place[row] for text in texts for row in text.rows]
        if all(len(text.rows) == 1 for text in texts):
            return features[index]
        parts = torch.split(features[index], [len(text.rows) for text in texts])
        return torch.stack([F.normalize(part.mean(0), dim=-1) for part in parts])

    def _rows(self, clip: CLIP, rows: list[tuple[int, ...]]) -> Tensor:
        """Token rows -> unit features; rows of like length run together, so that little is padding."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        parts = []
        for start in range(0, len(order), self.batch_size):
            batch = pad([rows[i] for i in order[start : start + self.batch_size]])
            parts.append(F.normalize(encode_tokens(clip, batch.to(self.model.device)), dim=-1))
        back = torch.empty(len(order), dtype=torch.int64)
        back[order] = torch.arange(len(order))
        return torch.cat(parts)[back.to(self.model.device)]
