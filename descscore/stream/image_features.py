"""Encode the images of a stream in batches, each distinct image once.

A key identifies an image: its path, or the digest of its bytes. A feature is held while pairs wait for its
key. Afterwards a bounded number of features is kept by content, so a repeated image needs no second pass
through the model.
"""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from cachetools import LRUCache
from torch import Tensor

from descscore.errors import ImageError
from descscore.images import ImageSource, PixelSpec, content_digest, load_pixels
from descscore.stream.worker import Decoded, Pixels

Key: TypeAlias = "str | bytes"
Feature: TypeAlias = "np.ndarray[Any, Any]"
"""Unit feature of one image, ``(embed_dim,)`` float32."""

REMEMBERED = 4096
"""Number of features kept after use, and also of known digests of paths, and of errors."""

_TRIM_EVERY = 2
"""Batches on a CPU between two calls of :func:`return_freed_memory`. More let memory grow, as free space
between blocks in use is not returned; fewer slow a small model down by a tenth."""


class ImageEncoder(Protocol):
    """Turns pixels into features (:class:`descscore.encoder.Encoder`)."""

    @property
    def spec(self) -> PixelSpec: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def pixels(self, pixels: Tensor) -> Tensor: ...


class Decoder(Protocol):
    """Turns image files into prepared pictures (see :mod:`descscore.stream.pool`)."""

    def submit(self, number: int, source: str | bytes) -> None:
        """Ask for an image; its answer will have the number ``number``."""

    def flush(self) -> None:
        """Send all submitted images to the workers; until then some may wait for others."""

    def get(self) -> Decoded:
        """Wait for the next answer; answers come in any order. Call it only while answers are missing."""

    def pixels(self, slots: Sequence[int], out: Pixels) -> None:
        """Copy the pictures in ``slots`` to ``out``, ``(len(slots), height, width, 3)`` uint8."""

    def release(self, slot: int) -> None:
        """Free a slot whose pixels are no longer needed."""

    def close(self) -> None:
        """Stop all workers and drop unanswered images."""


@dataclass
class _Wanted:
    """A key that pairs wait for."""

    pairs: int = 0
    """Number of pairs that wait for it."""
    pending: bool = False
    """The image has not been decoded yet."""
    result: Feature | ImageError | None = None
    """Its feature or its error; None until it is known."""


