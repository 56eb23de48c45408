"""A thread that hands one worker its images and waits for the answers."""

from __future__ import annotations

import pickle
import queue
import threading
from dataclasses import dataclass, field

from descscore.batch.decode_jobs import Job, JobQueue
from descscore.batch.decode_worker import Setup
from descscore.batch.decoder import Decoded
from descscore.batch.worker_process import WorkerProcess
from descscore.errors import ImageError

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
