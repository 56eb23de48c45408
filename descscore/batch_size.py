"""How many images or texts go through the model at a time: found by itself, halved when memory runs out."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import torch

from descscore.errors import ModelError

log = logging.getLogger(__name__)

T = TypeVar("T")

CPU_BATCH = 32
_FIRST, _LAST, _GAIN = 64, 1024, 1.05
_TRIALS = 3


class BatchSize:
    """A batch size that only shrinks; results do not depend on it."""

    def __init__(self, value: int) -> None:
        self.value = value

    def next_size(self, count: int) -> int:
        """The smallest of few sizes that holds ``count`` rows: a full batch, half of one, a quarter ..."""
        size = self.value
        while size > 1 and (size + 1) // 2 >= count:
            size = (size + 1) // 2
        return max(size, count)

    def run(self, count: int, function: Callable[[slice], T]) -> list[T]:
        """``function`` of slices that cover ``range(count)`` in order.

        A slice that does not fit into memory is halved, and so are all that follow.
        Raises :class:`ModelError` where even one row does not fit.
        """
        return self._run(count, lambda start: start + self.value, function)

    def run_lengths(self, lengths: Sequence[int], full: int, function: Callable[[slice], T]) -> list[T]:
        """As :meth:`run`, for rows of rising ``lengths``: as many at a time as take, padded to
        the longest of them, no more room than a batch of rows of length ``full``.
        """

        def stop_after(start: int) -> int:
            stop = start + 1
            if self.value == 1:
                return stop
            while stop < len(lengths) and (stop + 1 - start) * lengths[stop] <= self.value * full:
                stop += 1
            return stop

        return self._run(len(lengths), stop_after, function)

    def _run(self, count: int, stop_after: Callable[[int], int], function: Callable[[slice], T]) -> list[T]:
        parts: list[T] = []
        start = 0
        while start < count:
            part = slice(start, min(stop_after(start), count))
            try:
                parts.append(function(part))
                start = part.stop
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(part.stop - part.start, error)
            # Outside the handler, where the traceback no longer holds the failed batch.
            release_memory()
        return parts

    def _halve(self, tried: int, error: BaseException) -> None:
        if tried == 1:
            raise ModelError(f"out of memory with a single row: {error}") from error
        self.value = max(1, min(tried, self.value) // 2)
        log.warning("out of memory with a batch of %d; going on with a batch size of %d", tried, self.value)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, on a device or on the host."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text


def release_memory() -> None:
    """Give back what failed batches left behind."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def find_batch_size(
    run: Callable[[int], None],
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """The batch size from which on a larger one gains less than 5 % of rate.

    run: passes a batch of that size through the model and waits for it. On a CPU no
    trial is made: its rate hardly depends on the batch, and a trial takes seconds.
    """
    if device.type == "cpu":
        return CPU_BATCH
    best, size, rate = _FIRST, _FIRST, 0.0
    while size <= _LAST:
        found = _rate(run, size, clock)
        if found < rate * _GAIN:
            break
        best, rate, size = size, found, size * 2
    return best


def _rate(run: Callable[[int], None], size: int, clock: Callable[[], float]) -> float:
    """Rows a second, the best of some passes after one to warm up; 0 where the batch does not fit."""
    try:
        run(size)
        times = [clock()]
        for _ in range(_TRIALS):
            run(size)
            times.append(clock())
        return size / max(min(after - before for before, after in pairwise(times)), 1e-9)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    release_memory()
    return 0.0
