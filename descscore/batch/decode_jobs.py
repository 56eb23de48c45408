"""Images that wait to be decoded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

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
