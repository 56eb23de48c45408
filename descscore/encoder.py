"""Encode images and texts as unit features, in batches that fit into memory; find the fastest batch size.

:class:`Encoder` runs one model. Its results depend neither on the order of the inputs nor on the
batches. :class:`BatchSize` halves a batch that does not fit into memory.

:func:`with_precision` makes a model faster and a little less exact. Matrix products and
convolutions, which take most of the time, then run in bfloat16 or float16. The steps that need
precision and take little time stay in float32: in the towers the residual stream, norms, embeddings
and the last projections; outside the towers the normalisation of pixels and features, the cosines,
the purpose read-out and the logit scale.
"""

from __future__ import annotations

import copy
import gc
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from descscore.clip import CLIP, get_model_preprocess_cfg, text_tower
from descscore.errors import ModelError, UsageError
from descscore.images import picture_pixels, pixel_spec
from descscore.models import LoadedModel
from descscore.purpose import Purpose
from descscore.texts import EncodedTexts, TextPolicy, TextWindows, TokenizedText, pad
from descscore.towers.image import compiled, encode_images, is_plain
from descscore.towers.text import run_texts, runs_short

log = logging.getLogger(__name__)

T = TypeVar("T")

Precision: TypeAlias = Literal["float32", "bf16", "fp16"]
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

CPU_BATCH = 32
"""Batch size on a CPU; larger ones are hardly faster."""

_FIRST, _LAST, _GAIN = 64, 1024, 1.05
"""Smallest and largest batch size tried on a GPU, and the gain in rate that a doubling must bring."""

_TRIALS = 3

_EXAMPLE = 8
"""Size of the batch with which the image tower is compiled; it then takes batches of any size."""


