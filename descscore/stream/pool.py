"""Decode images ahead of the model, in a pool of worker processes or in this process.

Why not a library's pool? Pebble's ``ProcessPool`` (5.2, two workers, forkserver) decodes JPEG files of
256 x 256 and 1600 x 1200 about as fast: it takes 1.02 times as long with shared memory, and up to 1.12 times
with pickled pixels. But many cores that feed a GPU need fast messages. With pictures that need no decoding,
``ProcessPool`` hands out 1,570 images per second to two workers, and this pool 9,000. Per image it takes 0.09
to 0.28 ms of the scoring process, and this pool 0.02 ms (medians of 5 alternating rounds).

Three promises would also need our own code. The system may kill a worker of an idle pool when memory runs
out: this breaks a ``ProcessPool`` for good, but here the worker is replaced. A worker that hangs in a decoder
dies with the scoring process, even if that process is killed. A script needs no
``if __name__ == "__main__"``, and workers do not import what the script imports.
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

    If a worker dies or hangs, the image's row fails, and another worker takes over. Workers write
    prepared pictures into slots of shared memory. A slot is in use until it is released, so the number
    of slots bounds how far decoding runs ahead of the model. Use the pool from one thread, as a context
    manager or with :meth:`close`. ``process`` is the dispatcher, the parent of the workers.
    """

    def __init__(self, spec: PixelSpec, options: PoolOptions) -> None:
        size = options.slots * spec.nbytes
        memory_fd = _shared_memory(size)
        try:
            self._memory = mmap.mmap(memory_fd, size)
            self._connection, dispatcher_end = Pipe()
            with dispatcher_end:
                self.process = start_child("descscore.stream.dispatcher", dispatcher_end, memory_fd)
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
            raise answer  # it stays in the queue, because the pool has ended
        return Decoded(*self._answers.popleft())  # type: ignore[misc]

    def pixels(self, slots: Sequence[int], out: Pixels) -> None:
        # With another mode, numpy fills a buffer first, in case a slot is out of range.
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
        with contextlib.suppress(OSError):  # if the dispatcher has ended, the next get() raises an error
            self._connection.send_bytes(pickle.dumps(message))

    def _receive(self) -> None:
        try:
            self._answers.extend(pickle.loads(self._connection.recv_bytes()))
        except (EOFError, OSError):
            raise WorkerError("the process that hands images to the decoders has ended") from None


class InlineDecoder:
    """Decodes in this process, one image per answer; for a few images, or a single core."""

    def __init__(self, spec: PixelSpec) -> None:
        self.spec = spec
        self._jobs: deque[tuple[int, str | bytes]] = deque()
        self._pictures: dict[int, Pixels] = {}

    def submit(self, number: int, source: str | bytes) -> None:
        self._jobs.append((number, source))

    def flush(self) -> None:
        pass

    def get(self) -> Decoded:
        number, source = self._jobs.popleft()
        try:
            self._pictures[number], digest = prepare(source, self.spec)
        except ImageError as error:
            return Decoded(number, None, None, error)
        return Decoded(number, number, digest)

    def pixels(self, slots: Sequence[int], out: Pixels) -> None:
        np.stack([self._pictures[slot] for slot in slots], out=out)

    def release(self, slot: int) -> None:
        del self._pictures[slot]

    def close(self) -> None:
        self._jobs.clear()
        self._pictures.clear()


def _shared_memory(size: int) -> int:
    """A file descriptor of ``size`` bytes of memory. It has no name, so no file can be left behind."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("descscore")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor
