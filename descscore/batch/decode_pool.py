"""Decode images in processes of their own, which may die or hang without harm.

A thread for each worker hands it jobs and waits for the answers. Prepared pictures
come back in slots of shared memory; a picture's slot is taken until it is released,
which bounds how far decoding runs ahead of the model.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from typing import Any, Protocol

import numpy as np

from descscore.batch.decode_worker import Setup, prepare
from descscore.errors import DescscoreError, ImageError
from descscore.preprocess import PixelSpec

START_SECONDS = 120.0
"""How long a worker may take to start."""

_CHUNK = 8
_TRIES = 2
_BAD_STARTS = 3


class WorkerError(DescscoreError):
    """No decoding worker can be started."""

    kind = "worker"


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


@dataclass(frozen=True)
class Decoded:
    """An answer. digest: SHA-256 of the image file. slot: where its pixels are; None with an error."""

    number: int
    slot: int | None
    digest: bytes | None
    error: ImageError | None


class Decoder(Protocol):
    """What :class:`DecodePool` and :class:`InlineDecoder` have in common."""

    def submit(self, number: int, source: str | bytes) -> None:
        """Ask for one image; its answer will bear ``number``."""

    def get(self) -> Decoded:
        """The next answer, in whatever order they come. Only to be called with jobs open."""

    def pixels(self, slots: Sequence[int]) -> np.ndarray[Any, Any]:
        """A copy of prepared pictures: ``(len(slots), height, width, 3)`` uint8."""

    def release(self, slot: int) -> None:
        """Free a slot whose pixels are no longer needed."""

    def close(self) -> None:
        """Stop all workers; open jobs are dropped."""


@dataclass
class _Job:
    number: int
    source: str | bytes
    tries: int = 0


class InlineDecoder:
    """Decodes in this process when an answer is asked for: for a few images, or one core."""

    def __init__(self, spec: PixelSpec) -> None:
        self.spec = spec
        self._jobs: deque[_Job] = deque()
        self._held: dict[int, np.ndarray[Any, Any]] = {}

    def submit(self, number: int, source: str | bytes) -> None:
        self._jobs.append(_Job(number, source))

    def get(self) -> Decoded:
        job = self._jobs.popleft()
        try:
            self._held[job.number], digest = prepare(job.source, self.spec)
        except ImageError as error:
            return Decoded(job.number, None, None, error)
        return Decoded(job.number, job.number, digest, None)

    def pixels(self, slots: Sequence[int]) -> np.ndarray[Any, Any]:
        return np.stack([self._held[slot] for slot in slots])

    def release(self, slot: int) -> None:
        del self._held[slot]

    def close(self) -> None:
        self._jobs.clear()
        self._held.clear()


class DecodePool:
    """Worker processes for images; use as a context manager or call :meth:`close`."""

    def __init__(self, spec: PixelSpec, options: PoolOptions) -> None:
        self.spec, self.options = spec, options
        self._memory_fd = _shared_memory(options.slots * spec.nbytes)
        self._memory = mmap.mmap(self._memory_fd, options.slots * spec.nbytes)
        self._view = np.frombuffer(self._memory, np.uint8).reshape(options.slots, spec.height, spec.width, 3)
        self._jobs = _JobQueue()
        self._free: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        for slot in range(options.slots):
            self._free.put(slot)
        self._answers: queue.SimpleQueue[Decoded | BaseException] = queue.SimpleQueue()
        self._hands = [_Hand(self) for _ in range(options.workers)]

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, number: int, source: str | bytes) -> None:
        self._jobs.put(_Job(number, source))

    def get(self) -> Decoded:
        answer = self._answers.get()
        if isinstance(answer, BaseException):
            self._answers.put(answer)  # for whoever asks again
            raise answer
        return answer

    def pixels(self, slots: Sequence[int]) -> np.ndarray[Any, Any]:
        return self._view[list(slots)]

    def release(self, slot: int) -> None:
        self._free.put(slot)

    def close(self) -> None:
        self._jobs.close()
        for hand in self._hands:
            hand.stop()
            self._free.put(None)
        for hand in self._hands:
            hand.join()
        if self._memory_fd >= 0:
            os.close(self._memory_fd)
            self._memory_fd = -1

    def processes(self) -> list[int]:
        """Process ids of the workers that run now."""
        return [hand.process.pid for hand in self._hands if hand.process is not None]


def _shared_memory(size: int) -> int:
    """A descriptor of ``size`` bytes of memory without a name, so that nothing is left behind."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("descscore")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor


class _JobQueue:
    """Jobs in order; those of a worker that died go to the front again."""

    def __init__(self) -> None:
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, job: _Job) -> None:
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def put_back(self, jobs: Sequence[_Job]) -> None:
        with self._changed:
            self._jobs.extendleft(reversed(jobs))
            self._changed.notify_all()

    def take(self, share: int) -> list[_Job]:
        """Up to a ``share``-th of what waits, at least one job; none once the queue is closed."""
        with self._changed:
            while not self._jobs and not self._closed:
                self._changed.wait()
            if self._closed:
                return []
            count = 1
            if isinstance(self._jobs[0].source, str):
                count = max(1, min(_CHUNK, len(self._jobs) // share))
            return [self._jobs.popleft() for _ in range(count)]

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._changed.notify_all()


@dataclass
class _Lot:
    """What a worker has been given: jobs not yet answered, with their slots."""

    jobs: list[_Job]
    slots: list[int] = field(default_factory=list)


class _Hand(threading.Thread):
    """Runs one worker, and another where it dies or hangs."""

    def __init__(self, pool: DecodePool) -> None:
        super().__init__(name="descscore-decode", daemon=True)
        self.pool = pool
        self.process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._stopping = False
        self._bad_starts = 0
        self.start()

    def run(self) -> None:
        pool = self.pool
        try:
            while jobs := pool._jobs.take(4 * pool.options.workers):
                lot = self._with_slots(jobs)
                if lot is None or not self._serve(lot):
                    break
        except Exception as error:  # noqa: BLE001 - whoever waits for answers must hear of it
            pool._answers.put(error)
        finally:
            self._end_worker()

    def stop(self) -> None:
        """May be called by another thread, also while this one waits for an answer."""
        self._stopping = True
        process = self.process
        if process is not None:
            process.kill()

    def _with_slots(self, jobs: list[_Job]) -> _Lot | None:
        """A slot for each job; jobs for which there is none now go back. None when stopping."""
        pool = self.pool
        first = pool._free.get()
        if first is None:
            return None
        slots = [first]
        while len(slots) < len(jobs):
            try:
                slot = pool._free.get_nowait()
            except queue.Empty:
                break
            if slot is None:
                return None
            slots.append(slot)
        pool._jobs.put_back(jobs[len(slots) :])
        return _Lot(jobs[: len(slots)], slots)

    def _serve(self, lot: _Lot) -> bool:
        """Have the lot decoded. What a dead or hung worker leaves goes back; False when stopping."""
        try:
            connection = self._worker()
            message = [(job.number, slot, job.source) for job, slot in zip(lot.jobs, lot.slots, strict=True)]
            connection.send_bytes(pickle.dumps(message))
            while lot.jobs:
                if not connection.poll(self.pool.options.time_limit):
                    self._end_worker()
                    self._blame(
                        lot, "image_timeout", f"not decoded in {self.pool.options.time_limit:g} seconds"
                    )
                    break
                self._take(lot, *pickle.loads(connection.recv_bytes()))
        except (EOFError, OSError):
            self._end_worker()
            if not self._stopping and lot.jobs:
                self._died(lot)
        self._give_back(lot)
        return not self._stopping

    def _take(self, lot: _Lot, number: int, digest: bytes | None, error: ImageError | None) -> None:
        del lot.jobs[0]
        slot = lot.slots.pop(0)
        if error is not None:
            self.pool._free.put(slot)
        self.pool._answers.put(Decoded(number, None if error else slot, digest, error))

    def _died(self, lot: _Lot) -> None:
        """The first open job may have killed the worker: it is tried once more, then blamed."""
        lot.jobs[0].tries += 1
        if lot.jobs[0].tries >= _TRIES:
            self._blame(lot, "decoder_died", "the process that decoded it died, twice")

    def _blame(self, lot: _Lot, kind: str, reason: str) -> None:
        job = lot.jobs[0]
        self._take(lot, job.number, None, ImageError(kind, f"{_called(job.source)}: {reason}"))

    def _give_back(self, lot: _Lot) -> None:
        for slot in lot.slots:
            self.pool._free.put(slot)
        if lot.jobs:
            self.pool._jobs.put_back(lot.jobs)

    def _worker(self) -> Connection[Any, Any]:
        """The connection to the running worker; starts one where there is none."""
        while self._connection is None:
            connection = self._start()
            if connection is not None:
                self._connection, self._bad_starts = connection, 0
                break
            self._bad_starts += 1
            if self._stopping:
                raise EOFError
            if self._bad_starts >= _BAD_STARTS:
                raise WorkerError(f"a decoding process could not be started in {_BAD_STARTS} attempts")
        return self._connection

    def _start(self) -> Connection[Any, Any] | None:
        """Start a worker and wait until it is ready; None where it does not come up."""
        pool = self.pool
        here, there = Pipe()
        # The interpreter's own search path, so that it runs the package that this process runs.
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from descscore.batch.decode_worker import main; "
            f"main({there.fileno()}, {pool._memory_fd}, {os.getpid()})"
        )
        fds = (there.fileno(), pool._memory_fd)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], pass_fds=fds, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        there.close()
        options = pool.options
        setup = Setup(pool.spec, options.slots, options.function, options.niceness)
        try:
            here.send_bytes(pickle.dumps(setup))
            if not self._stopping and here.poll(START_SECONDS) and here.recv_bytes() == b"ready":
                return here
        except (EOFError, OSError):
            pass
        here.close()
        self._end_worker()
        return None

    def _end_worker(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _called(source: str | bytes) -> str:
    return "image bytes" if isinstance(source, bytes) else source


def content_digest(data: bytes) -> bytes:
    """What makes two images the same: the SHA-256 of their files' bytes."""
    return hashlib.sha256(data).digest()
