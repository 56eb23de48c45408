"""Images and texts to unit features, in whatever order is quickest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import open_clip
import torch
import torch.nn.functional as F
from open_clip import CLIP
from PIL import Image
from torch import Tensor

from descscore.batch_size import BatchSize
from descscore.interventions import run_from_block, run_to_block
from descscore.models import LoadedModel
from descscore.precision import DTYPES
from descscore.preprocess import pixel_spec
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
        self.model, self.batches = model, BatchSize(batch_size)
        self._dtype = DTYPES[model.precision]
        self._image_tower: Callable[[Tensor], Tensor] = model.clip.encode_image
        config = open_clip.get_model_preprocess_cfg(model.clip)
        self.spec = pixel_spec(config)
        self._mean, self._std = (
            torch.tensor(config[name], device=model.device).view(1, 3, 1, 1) for name in ("mean", "std")
        )

    @property
    def batch_size(self) -> int:
        """Rows per pass; smaller than asked for once memory has run out."""
        return self.batches.value

    def compile(self) -> None:
        """Let ``torch.compile`` speed up the image tower; the first batches then take longer."""
        self._image_tower = torch.compile(self.model.clip.encode_image)

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images -> ``(n, embed_dim)`` unit features, float32."""

        def encode(part: slice) -> Tensor:
            return self._encode(torch.stack([self.model.preprocess(image) for image in images[part]]))

        return torch.cat(self.batches.run(len(images), encode))

    @torch.inference_mode()
    def pixels(self, pixels: Tensor) -> Tensor:
        """Prepared pictures -> unit features: ``(n, height, width, 3)`` uint8 -> ``(n, embed_dim)`` float32.

        Prepared as by :func:`descscore.preprocess.picture_pixels`; equal to :meth:`images` of the pictures.
        """

        def encode(part: slice) -> Tensor:
            some = pixels[part].to(self.model.device, non_blocking=True)
            scaled = some.permute(0, 3, 1, 2).contiguous().float().div_(255)
            return self._encode(scaled.sub_(self._mean).div_(self._std))

        return torch.cat(self.batches.run(len(pixels), encode))

    def _encode(self, pixels: Tensor) -> Tensor:
        """Normalised pixels ``(n, 3, height, width)`` -> unit features ``(n, embed_dim)`` float32."""
        raw = self._image_tower(pixels.to(self.model.device, self._dtype))
        return F.normalize(raw.float(), dim=-1)

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

        def encode(part: slice) -> tuple[Tensor, Tensor | None]:
            tokens = pad([rows[i] for i in order[part]]).to(self.model.device)
            raw, found = _run(clip, tokens, purpose)
            return F.normalize(raw.float(), dim=-1), found

        features, probabilities = zip(*self.batches.run(len(order), encode), strict=True)
        back = torch.empty(len(order), dtype=torch.int64)
        back[order] = torch.arange(len(order))
        back = back.to(self.model.device)
        found = None if probabilities[0] is None else torch.cat(probabilities)[back]
        return torch.cat(features)[back], found


def _run(clip: CLIP, tokens: Tensor, purpose: Purpose | None) -> tuple[Tensor, Tensor | None]:
    """Raw features of token rows, and what the read-out says of the state on their way."""
    if purpose is None:
        return encode_tokens(clip, tokens), None
    half = run_to_block(clip, tokens, purpose.site.block)
    return run_from_block(clip, half), purpose.probability(half.state.float())


def _whole_texts(rows: Tensor, windows: list[list[int]]) -> Tensor:
    """Unit features of whole texts: the unit mean over each text's windows, ``(len(windows), d)``."""
    if all(len(index) == 1 for index in windows):
        return rows[[index[0] for index in windows]]
    return torch.stack([F.normalize(rows[index].mean(0), dim=-1) for index in windows])
