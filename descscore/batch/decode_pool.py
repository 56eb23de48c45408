"""Decode images in processes of their own, which may die or hang without harm.

A process between this one and the workers (:mod:`descscore.batch.decode_server`) has a
thread for each, which hands it jobs and waits for the answers. Prepared pictures
come back in slots of shared memory; a picture's slot is taken until it is released,
which bounds how far decoding runs ahead of the model.
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
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np

from descscore.batch.decode_server import ServerSetup
from descscore.batch.decode_worker import Setup
from descscore.batch.decoder import Decoded, Pixels
from descscore.batch.worker_process import WorkerError, start_child
from descscore.preprocess import PixelSpec

_TOGETHER = 32
"""Jobs or free slots that go to the server in one message."""


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
    """Worker processes for images; use as a context manager or call :meth:`close`. For one thread.

    ``process`` is the server, whose children are the workers.
    """

    def __init__(self, spec: PixelSpec, options: PoolOptions) -> None:
        size = options.slots * spec.nbytes
        memory_fd = _shared_memory(size)
        try:
            self._memory = mmap.mmap(memory_fd, size)
            self._connection, self.process = _start_server(memory_fd)
        finally:
            os.close(memory_fd)
        self._view = np.frombuffer(self._memory, np.uint8).reshape(options.slots, spec.height, spec.width, 3)
        setup = Setup(spec, options.slots, options.function, options.niceness)
        self._jobs: list[tuple[int, str | bytes]] = []
        self._freed: list[int] = []
        self._answers: deque[tuple[Any, ...] | BaseException] = deque()
        self._send(ServerSetup(setup, options.workers, options.time_limit))

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
            self._answers.extend(self._receive())
        answer = self._answers[0]
        if isinstance(answer, BaseException):
            raise answer  # it stays, for whoever asks again
        return Decoded(*self._answers.popleft())  # type: ignore[misc]

    def pixels(self, slots: Sequence[int], out: Pixels | None = None) -> Pixels:
        # "clip", since numpy otherwise fills a buffer first, for the case of a wrong slot.
        return np.take(self._view, list(slots), axis=0, out=out, mode="clip")

    def release(self, slot: int) -> None:
        self._freed.append(slot)
        if len(self._freed) >= _TOGETHER:
            self.flush()

    def close(self) -> None:
        self._connection.close()  # at which the server ends its workers and itself
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()  # the workers die with it
            self.process.wait()

    def _send(self, message: object) -> None:
        with contextlib.suppress(OSError):  # whoever waits for an answer hears of it
            self._connection.send_bytes(pickle.dumps(message))

    def _receive(self) -> list[tuple[Any, ...] | BaseException]:
        try:
            found: list[tuple[Any, ...] | BaseException] = pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise WorkerError("the process that hands images out to the decoders has ended") from None
        return found


def _start_server(memory_fd: int) -> tuple[Connection[Any, Any], subprocess.Popen[bytes]]:
    here, there = Pipe()
    with there:
        process = start_child("descscore.batch.decode_server", there, memory_fd)
    return here, process


def _shared_memory(size: int) -> int:
    """A descriptor of ``size`` bytes of memory without a name, so that nothing is left behind."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("descscore")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor
