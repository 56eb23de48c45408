"""What turns image files into prepared pictures: its form, and one that works in this process."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from descscore.batch.decode_worker import prepare
from descscore.errors import ImageError
from descscore.preprocess import PixelSpec

Pixels: TypeAlias = "np.ndarray[Any, Any]"
"""Prepared pictures: ``(n, height, width, 3)`` uint8."""


@dataclass(frozen=True)
class Decoded:
    """An answer. digest: SHA-256 of the image file. slot: where its pixels are; None with an error."""

    number: int
    slot: int | None
    digest: bytes | None
    error: ImageError | None


class Decoder(Protocol):
    """What :class:`descscore.batch.decode_pool.DecodePool` and :class:`InlineDecoder` have in common."""

    def submit(self, number: int, source: str | bytes) -> None:
        """Ask for one image; its answer will bear ``number``."""

    def get(self) -> Decoded:
        """The next answer, in whatever order they come. Only to be called with jobs open."""

    def flush(self) -> None:
        """Begin with all that was asked for; until then some of it may wait for more."""

    def pixels(self, slots: Sequence[int], out: Pixels | None = None) -> Pixels:
        """A copy of the prepared pictures in ``slots``, in ``out`` where that is given."""

    def release(self, slot: int) -> None:
        """Free a slot whose pixels are no longer needed."""

    def close(self) -> None:
        """Stop all workers; open jobs are dropped."""


class InlineDecoder:
    """Decodes in this process when an answer is asked for: for a few images, or one core."""

    def __init__(self, spec: PixelSpec) -> None:
        self.spec = spec
        self._jobs: deque[tuple[int, str | bytes]] = deque()
        self._held: dict[int, Pixels] = {}

    def submit(self, number: int, source: str | bytes) -> None:
        self._jobs.append((number, source))

    def get(self) -> Decoded:
        number, source = self._jobs.popleft()
        try:
            self._held[number], digest = prepare(source, self.spec)
        except ImageError as error:
            return Decoded(number, None, None, error)
        return Decoded(number, number, digest, None)

    def flush(self) -> None:
        pass

    def pixels(self, slots: Sequence[int], out: Pixels | None = None) -> Pixels:
        return np.stack([self._held[slot] for slot in slots], out=out)

    def release(self, slot: int) -> None:
        del self._held[slot]

    def close(self) -> None:
        self._jobs.clear()
        self._held.clear()


def content_digest(data: bytes) -> bytes:
    """What makes two images the same: the SHA-256 of their files' bytes."""
    return hashlib.sha256(data).digest()
