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
from descscore.models import LoadedModel
from descscore.precision import DTYPES
from descscore.preprocess import pixel_spec
from descscore.readout import Purpose
from descscore.text_windows import TextWindows
from descscore.texts import TextPolicy, TokenizedText, pad
from descscore.towers.compiled import compiled
from descscore.towers.image import encode_images
from descscore.towers.text import run_texts

_EXAMPLE = 8
"""Pictures that the image tower is compiled with, for batches of any size."""


@dataclass(frozen=True)
class EncodedTexts:
    """Texts under the scoring model and under its base.

    features, base_features: ``(n, embed_dim)`` unit vectors (the same tensor
    where the model is its own base). norms: ``(n,)`` lengths that the scoring model's
    features had before they became unit vectors, a text's the mean of its windows'. texts:
    what was tokenised, in the same order. probabilities: ``(n,)``, that each is a
    description, the mean over its windows; None where the model has no read-out.
    """

    features: Tensor
    base_features: Tensor
    norms: Tensor
    texts: tuple[TokenizedText, ...]
    probabilities: Tensor | None = None


class Encoder:
    """Encodes with one model; results do not depend on order or on what else is in the batch."""

    def __init__(self, model: LoadedModel, batch_size: int) -> None:
        self.model, self.batches = model, BatchSize(batch_size)
        self._dtype = DTYPES[model.precision]
        config = open_clip.get_model_preprocess_cfg(model.clip)
        self.spec = pixel_spec(config)
        self._mean, self._std = (
            torch.tensor(config[name], device=model.device).view(1, 3, 1, 1) for name in ("mean", "std")
        )
        self._picture_features: Callable[[Tensor], Tensor] = self._of_pictures
        self._fills_up = model.device.type == "cuda"

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.model.device

    @property
    def batch_size(self) -> int:
        """Rows per pass; smaller than asked for once memory has run out."""
        return self.batches.value

    @torch.inference_mode()
    def compile(self) -> None:
        """Let ``torch.compile`` speed up :meth:`pixels`, which takes up to some minutes at first.

        Raises :class:`ModelError` where it cannot, as on a machine without a C++ compiler.
        """
        self._picture_features = compiled(self._of_pictures, self._blank(_EXAMPLE))

    @torch.inference_mode()
    def try_batch(self, size: int) -> None:
        """Run ``size`` blank pictures through the image tower and wait for it."""
        self.batches.value = size
        self.pixels(self._blank(size))[:1].cpu()

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
            pictures = pixels[part].to(self.model.device, non_blocking=True)
            return self._picture_features(self._filled_up(pictures))[: len(pictures)]

        return torch.cat(self.batches.run(len(pixels), encode))

    def _filled_up(self, pictures: Tensor) -> Tensor:
        """On a GPU with blank pictures behind, so that batches have one of few sizes.

        For each new size torch prepares attention anew there, which takes longer than a full batch.
        """
        missing = self.batches.next_size(len(pictures)) - len(pictures) if self._fills_up else 0
        return F.pad(pictures, (*[0] * 6, 0, missing)) if missing else pictures

    def _of_pictures(self, pictures: Tensor) -> Tensor:
        """Pictures ``(n, height, width, 3)`` uint8 on the device -> unit features ``(n, embed_dim)``."""
        scaled = pictures.permute(0, 3, 1, 2).float().div(255)
        return self._encode(scaled.sub_(self._mean).div_(self._std))

    def _encode(self, pixels: Tensor) -> Tensor:
        """Normalised pixels ``(n, 3, height, width)`` -> unit features ``(n, embed_dim)`` float32."""
        # Colours side by side, as they come: convolutions are then up to 1.4 times faster.
        ready = pixels.to(self.model.device, self._dtype, memory_format=torch.channels_last)
        return F.normalize(encode_images(self.model.clip, ready).float(), dim=-1)

    def texts(self, texts: Sequence[str], policy: TextPolicy = "truncate") -> EncodedTexts:
        """Texts -> unit features, each text once however often it occurs."""
        return self.tokenized([self.model.tokenizer.tokenize(text, policy) for text in texts])

    @torch.inference_mode()
    def tokenized(self, texts: Sequence[TokenizedText]) -> EncodedTexts:
        """Tokenised texts -> unit features."""
        windows = TextWindows.of(texts)
        tuned, norms, probabilities = self._rows(self.model.clip, windows.rows, self.model.purpose)
        features = windows.features(tuned)
        base = features
        if self.model.tuned:
            base = windows.features(self._rows(self.model.base, windows.rows, None)[0])
        if probabilities is not None:
            probabilities = windows.means(probabilities)
        return EncodedTexts(features, base, windows.means(norms), tuple(texts), probabilities)

    @torch.inference_mode()
    def embeddings(self, texts: Sequence[TokenizedText]) -> tuple[Tensor, Tensor]:
        """Tokenised texts under the scoring model alone: unit features ``(n, embed_dim)`` and norms ``(n,)``.

        Equal to ``features`` and ``norms`` of :meth:`tokenized`, without base and read-out.
        """
        windows = TextWindows.of(texts)
        features, norms, _ = self._rows(self.model.clip, windows.rows, None)
        return windows.features(features), windows.means(norms)

    def _rows(
        self, clip: CLIP, rows: list[tuple[int, ...]], purpose: Purpose | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Token rows -> unit features, norms, and probabilities where there is a read-out.

        Rows of like length run together, in as few passes as the memory for ``batch_size``
        texts of full length allows, and among them those that begin alike.
        """
        order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), rows[i]))

        def encode(part: slice) -> tuple[Tensor, Tensor, Tensor | None]:
            raw, found = self._run(clip, pad([rows[i] for i in order[part]]), purpose)
            raw = raw.float()
            return F.normalize(raw, dim=-1), raw.norm(dim=-1), found

        lengths = [len(rows[i]) for i in order]
        parts = self.batches.run_lengths(lengths, self.model.tokenizer.context_length, encode)
        features, norms, probabilities = zip(*parts, strict=True)
        back = torch.empty(len(order), dtype=torch.int64)
        back[order] = torch.arange(len(order))
        back = back.to(self.model.device)
        found = None if probabilities[0] is None else torch.cat(probabilities)[back]
        return torch.cat(features)[back], torch.cat(norms)[back], found

    def _run(self, clip: CLIP, tokens: Tensor, purpose: Purpose | None) -> tuple[Tensor, Tensor | None]:
        """Raw features of token rows, and what the read-out says of the state on their way."""
        block = None if purpose is None else purpose.site.block
        run = run_texts(clip, tokens, self.model.device, block)
        if purpose is None or run.state is None:
            return run.raw, None
        return run.raw, purpose.probability(run.state.float())

    def _blank(self, count: int) -> Tensor:
        """Black pictures on the device: ``(count, height, width, 3)`` uint8."""
        shape = (count, self.spec.height, self.spec.width, 3)
        return torch.zeros(shape, dtype=torch.uint8, device=self.model.device)
