"""Decode images ahead of the model: by a pool of worker processes, or in this process.

Why this pool and not a library's: Pebble's ``ProcessPool`` (5.2, two workers, forkserver) decodes JPEG
files of 256 x 256 and 1600 x 1200 about as fast: it takes 1.02 times the time with shared memory, and up to
1.12 times with pickled pixels. But with pictures that take no decoding, as when many cores feed a GPU, it
hands 1,570 images a second to two workers and this pool 9,000, and for each image it takes 0.09 to 0.28 ms
of the scoring process and this pool 0.02 ms (medians of 5 rounds in turn). Also, three promises would need
code of our own. A worker that is killed while the pool is idle, as the system does when memory runs out,
breaks a ``ProcessPool`` for good; here it is replaced. A worker that hangs in a decoder dies with the
scoring process even when that is killed. A script needs no ``if __name__ == "__main__"``, and its workers
do not import what the script imports.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import subprocess
import tempfile
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Pipe
from typing import Any

import numpy as np

from descscore.errors import ImageError
from descscore.images import PixelSpec
from descscore.stream.worker import Decoded, Pixels, PoolOptions, WorkerError, prepare, start_child

_TOGETHER = 32
"""Jobs or free slots that go to the dispatcher in one message."""


class DecodePool:
    """Worker processes that decode images; a :class:`descscore.stream.image_features.Decoder`.

    The workers may die or hang: that costs the row of the image, and another worker takes over. They
    write prepared pictures into slots of shared memory. A slot is in use until it is released, which
    bounds how far decoding runs ahead of the model. Use the pool in one thread, as a context manager or
    with :meth:`close`. ``process`` is the dispatcher, the parent of the workers.
    """

    def __init__(self, spec: PixelSpec, options: PoolOptions) -> None:
        size = options.slots * spec.nbytes
        memory_fd = _shared_memory(size)
        try:
            self._memory = mmap.mmap(memory_fd, size)
            self._connection, there = Pipe()
            with there:
                self.process = start_child("descscore.stream.dispatcher", there, memory_fd)
        finally:
            os.close(memory_fd)
        self._view = np.frombuffer(self._memory, np.uint8).reshape(options.slots, spec.height, spec.width, 3)
        self._jobs: list[tuple[int, str | bytes]] = []
        self._freed: list[int] = []
        self._answers: deque[tuple[Any, ...] | WorkerError] = deque()
        self._send((spec, options))

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, number: int, source: str | bytes) -> None:
        self._jobs.append((number, source))
        if len(self._jobs) >= _TOGETHER:
            self.flush()

    def flush(self) -> None:
        if self._jobs or self._freed:
            self._send((self._jobs, self._freed))
            self._jobs, self._freed = [], []

    def get(self) -> Decoded:
        if not self._answers:
            self.flush()
            self._receive()
        answer = self._answers[0]
        if isinstance(answer, WorkerError):
            raise answer  # it stays first in the queue: the pool has ended
        return Decoded(*self._answers.popleft())  # type: ignore[misc]

    def pixels(self, slots: Sequence[int], out: Pixels) -> None:
        # "clip", because numpy otherwise fills a buffer first, in case a slot is out of range.
        np.take(self._view, list(slots), axis=0, out=out, mode="clip")

    def release(self, slot: int) -> None:
        self._freed.append(slot)
        if len(self._freed) >= _TOGETHER:
            self.flush()

    def close(self) -> None:
        self._connection.close()  # the dispatcher then ends its workers and itself
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()  # the workers die with it
            self.process.wait()

    def _send(self, message: object) -> None:
        with contextlib.suppress(OSError):  # the next get() raises that the dispatcher has ended
            self._connection.send_bytes(pickle.dumps(message))

    def _receive(self) -> None:
        try:
            self._answers.extend(pickle.loads(self._connection.recv_bytes()))
        except (EOFError, OSError):
            raise WorkerError("the process that hands images out to the decoders has ended") from None


class InlineDecoder:
    """Decodes in this process, when an answer is asked for: for a few images, or one core."""

    def __init__(self, spec: PixelSpec) -> None:
        self.spec = spec
        self._jobs: deque[tuple[int, str | bytes]] = deque()
        self._held: dict[int, Pixels] = {}

    def submit(self, number: int, source: str | bytes) -> None:
        self._jobs.append((number, source))

    def flush(self) -> None:
        pass

    def get(self) -> Decoded:
        number, source = self._jobs.popleft()
        try:
            self._held[number], digest = prepare(source, self.spec)
        except ImageError as error:
            return Decoded(number, None, None, error)
        return Decoded(number, number, digest)

    def pixels(self, slots: Sequence[int], out: Pixels) -> None:
        np.stack([self._held[slot] for slot in slots], out=out)

    def release(self, slot: int) -> None:
        del self._held[slot]

    def close(self) -> None:
        self._jobs.clear()
        self._held.clear()


def _shared_memory(size: int) -> int:
    """A file descriptor of ``size`` bytes of memory; it has no name, so nothing can be left behind."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("descscore")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor
