"""Images and texts to unit features, in float32, in whatever order is quickest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip import CLIP
from PIL import Image
from torch import Tensor

from descscore.interventions import run_from_block, run_to_block
from descscore.models import LoadedModel
from descscore.readout import Purpose
from descscore.text_tower import encode_tokens
from descscore.texts import TextPolicy, TokenizedText, pad


@dataclass(frozen=True)
class EncodedTexts:
    """Texts under the scoring model and under its base.

    features, base_features: ``(n, embed_dim)`` unit vectors (the same tensor
    where the model is its own base). texts: what was tokenised, in the same order.
    probabilities: ``(n,)``, that each is a description, the mean over its windows;
    None where the model has no read-out.
    """

    features: Tensor
    base_features: Tensor
    texts: tuple[TokenizedText, ...]
    probabilities: Tensor | None = None


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
        place = {row: i for i, row in enumerate(rows)}
        windows = [[place[row] for row in text.rows] for text in texts]
        tuned, probabilities = self._rows(self.model.clip, rows, self.model.purpose)
        features = _whole_texts(tuned, windows)
        base = features
        if self.model.tuned:
            base = _whole_texts(self._rows(self.model.base, rows, None)[0], windows)
        if probabilities is not None:
            probabilities = torch.stack([probabilities[index].mean() for index in windows])
        return EncodedTexts(features, base, tuple(texts), probabilities)

    def _rows(
        self, clip: CLIP, rows: list[tuple[int, ...]], purpose: Purpose | None
    ) -> tuple[Tensor, Tensor | None]:
        """Token rows -> unit features, and probabilities where there is a read-out.

        Rows of like length run together, so that little is padding.
        """
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        features, probabilities = [], []
        for start in range(0, len(order), self.batch_size):
            tokens = pad([rows[i] for i in order[start : start + self.batch_size]]).to(self.model.device)
            raw, found = _run(clip, tokens, purpose)
            features.append(F.normalize(raw, dim=-1))
            if found is not None:
                probabilities.append(found)
        back = torch.empty(len(order), dtype=torch.int64)
        back[order] = torch.arange(len(order))
        back = back.to(self.model.device)
        return torch.cat(features)[back], torch.cat(probabilities)[back] if probabilities else None


def _run(clip: CLIP, tokens: Tensor, purpose: Purpose | None) -> tuple[Tensor, Tensor | None]:
    """Raw features of token rows, and what the read-out says of the state on their way."""
    if purpose is None:
        return encode_tokens(clip, tokens), None
    half = run_to_block(clip, tokens, purpose.site.block)
    return run_from_block(clip, half), purpose.probability(half.state)


def _whole_texts(rows: Tensor, windows: list[list[int]]) -> Tensor:
    """Unit features of whole texts: the unit mean over each text's windows, ``(len(windows), d)``."""
    if all(len(index) == 1 for index in windows):
        return rows[[index[0] for index in windows]]
    return torch.stack([F.normalize(rows[index].mean(0), dim=-1) for index in windows])