class ImageStage:
    """Turns the images of a stream into features.

    :meth:`request` asks for an image, :meth:`collect` waits for its feature, and :meth:`release` drops it.
    Meanwhile an image passes four states: submitted to the decoder; decoded, on the pile, until a batch is
    full; launched, that is, sent to the model; and fetched from the device.
    """

    def __init__(self, encoder: ImageEncoder, decoder: Decoder) -> None:
        self.encoder, self.decoder = encoder, decoder
        self._wanted: dict[Key, _Wanted] = {}
        self._submitted: dict[int, Key] = {}
        self._numbers = itertools.count()
        # Decoded pictures that wait for the model, by digest: the decoder's slot, or the pixels.
        self._pile: dict[bytes, int | Pixels] = {}
        # Features on the device; fetching them waits for the device.
        self._launched: list[tuple[list[bytes], Tensor]] = []
        self._batches = 0
        # The keys that wait for each picture on the pile or launched, by digest.
        self._keys_of: dict[bytes, list[Key]] = {}
        self._features: LRUCache[bytes, Feature] = LRUCache(REMEMBERED)
        self._errors: LRUCache[Key, ImageError] = LRUCache(REMEMBERED)
        self._digests: LRUCache[Key, bytes] = LRUCache(REMEMBERED)

    def request(self, image: ImageSource) -> Key:
        """Ask for an image's feature. Each request must be followed by one :meth:`release` of its key."""
        if not isinstance(image, (str, os.PathLike, bytes, bytearray, memoryview)):
            return self._request_picture(image)
        source = os.fsdecode(image) if isinstance(image, (str, os.PathLike)) else bytes(image)
        key: Key = source if isinstance(source, str) else content_digest(source)
        if self._want(key):
            number = next(self._numbers)
            self._submitted[number] = key
            self.decoder.submit(number, source)
        return key

    def _request_picture(self, image: ImageSource) -> Key:
        """As :meth:`request`, for a picture in memory, which needs no worker."""
        try:
            pixels = load_pixels(image, self.encoder.spec)
        except ImageError as error:
            key = b"picture %d" % next(self._numbers)
            self._wanted[key] = _Wanted(1, False, error)
            return key
        digest = content_digest(b"pixels" + pixels.tobytes())
        if self._want(digest):
            self._decoded(digest, digest, pixels)
        return digest

    def _want(self, key: Key) -> bool:
        """Count one more pair that waits for ``key``; True if the image must be decoded."""
        wanted = self._wanted.setdefault(key, _Wanted())
        wanted.pairs += 1
        if wanted.pairs > 1:
            return False
        digest = self._digests.get(key) if isinstance(key, str) else key
        feature = None if digest is None else self._features.get(digest)
        wanted.result = self._errors.get(key) if feature is None else feature
        wanted.pending = wanted.result is None
        return wanted.pending

    def collect(self, keys: Sequence[Key]) -> list[Feature | ImageError]:
        """The feature or error of each key; runs decoder and model until all are known."""
        undecoded = {key for key in keys if self._wanted[key].pending}
        while undecoded:
            undecoded.discard(self._accept(self.decoder.get()))
        open_keys = {key for key in keys if self._wanted[key].result is None}
        if open_keys:
            if any(not open_keys.isdisjoint(self._keys_of[digest]) for digest in self._pile):
                self._fill_and_launch()
            self._fetch()
        results = [self._wanted[key].result for key in keys]
        return [result for result in results if result is not None]  # all are known; mypy does not see it

    def release(self, key: Key) -> None:
        """One pair no longer needs this key."""
        wanted = self._wanted[key]
        wanted.pairs -= 1
        if not wanted.pairs:
            del self._wanted[key]

    def _accept(self, answer: Decoded) -> Key:
        """Take an answer of the decoder; returns its key."""
        key = self._submitted.pop(answer.number)
        if answer.slot is None or answer.digest is None:
            error = answer.error or ImageError("damaged_image", "no answer")
            self._errors[key] = error
            self._settle(key, error)
        else:
            self._digests[key] = answer.digest
            self._decoded(key, answer.digest, answer.slot)
        return key

    def _decoded(self, key: Key, digest: bytes, picture: int | Pixels) -> None:
        """Put a picture on the pile, unless its feature is known or being computed."""
        self._wanted[key].pending = False
        feature = self._features.get(digest)
        if feature is None and digest not in self._keys_of:
            self._keys_of[digest], self._pile[digest] = [key], picture
            if len(self._pile) >= self.encoder.batch_size:
                self._launch()
            return
        if feature is not None:
            self._settle(key, feature)
        else:
            self._keys_of[digest].append(key)
        if isinstance(picture, int):
            self.decoder.release(picture)

    def _fill_and_launch(self) -> None:
        """Wait for a full batch and launch it; launch a smaller one if few images are left to decode.

        A GPU may fill a smaller batch up with blank pictures (:meth:`descscore.encoder.Encoder.pixels`).
        """
        before = len(self._launched)
        while len(self._launched) == before:
            if len(self._submitted) > self.encoder.batch_size:
                self._accept(self.decoder.get())
            else:
                self._launch()

    def _launch(self) -> None:
        """Send the pile to the model."""
        if not self._pile:
            return
        pixels = self._pixels(list(self._pile.values()))
        for picture in self._pile.values():
            if isinstance(picture, int):
                self.decoder.release(picture)
        digests, self._pile = list(self._pile), {}
        self._launched.append((digests, self.encoder.pixels(pixels)))
        self._batches += 1
        if self.encoder.device.type == "cpu" and self._batches % _TRIM_EVERY == 0:
            return_freed_memory()

    def _pixels(self, pictures: Sequence[int | Pixels]) -> Tensor:
        """A copy of the pictures; for a GPU in pinned memory, from which it can copy by itself."""
        spec, pinned = self.encoder.spec, self.encoder.device.type == "cuda"
        pixels = torch.empty(len(pictures), spec.height, spec.width, 3, dtype=torch.uint8, pin_memory=pinned)
        out = pixels.numpy()
        slots = [picture for picture in pictures if isinstance(picture, int)]
        if len(slots) == len(pictures):
            self.decoder.pixels(slots, out)
            return pixels
        for place, picture in enumerate(pictures):
            if isinstance(picture, int):
                self.decoder.pixels([picture], out[place : place + 1])
            else:
                out[place] = picture
        return pixels

    def _fetch(self) -> None:
        """Bring the features from the device to the keys that wait for them."""
        for digests, features in self._launched:
            for digest, feature in zip(digests, features.cpu().numpy(), strict=True):
                self._features[digest] = feature.copy()  # a view would keep the whole batch in memory
                for key in self._keys_of.pop(digest):
                    self._settle(key, feature)
        self._launched.clear()

    def _settle(self, key: Key, result: Feature | ImageError) -> None:
        wanted = self._wanted[key]
        wanted.pending, wanted.result = False, result


def return_freed_memory() -> None:
    """Return freed memory to the system in a few milliseconds. Does nothing without glibc.

    A stream allocates and frees blocks of different sizes. glibc keeps the free space between blocks in
    use, so a long stream would grow although it holds nothing more.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return
    trim(0)
