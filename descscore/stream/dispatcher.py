"""The dispatcher process: hands images to the workers, and replaces workers that die or hang.

With many workers there are thousands of messages per second. If the scoring process handled them, the
model would wait for the interpreter's lock. So the dispatcher handles them, and exchanges messages with
the scoring process that each carry many images.
"""

from __future__ import annotations

import contextlib
import pickle
import queue
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from typing import Any

from descscore.errors import ImageError
from descscore.images import PixelSpec
from descscore.stream.worker import PoolOptions, WorkerError, end_with, image_name, start_child

_MOST_ANSWERS = 256
"""Largest number of answers in one message."""

_GATHER_SECONDS = 0.001
"""Seconds that a message waits for more answers."""

_CHUNK = 8
"""Largest number of images that a worker gets at a time."""

_TRIES = 2
"""Number of workers that die of an image before it counts as damaged."""

_START_SECONDS = 120.0
"""Seconds that a worker may take to start."""

_STARTS = 3
"""Attempts to start a worker."""

_LONGEST_WAIT = 1e6
"""Most seconds to wait for an answer, under any limit: the system refuses to wait for over 24 days."""


def main(connection_fd: int, memory_fd: int, parent: int) -> None:
    """Run the dispatcher until the parent closes the connection.

    The first message is ``(PixelSpec, PoolOptions)``. Each later one is ``(jobs, slots)``: new jobs
    ``(number, source)``, and slots of the shared memory that are free again. An answer is a list; its
    items are the fields of :class:`descscore.stream.worker.Decoded`, or an error that ends the pool.
    """
    end_with(parent)
    connection: Connection[Any, Any] = Connection(connection_fd)
    spec, options = pickle.loads(connection.recv_bytes())
    shared = Shared(spec, options, memory_fd)
    for slot in range(options.slots):
        shared.free.put(slot)
    handlers = [WorkerHandler(shared) for _ in range(options.workers)]
    threading.Thread(target=_send_answers, args=(connection, shared), daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            jobs, slots = pickle.loads(connection.recv_bytes())
            for number, source in jobs:
                shared.jobs.put(Job(number, source))
            for slot in slots:
                shared.free.put(slot)
    shared.jobs.close()
    for handler in handlers:
        handler.worker.stop()
        shared.free.put(None)
    for handler in handlers:
        handler.join()


@dataclass
class Job:
    """One image to decode."""

    number: int
    source: str | bytes
    tries: int = 0
    """Number of workers that have died of it."""


class JobQueue:
    """Jobs in order; a dead worker's jobs go back to the front."""

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
        """Wait for jobs and take one or more, up to ``1 / share`` of them; none if the queue is closed."""
        with self._changed:
            while not self._jobs and not self._closed:
                self._changed.wait()
            if self._closed:
                return []
            count = 1
            if isinstance(self._jobs[0].source, str):  # image bytes are large: one at a time
                count = max(1, min(_CHUNK, len(self._jobs) // share))
            return [self._jobs.popleft() for _ in range(count)]

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._changed.notify_all()


@dataclass(frozen=True)
class Shared:
    """The state that the threads of a dispatcher share."""

    spec: PixelSpec
    """Size of the prepared pictures."""
    options: PoolOptions
    """Settings of the pool."""
    memory_fd: int
    """File descriptor of the memory for prepared pictures."""
    jobs: JobQueue = field(default_factory=JobQueue)
    """Images that wait to be decoded."""
    free: queue.SimpleQueue[int | None] = field(default_factory=queue.SimpleQueue)
    """Free slots of the memory; None makes a thread stop."""
    answers: queue.SimpleQueue[tuple[Any, ...] | WorkerError] = field(default_factory=queue.SimpleQueue)
    """Fields of :class:`descscore.stream.worker.Decoded`, or an error that ends the pool."""


def _send_answers(connection: Connection[Any, Any], shared: Shared) -> None:
    with contextlib.suppress(OSError):  # the parent has closed the connection
        while True:
            answers = [shared.answers.get()]
            time.sleep(_GATHER_SECONDS)
            with contextlib.suppress(queue.Empty):
                while len(answers) < _MOST_ANSWERS:
                    answers.append(shared.answers.get_nowait())
            connection.send_bytes(pickle.dumps(answers))


@dataclass
class _Assignment:
    """A worker's unanswered jobs, and a slot for each."""

    jobs: list[Job]
    slots: list[int]


class WorkerHandler(threading.Thread):
    """Gives one worker its jobs and takes its answers. Starts another worker when it dies or hangs."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(name="descscore-decode", daemon=True)
        self.shared, self.worker = shared, WorkerProcess(shared)
        self.start()

    def run(self) -> None:
        shared = self.shared
        try:
            while jobs := shared.jobs.take(4 * shared.options.workers):
                assignment = self._with_slots(jobs)
                if assignment is None or not self._serve(assignment):
                    break
        except WorkerError as error:
            shared.answers.put(error)
        except Exception as error:  # noqa: BLE001 - the process that waits for answers must learn of it
            shared.answers.put(WorkerError(f"decoding failed: {error!r}"))
        finally:
            self.worker.end()

    def _with_slots(self, jobs: list[Job]) -> _Assignment | None:
        """Assign a free slot to each job; jobs without one go back to the queue. None when stopping."""
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
        return _Assignment(jobs[: len(slots)], slots)

    def _serve(self, assignment: _Assignment) -> bool:
        """Let the worker decode its jobs; those of a failed worker go back. False when stopping."""
        try:
            self._exchange(assignment)
        except (EOFError, OSError):
            self.worker.end()
            if not self.worker.stopping and assignment.jobs:
                assignment.jobs[0].tries += 1  # it may have killed the worker
                if assignment.jobs[0].tries >= _TRIES:
                    self._blame(assignment, "decoder_died", "the process that decoded it died, twice")
        for slot in assignment.slots:
            self.shared.free.put(slot)
        if assignment.jobs:
            self.shared.jobs.put_back(assignment.jobs)
        return not self.worker.stopping

    def _exchange(self, assignment: _Assignment) -> None:
        """Send the jobs and take the answers, until all have arrived or one takes too long."""
        connection = self.worker.connection()
        limit = min(self.shared.options.time_limit, _LONGEST_WAIT)
        message = [
            (job.number, slot, job.source)
            for job, slot in zip(assignment.jobs, assignment.slots, strict=True)
        ]
        connection.send_bytes(pickle.dumps(message))
        while assignment.jobs:
            if not connection.poll(limit):
                self.worker.end()
                self._blame(assignment, "image_timeout", f"not decoded in {limit:g} seconds")
                break
            self._answer(assignment, *pickle.loads(connection.recv_bytes()))

    def _blame(self, assignment: _Assignment, kind: str, reason: str) -> None:
        job = assignment.jobs[0]
        self._answer(assignment, job.number, None, ImageError(kind, f"{image_name(job.source)}: {reason}"))

    def _answer(
        self, assignment: _Assignment, number: int, digest: bytes | None, error: ImageError | None
    ) -> None:
        """Pass on the answer for the first of the jobs."""
        del assignment.jobs[0]
        slot = assignment.slots.pop(0)
        if error is not None:
            self.shared.free.put(slot)
        self.shared.answers.put((number, None if error else slot, digest, error))


class WorkerProcess:
    """One worker at a time: started when it is needed, and again after :meth:`end`."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.process: subprocess.Popen[bytes] | None = None
        self.stopping = False
        self._connection: Connection[Any, Any] | None = None

    def connection(self) -> Connection[Any, Any]:
        """The connection to the running worker; starts a worker if there is none.

        Raises:
            WorkerError: if no worker can be started.
            EOFError: when stopping.
        """
        for _ in range(_STARTS):
            if self._connection is None:
                self._connection = self._start()
            if self._connection is not None:
                return self._connection
            if self.stopping:
                raise EOFError
        raise WorkerError(f"a decoding process could not be started in {_STARTS} attempts")

    def stop(self) -> None:
        """Kill the worker for good; another thread may call this."""
        self.stopping = True
        process = self.process
        if process is not None:
            process.kill()

    def end(self) -> None:
        """Kill the worker and wait for its end."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _start(self) -> Connection[Any, Any] | None:
        """Start a worker and wait until it is ready; None if it does not get ready."""
        own_end, worker_end = Pipe()
        with worker_end:
            self.process = start_child("descscore.stream.worker", worker_end, self.shared.memory_fd)
        try:
            own_end.send_bytes(pickle.dumps((self.shared.spec, self.shared.options)))
            if not self.stopping and own_end.poll(_START_SECONDS) and own_end.recv_bytes() == b"ready":
                return own_end
        except (EOFError, OSError):
            pass
        own_end.close()
        self.end()
        return None
