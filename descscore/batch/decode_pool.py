"""Decode images in processes of their own, which may die or hang without harm.

A thread for each worker hands it jobs and waits for the answers. Prepared pictures
come back in slots of shared memory; a picture's slot is taken until it is released,
which bounds how far decoding runs ahead of the model.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from descscore.batch.decode_hand import Hand, Shared
from descscore.batch.decode_jobs import Job
from descscore.batch.decode_worker import Setup
from descscore.batch.decoder import Decoded
from descscore.preprocess import PixelSpec


@dataclass(frozen=True)
class PoolOptions:
    """workers: processes. slots: prepared pictures held at a time. time_limit: seconds for
    one image. function, niceness: see :class:`descscore.batch.decode_worker.Setup`.
    """

    workers: int
    slots: int
    time_limit: float = 60.0
    function: str = "descscore.batch.decode_worker:prepare"
    niceness: int = 0


class DecodePool:
    """Worker processes for images; use as a context manager or call :meth:`close`."""

    def __init__(self, spec: PixelSpec, options: PoolOptions) -> None:
        self._memory_fd = _shared_memory(options.slots * spec.nbytes)
        self._memory = mmap.mmap(self._memory_fd, options.slots * spec.nbytes)
        self._view = np.frombuffer(self._memory, np.uint8).reshape(options.slots, spec.height, spec.width, 3)
        setup = Setup(spec, options.slots, options.function, options.niceness)
        self._shared = Shared(setup, self._memory_fd, options.time_limit, share=4 * options.workers)
        for slot in range(options.slots):
            self._shared.free.put(slot)
        self._hands = [Hand(self._shared) for _ in range(options.workers)]

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, number: int, source: str | bytes) -> None:
        self._shared.jobs.put(Job(number, source))

    def get(self) -> Decoded:
        answer = self._shared.answers.get()
        if isinstance(answer, BaseException):
            self._shared.answers.put(answer)  # for whoever asks again
            raise answer
        return answer

    def pixels(self, slots: Sequence[int]) -> np.ndarray[Any, Any]:
        return self._view[list(slots)]

    def release(self, slot: int) -> None:
        self._shared.free.put(slot)

    def close(self) -> None:
        self._shared.jobs.close()
        for hand in self._hands:
            hand.worker.stop()
            self._shared.free.put(None)
        for hand in self._hands:
            hand.join()
        if self._memory_fd >= 0:
            os.close(self._memory_fd)
            self._memory_fd = -1

    def processes(self) -> list[int]:
        """Process ids of the workers that run now."""
        return [hand.worker.process.pid for hand in self._hands if hand.worker.process is not None]


def _shared_memory(size: int) -> int:
    """A descriptor of ``size`` bytes of memory without a name, so that nothing is left behind."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("descscore")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor
