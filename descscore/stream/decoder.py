"""A thread that hands one worker its images and waits for the answers."""

from __future__ import annotations

import hashlib
import pickle
import queue
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np

from descscore.errors import ImageError
from descscore.images import PixelSpec
from descscore.stream.worker import Setup, WorkerProcess, prepare

# Images that wait to be decoded.


_CHUNK = 8
"""Most images that a worker is given at a time."""


@dataclass
class Job:
    """One image. tries: how many workers have died of it."""

    number: int
    source: str | bytes
    tries: int = 0

    @property
    def name(self) -> str:
        """What the image is called in errors."""
        return "image bytes" if isinstance(self.source, bytes) else self.source


class JobQueue:
    """Jobs in order; those of a worker that died go to the front again."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, job: Job) -> None:
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def put_back(self, jobs: Sequence[Job]) -> None:
        with self._changed:
            self._jobs.extendleft(reversed(jobs))
            self._changed.notify_all()

    def take(self, share: int) -> list[Job]:
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


# What turns image files into prepared pictures: its form, and one that works in this process.


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
    """What :class:`descscore.stream.pool.DecodePool` and :class:`InlineDecoder` have in common."""

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


_TRIES = 2
"""Workers that an image may bring down before it is blamed."""


@dataclass(frozen=True)
class Shared:
    """What all hands of a pool share. setup: of the workers. memory_fd: where prepared pictures go.
    time_limit: seconds for one image. share: a hand takes this part of what waits. free: slots
    in the memory, None to stop. answers: what was decoded, or an error that ends the pool.
    """

    setup: Setup
    memory_fd: int
    time_limit: float
    share: int
    jobs: JobQueue = field(default_factory=JobQueue)
    free: queue.SimpleQueue[int | None] = field(default_factory=queue.SimpleQueue)
    answers: queue.SimpleQueue[Decoded | BaseException] = field(default_factory=queue.SimpleQueue)


@dataclass
class _Lot:
    """What a worker has been given: jobs not yet answered, with their slots."""

    jobs: list[Job]
    slots: list[int]


class Hand(threading.Thread):
    """Runs one worker, and another where it dies or hangs."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(name="descscore-decode", daemon=True)
        self.shared = shared
        self.worker = WorkerProcess(shared.setup, shared.memory_fd)
        self.start()

    def run(self) -> None:
        shared = self.shared
        try:
            while jobs := shared.jobs.take(shared.share):
                lot = self._with_slots(jobs)
                if lot is None or not self._serve(lot):
                    break
        except Exception as error:  # noqa: BLE001 - whoever waits for answers must hear of it
            shared.answers.put(error)
        finally:
            self.worker.end()

    def _with_slots(self, jobs: list[Job]) -> _Lot | None:
        """A slot for each job; jobs for which there is none now go back. None when stopping."""
        first = self.shared.free.get()
        if first is None:
            return None
        slots = [first]
        while len(slots) < len(jobs):
            try:
                slot = self.shared.free.get_nowait()
            except queue.Empty:
                break
            if slot is None:
                return None
            slots.append(slot)
        self.shared.jobs.put_back(jobs[len(slots) :])
        return _Lot(jobs[: len(slots)], slots)

    def _serve(self, lot: _Lot) -> bool:
        """Have the lot decoded. What a dead or hung worker leaves goes back; False when stopping."""
        try:
            self._exchange(lot)
        except (EOFError, OSError):
            self.worker.end()
            if not self.worker.stopping and lot.jobs:
                self._died(lot)
        self._give_back(lot)
        return not self.worker.stopping

    def _exchange(self, lot: _Lot) -> None:
        """Send the lot and take its answers, up to one that does not come in time."""
        connection, limit = self.worker.connection(), self.shared.time_limit
        message = [(job.number, slot, job.source) for job, slot in zip(lot.jobs, lot.slots, strict=True)]
        connection.send_bytes(pickle.dumps(message))
        while lot.jobs:
            if not connection.poll(limit):
                self.worker.end()
                self._blame(lot, "image_timeout", f"not decoded in {limit:g} seconds")
                break
            self._take(lot, *pickle.loads(connection.recv_bytes()))

    def _take(self, lot: _Lot, number: int, digest: bytes | None, error: ImageError | None) -> None:
        del lot.jobs[0]
        slot = lot.slots.pop(0)
        if error is not None:
            self.shared.free.put(slot)
        self.shared.answers.put(Decoded(number, None if error else slot, digest, error))

    def _died(self, lot: _Lot) -> None:
        """The first open job may have killed the worker: it is tried once more, then blamed."""
        lot.jobs[0].tries += 1
        if lot.jobs[0].tries >= _TRIES:
            self._blame(lot, "decoder_died", "the process that decoded it died, twice")

    def _blame(self, lot: _Lot, kind: str, reason: str) -> None:
        job = lot.jobs[0]
        self._take(lot, job.number, None, ImageError(kind, f"{job.name}: {reason}"))

    def _give_back(self, lot: _Lot) -> None:
        for slot in lot.slots:
            self.shared.free.put(slot)
        if lot.jobs:
            self.shared.jobs.put_back(lot.jobs)