class Encoder:
    """Encodes with one model.

    Args:
        model: The model.
        batch_size: Images per pass, and texts of full length.
        pad: Whether to fill up batches of images, so that they have one of few sizes; by default on a GPU.
    """

    def __init__(self, model: LoadedModel, batch_size: int, pad: bool | None = None) -> None:
        self.model, self.batches = model, BatchSize(batch_size)
        self._dtype = DTYPES[model.precision]
        config = get_model_preprocess_cfg(model.clip)
        self.spec = pixel_spec(config)
        self._mean, self._std = (
            torch.tensor(config[name], device=model.device).view(1, 3, 1, 1) for name in ("mean", "std")
        )
        self._picture_features: Callable[[Tensor], Tensor] = self._encode_pictures
        self._pads = model.device.type == "cuda" if pad is None else pad

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.model.device

    @property
    def batch_size(self) -> int:
        """Images per pass; it shrinks when memory runs out."""
        return self.batches.value

    @torch.inference_mode()
    def compile(self) -> None:
        """Speed up :meth:`pixels` with ``torch.compile``, which may take minutes.

        Raises :class:`ModelError` if torch cannot compile, for example without a C++ compiler.
        """
        self._picture_features = compiled(self._encode_pictures, self._blank(_EXAMPLE))

    @torch.inference_mode()
    def try_batch(self, size: int) -> None:
        """Run ``size`` blank pictures through the image tower and wait for the result."""
        self.batches.value = size
        self.pixels(self._blank(size))[:1].cpu()

    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images -> ``(n, embed_dim)`` unit features, float32."""
        return self.pixels(torch.from_numpy(np.stack([picture_pixels(image, self.spec) for image in images])))

    @torch.inference_mode()
    def pixels(self, pixels: Tensor) -> Tensor:
        """Prepared pictures -> unit features: ``(n, height, width, 3)`` uint8 -> ``(n, embed_dim)`` float32.

        :func:`descscore.images.picture_pixels` prepares pictures.
        """

        def encode(part: slice) -> Tensor:
            pictures = pixels[part].to(self.model.device, non_blocking=True)
            return self._picture_features(self._padded(pictures))[: len(pictures)]

        return torch.cat(self.batches.run(len(pixels), encode))

    def _padded(self, pictures: Tensor) -> Tensor:
        """Add blank pictures, so that only a few batch sizes occur.

        On a GPU, torch prepares attention for each new size, which takes longer than a full batch.
        """
        missing = self.batches.next_size(len(pictures)) - len(pictures) if self._pads else 0
        return F.pad(pictures, (*[0] * 6, 0, missing)) if missing else pictures

    def _encode_pictures(self, pictures: Tensor) -> Tensor:
        """Pictures ``(n, height, width, 3)`` uint8 on the device -> float32 ``(n, embed_dim)``."""
        scaled = pictures.permute(0, 3, 1, 2).float().div(255)
        normalised = scaled.sub_(self._mean).div_(self._std)
        # With a pixel's colours next to each other in memory, convolutions are up to 1.4 times faster.
        ready = normalised.to(self._dtype, memory_format=torch.channels_last)
        features = encode_images(self.model.clip, ready)
        if not isinstance(features, Tensor) or features.ndim != 2:
            raise ModelError(
                f"model {self.model.name}: its image tower does not give one feature for each image; choose "
                "a model whose image tower pools, with a pool_type other than none"
            )
        return F.normalize(features.float(), dim=-1)

    def texts(self, texts: Sequence[str], policy: TextPolicy = "truncate") -> EncodedTexts:
        """Texts -> unit features; a repeated text runs once."""
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
        """Tokenised texts -> unit features ``(n, embed_dim)`` and norms ``(n,)`` under the scoring model.

        Equal to ``features`` and ``norms`` of :meth:`tokenized`, but without the base and the read-out.
        """
        windows = TextWindows.of(texts)
        features, norms, _ = self._rows(self.model.clip, windows.rows, None)
        return windows.features(features), windows.means(norms)

    def _rows(
        self, clip: CLIP, rows: list[tuple[int, ...]], purpose: Purpose | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Token rows -> unit features, norms, and probabilities if there is a read-out.

        Rows run in order of their length and then of their tokens, so that rows of a pass have similar
        lengths and common beginnings. A pass needs no more memory than ``batch_size`` texts of full length.
        """
        order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), rows[i]))

        def encode(part: slice) -> tuple[Tensor, Tensor, Tensor | None]:
            raw, probability = self._run(clip, pad([rows[i] for i in order[part]]), purpose)
            raw = raw.float()
            return F.normalize(raw, dim=-1), raw.norm(dim=-1), probability

        lengths = [len(rows[i]) for i in order]
        parts = self.batches.run_lengths(lengths, self.model.tokenizer.context_length, encode)
        features, norms, probabilities = zip(*parts, strict=True)
        positions = torch.empty(len(order), dtype=torch.int64)
        positions[order] = torch.arange(len(order))
        positions = positions.to(self.model.device)
        probability = None if probabilities[0] is None else torch.cat(probabilities)[positions]
        return torch.cat(features)[positions], torch.cat(norms)[positions], probability

    def _run(self, clip: CLIP, tokens: Tensor, purpose: Purpose | None) -> tuple[Tensor, Tensor | None]:
        """Raw features of token rows, and probabilities that the purpose read-out gives."""
        block = None if purpose is None else purpose.site.block
        run = run_texts(clip, tokens, self.model.device, block)
        if purpose is None or run.state is None:
            return run.raw, None
        return run.raw, purpose.probability(run.state.float())

    def _blank(self, count: int) -> Tensor:
        """Black pictures on the device: ``(count, height, width, 3)`` uint8."""
        shape = (count, self.spec.height, self.spec.width, 3)
        return torch.zeros(shape, dtype=torch.uint8, device=self.model.device)


