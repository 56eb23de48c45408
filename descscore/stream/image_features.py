"""Image features for a stream: decoded ahead of the model, each content encoded once.

Images are asked for by a key (path, or digest of the bytes). While anybody waits for
a key its feature is held; afterwards a bounded number of features is remembered by
content, so that an image that occurs again costs no second pass through the model.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from descscore.errors import ImageError
from descscore.images import ImageSource, PixelSpec, load_image, picture_pixels
from descscore.stream.decoder import Decoded, Decoder, Pixels, content_digest

# Features of images seen before, in one block of memory.
#
# Each by itself would be a small block among large ones that come and go with every batch. Thousands of
# small blocks keep the heap from closing its gaps, and a long stream's memory grows.


Feature: TypeAlias = "np.ndarray[Any, Any]"


class FeatureMemory:
    """Features ``(d,)`` float32 by content, of the ``limit`` contents used last."""

    def __init__(self, limit: int) -> None:
        self._rows: OrderedDict[bytes, int] = OrderedDict()
        self._limit = limit
        self._table: np.ndarray[Any, Any] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, digest: bytes) -> Feature | None:
        """A copy of the feature of that content, None where it is not known any more."""
        row = self._rows.get(digest)
        if row is None or self._table is None:
            return None
        self._rows.move_to_end(digest)
        feature: Feature = self._table[row].copy()
        return feature

    def keep(self, digest: bytes, feature: Feature) -> None:
        """Remember a feature, in place of that used longest ago where there is no room."""
        if self._table is None:
            self._table = np.empty((self._limit, len(feature)), np.float32)
        row = self._rows.pop(digest, None)
        if row is None:
            row = len(self._rows) if len(self._rows) < self._limit else self._rows.popitem(last=False)[1]
        self._rows[digest] = row
        self._table[row] = feature


# Give memory that was freed back to the system.
#
# A stream allocates and frees blocks of ever different sizes. glibc keeps what lies free between blocks
# still in use, and over many windows that adds up, though nothing is held.


def give_back() -> None:
    """Some milliseconds; nothing where the C library is another one."""
    trim = _trim()
    if trim is not None:
        trim(0)


@lru_cache(maxsize=1)
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return None


Key: TypeAlias = "str | bytes"
Found: TypeAlias = "Feature | ImageError"

REMEMBERED = 4096
"""Features remembered after use, and paths whose content is known."""

_GIVEN_BACK = 2
"""Batches on a CPU after which freed memory is given back: after more it grows from one to the next by what
lies between blocks in use, after each of a small model it costs a tenth of the time."""

K = TypeVar("K")
V = TypeVar("V")


class Remembered(OrderedDict[K, V], Generic[K, V]):
    """The ``limit`` entries used last."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def keep(self, key: K, value: V) -> None:
        self[key] = value
        self.move_to_end(key)
        while len(self) > self.limit:
            self.popitem(last=False)


@dataclass
class _Wanted:
    """A key that ``rows`` rows in flight wait for. pending: it has not been decoded yet."""

    rows: int = 0
    pending: bool = False
    found: Found | None = None


class ImageEncoder(Protocol):
    """What turns pixels into features (:class:`descscore.encoder.Encoder`)."""

    @property
    def spec(self) -> PixelSpec: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def pixels(self, pixels: Tensor) -> Tensor: ...


