"""A process that hands images out to decoding workers, so that the scoring process need not.

With many workers that is thousands of messages a second. In the scoring process they would take the
interpreter's lock from the model; here each message to and from it carries many images.
"""

from __future__ import annotations

import contextlib
import pickle
import queue
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from descscore.batch.decode_hand import Hand, Shared
from descscore.batch.decode_jobs import Job
from descscore.batch.decode_worker import Setup, end_with
from descscore.batch.decoder import Decoded
from descscore.batch.worker_process import WorkerError

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