class BatchSize:
    """A batch size that only shrinks; results do not depend on it."""

    def __init__(self, value: int) -> None:
        self.value = value

    def next_size(self, count: int) -> int:
        """The smallest size for ``count`` rows among a full batch, half of it, a quarter of it and so on."""
        size = self.value
        while size > 1 and (size + 1) // 2 >= count:
            size = (size + 1) // 2
        return max(size, count)

    def run(self, count: int, function: Callable[[slice], T]) -> list[T]:
        """Call ``function`` with slices that cover ``range(count)`` in order.

        If a slice does not fit into memory, it and all later slices are halved.

        Raises:
            ModelError: A single row does not fit into memory.
        """
        return self._run(count, lambda start: start + self.value, function)

    def run_lengths(self, lengths: Sequence[int], full: int, function: Callable[[slice], T]) -> list[T]:
        """As :meth:`run`, for rows of rising ``lengths`` that are padded to the longest in their slice.

        A slice takes no more room than a batch of rows of length ``full``.
        """

        def stop_after(start: int) -> int:
            stop = start + 1
            if self.value == 1:
                return stop
            while stop < len(lengths) and (stop + 1 - start) * lengths[stop] <= self.value * full:
                stop += 1
            return stop

        return self._run(len(lengths), stop_after, function)

    def _run(self, count: int, stop_after: Callable[[int], int], function: Callable[[slice], T]) -> list[T]:
        parts: list[T] = []
        start = 0
        while start < count:
            part = slice(start, min(stop_after(start), count))
            try:
                parts.append(function(part))
                start = part.stop
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(part.stop - part.start, error)
            # Outside the handler, because inside it the traceback still holds the failed batch.
            release_memory()
        return parts

    def _halve(self, tried: int, error: BaseException) -> None:
        if tried == 1:
            raise ModelError(f"out of memory with a single row: {error}") from error
        self.value = max(1, min(tried, self.value) // 2)
        log.warning("out of memory with a batch of %d; continuing with a batch size of %d", tried, self.value)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` means that memory ran out, on a device or on the host."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text


def release_memory() -> None:
    """Free the memory that failed batches still hold."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def find_batch_size(
    run: Callable[[int], None],
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """The smallest batch size that a doubling makes less than 5 % faster.

    On a CPU it tries nothing and returns :data:`CPU_BATCH`. ``run`` runs a batch of a given size through the
    model and waits for it; ``clock`` gives the time in seconds.
    """
    if device.type == "cpu":
        return CPU_BATCH
    best, size, rate = _FIRST, _FIRST, 0.0
    while size <= _LAST:
        larger = _rate(run, size, clock)
        if larger < rate * _GAIN:
            break
        best, rate, size = size, larger, size * 2
    return best


def _rate(run: Callable[[int], None], size: int, clock: Callable[[], float]) -> float:
    """Rows per second, the best of a few passes after a warm-up; 0 if the batch does not fit."""
    try:
        run(size)
        times = [clock()]
        for _ in range(_TRIALS):
            run(size)
            times.append(clock())
        return size / max(min(after - before for before, after in pairwise(times)), 1e-9)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    release_memory()
    return 0.0


def check_precision(precision: str) -> Precision:
    """Return ``precision``; raises :class:`UsageError` with the choices for an unknown one."""
    if precision not in get_args(Precision):
        raise UsageError(f"precision {precision!r}: choose one of {', '.join(get_args(Precision))}")
    return precision  # type: ignore[return-value]


def with_precision(model: LoadedModel, precision: str) -> LoadedModel:
    """A copy of ``model`` with its towers in ``precision``; ``model`` itself if it has that precision.

    Only :class:`Encoder` can run the copy, because open_clip's own code does not expect the mixed
    number formats of its towers.

    Raises:
        UsageError: The precision is unknown, or the model is in another reduced precision.
    """
    if check_precision(precision) == model.precision:
        return model
    if model.precision != "float32":
        raise UsageError(f"model {model.name}: is in {model.precision} already; load it again")
    clip, base = copy.deepcopy((model.clip, model.base))
    for distinct in {id(part): part for part in (clip, base)}.values():
        _reduce_texts(distinct, DTYPES[precision])
        _reduce_images(distinct.visual, DTYPES[precision])
    return replace(model, clip=clip, base=base, precision=precision)


def _reduce_texts(clip: CLIP, dtype: torch.dtype) -> None:
    tower = text_tower(clip)
    if runs_short(clip):
        _reduce_blocks(tower.transformer, dtype)
        return
    if tower is not clip:  # open_clip's own code runs it in one number format
        tower.to(dtype)
        return
    parts = (clip.token_embedding, clip.transformer, clip.ln_final, clip.positional_embedding)
    for part in (*parts, clip.text_projection):
        if isinstance(part, nn.Module):
            part.to(dtype)
        elif isinstance(part, Tensor):
            part.data = part.data.to(dtype)
    if clip.attn_mask is not None:
        clip.attn_mask = clip.attn_mask.to(dtype)


def _reduce_images(visual: Any, dtype: torch.dtype) -> None:
    if is_plain(visual):
        visual.conv1.to(dtype)
        _reduce_blocks(visual.transformer, dtype)
        return
    # torch normalises a half-precision batch with float32 statistics.
    for part in [part for part in visual.modules() if not isinstance(part, nn.BatchNorm2d)]:
        for weight in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            if weight.is_floating_point():
                weight.data = weight.data.to(dtype)


def _reduce_blocks(transformer: Any, dtype: torch.dtype) -> None:
    for block in transformer.resblocks:
        block.attn.to(dtype)
        block.mlp.to(dtype)