class ImageStage:
    """Turns images into features with a decoder and an encoder."""

    def __init__(self, encoder: ImageEncoder, decoder: Decoder) -> None:
        self.encoder, self.decoder = encoder, decoder
        self._wanted: dict[Key, _Wanted] = {}
        self._jobs: dict[int, Key] = {}
        self._next_job = 0
        self._batches = 0
        # Decoded pictures that wait for the model: a decoder's slot or the pixels themselves.
        self._pile: dict[bytes, int | Pixels] = {}
        # Features on the device, not fetched yet; fetching waits for the device.
        self._launched: list[tuple[list[bytes], Tensor]] = []
        self._keys_of: dict[bytes, list[Key]] = {}
        self._known = FeatureMemory(REMEMBERED)
        self._failed: Remembered[Key, ImageError] = Remembered(REMEMBERED)
        self._paths: Remembered[Key, bytes] = Remembered(REMEMBERED)

    def request(self, image: ImageSource) -> Key:
        """Ask for an image's feature. Every request is to be met by one :meth:`release`."""
        if isinstance(image, (str, os.PathLike, bytes, bytearray, memoryview)):
            source = image if isinstance(image, (str, bytes)) else _plain(image)
            key: Key = source if isinstance(source, str) else content_digest(source)
            if self._want(key):
                self._jobs[self._next_job] = key
                self.decoder.submit(self._next_job, source)
                self._next_job += 1
            return key
        return self._request_picture(image)

    def collect(self, keys: Sequence[Key]) -> list[Found]:
        """What was found for each key; runs decoder and model until all are there."""
        undecoded = {key for key in keys if self._wanted[key].pending}
        while undecoded:
            undecoded.discard(self._accept(self.decoder.get()))
        open_keys = {key for key in keys if self._wanted[key].found is None}
        if open_keys:
            if any(not open_keys.isdisjoint(self._keys_of[digest]) for digest in self._pile):
                self._fill_up()
            self._fetch()
        return [self._found(key) for key in keys]

    def _fill_up(self) -> None:
        """Launch the pile once it is a full batch, as long as the decoders keep a batch to go on with.

        What a batch lacks a GPU may run as blank pictures (:meth:`descscore.encoder.Encoder.pixels`).
        """
        before = len(self._launched)
        while len(self._launched) == before:
            if len(self._jobs) > self.encoder.batch_size:
                self._accept(self.decoder.get())
            else:
                self._launch()

    def release(self, key: Key) -> None:
        """One row no longer needs this key."""
        wanted = self._wanted[key]
        wanted.rows -= 1
        if not wanted.rows:
            del self._wanted[key]

    def _want(self, key: Key) -> bool:
        """Count one more row for ``key``; True where it has to be decoded."""
        wanted = self._wanted.setdefault(key, _Wanted())
        wanted.rows += 1
        if wanted.rows == 1:
            wanted.found = self._remembered(key)
            wanted.pending = wanted.found is None
            return wanted.pending
        return False

    def _remembered(self, key: Key) -> Found | None:
        digest = self._paths.get(key) if isinstance(key, str) else key
        feature = None if digest is None else self._known.get(digest)
        return self._failed.get(key) if feature is None else feature

    def _request_picture(self, image: ImageSource) -> Key:
        """An image that is in memory already needs no worker."""
        try:
            pixels = picture_pixels(load_image(image), self.encoder.spec)
        except ImageError as error:
            key = b"picture %d" % self._next_job
            self._next_job += 1
            self._wanted[key] = _Wanted(1, False, error)
            return key
        digest = hashlib.sha256(b"pixels" + pixels.tobytes()).digest()
        if self._want(digest):
            self._decoded(digest, digest, pixels)
        return digest

    def _accept(self, answer: Decoded) -> Key:
        key = self._jobs.pop(answer.number)
        if answer.error is not None or answer.digest is None or answer.slot is None:
            error = answer.error or ImageError("damaged_image", "no answer")
            self._failed.keep(key, error)
            self._settle(key, error)
        else:
            self._paths.keep(key, answer.digest)
            self._decoded(key, answer.digest, answer.slot)
        return key

    def _decoded(self, key: Key, digest: bytes, picture: int | Pixels) -> None:
        """Put a picture on the pile unless its content is known or on its way."""
        self._wanted[key].pending = False
        known = self._known.get(digest)
        if known is not None:
            self._settle(key, known)
        elif digest in self._keys_of:
            self._keys_of[digest].append(key)
        else:
            self._keys_of[digest], self._pile[digest] = [key], picture
            if len(self._pile) >= self.encoder.batch_size:
                self._launch()
            return
        if isinstance(picture, int):
            self.decoder.release(picture)

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
        if self.encoder.device.type == "cpu" and self._batches % _GIVEN_BACK == 0:
            give_back()

    def _pixels(self, pictures: Sequence[int | Pixels]) -> Tensor:
        """A copy of the pictures, in memory that a GPU can read by itself where there is one."""
        spec = self.encoder.spec
        pinned = self.encoder.device.type == "cuda"
        shape = (len(pictures), spec.height, spec.width, 3)
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        out = pixels.numpy()
        slots = [picture for picture in pictures if isinstance(picture, int)]
        if len(slots) == len(pictures):
            self.decoder.pixels(slots, out)
            return pixels
        for place, picture in enumerate(pictures):
            out[place] = self.decoder.pixels([picture])[0] if isinstance(picture, int) else picture
        return pixels

    def _fetch(self) -> None:
        """Bring the features that the model has made to whoever waits for them."""
        for digests, features in self._launched:
            for digest, feature in zip(digests, features.cpu().numpy(), strict=True):
                self._known.keep(digest, feature)
                for key in self._keys_of.pop(digest):
                    self._settle(key, feature)
        self._launched.clear()

    def _settle(self, key: Key, found: Found) -> None:
        wanted = self._wanted.get(key)
        if wanted is not None:
            wanted.pending, wanted.found = False, found

    def _found(self, key: Key) -> Found:
        found = self._wanted[key].found
        assert found is not None  # every decoded picture has been launched and fetched
        return found


def _plain(image: os.PathLike[str] | bytearray | memoryview) -> str | bytes:
    return os.fsdecode(image) if isinstance(image, os.PathLike) else bytes(image)
