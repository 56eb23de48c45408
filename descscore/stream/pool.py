"""Decode images in processes of their own, which may die or hang without harm.

A process between this one and the workers (:mod:`descscore.stream.pool`) has a
thread for each, which hands it jobs and waits for the answers. Prepared pictures
come back in slots of shared memory; a picture's slot is taken until it is released,
which bounds how far decoding runs ahead of the model.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import queue
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np

from descscore.images import PixelSpec
from descscore.stream.decoder import Decoded, Hand, Job, Pixels, Shared
from descscore.stream.worker import Setup, WorkerError, end_with, start_child

# A process that hands images out to decoding workers, so that the scoring process need not.
#
# With many workers that is thousands of messages a second. In the scoring process they would take the
# interpreter's lock from the model; here each message to and from it carries many images.


_MOST, _GATHER_SECONDS = 256, 0.001
"""Answers of one message at most, and how long it waits for more than one."""


@dataclass(frozen=True)
class ServerSetup:
    """What the process is told when it starts. workers: processes. time_limit: seconds for one image."""

    setup: Setup
    workers: int
    time_limit: float


def main(connection_fd: int, memory_fd: int, parent: int) -> None:
    """Take messages ``(jobs, slots to free)`` until the parent closes the connection."""
    end_with(parent)
    connection = Connection(connection_fd)
    asked: ServerSetup = pickle.loads(connection.recv_bytes())
    shared = Shared(asked.setup, memory_fd, asked.time_limit, share=4 * asked.workers)
    for slot in range(asked.setup.slots):
        shared.free.put(slot)
    hands = [Hand(shared) for _ in range(asked.workers)]
    threading.Thread(target=_answer, args=(connection, shared), daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            jobs, slots = pickle.loads(connection.recv_bytes())
            for number, source in jobs:
                shared.jobs.put(Job(number, source))
            for slot in slots:
                shared.free.put(slot)
    _stop(shared, hands)


def _stop(shared: Shared, hands: list[Hand]) -> None:
    shared.jobs.close()
    for hand in hands:
        hand.worker.stop()
        shared.free.put(None)
    for hand in hands:
        hand.join()


def _answer(connection: Connection[Any, Any], shared: Shared) -> None:
    """Send what has been decoded, and an error that ends the pool."""
    with contextlib.suppress(OSError):  # the parent has closed the connection
        while True:
            found = [shared.answers.get()]
            time.sleep(_GATHER_SECONDS)
            with contextlib.suppress(queue.Empty):
                while len(found) < _MOST:
                    found.append(shared.answers.get_nowait())
            connection.send_bytes(pickle.dumps([_plain(each) for each in found]))


def _plain(answer: Decoded | BaseException) -> tuple[Any, ...] | BaseException:
    """An answer as it travels: a tuple, which is quicker than an object, or an error that can."""
    if isinstance(answer, Decoded):
        return answer.number, answer.slot, answer.digest, answer.error
    return answer if isinstance(answer, WorkerError) else WorkerError(f"decoding failed: {answer!r}")


_TOGETHER = 32
"""Jobs or free slots that go to the server in one message."""


@dataclass(frozen=True)
class PoolOptions:
    """workers: processes. slots: prepared pictures held at a time. time_limit: seconds for
    one image. function, niceness: see :class:`descscore.stream.worker.Setup`.
    """

    workers: int
    slots: int
    time_limit: float = 60.0
    function: str = "descscore.stream.worker:prepare"
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
        process = start_child("descscore.stream.pool", there, memory_fd)
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
