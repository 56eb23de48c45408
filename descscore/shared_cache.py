"""Loaded things by what was asked for: each made once, the least recently used let go."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedCache(Generic[T]):
    """Holds up to ``size`` values; may be used from several threads at a time.

    A thread that asks for a value that another is making waits for that one; one that
    asks for a value already made never waits.
    """

    def __init__(self, size: int) -> None:
        self._size, self._lock = size, Lock()
        self._values: OrderedDict[Hashable, Future[T]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of ``key``, made by ``make`` where there is none; its error is not kept."""
        with self._lock:
            known = self._values.get(key)
            future: Future[T] = known or Future()
            self._values[key] = future
            self._values.move_to_end(key)
            while len(self._values) > self._size:
                self._values.popitem(last=False)
        if known is None:
            self._make(key, future, make)
        return future.result()

    def clear(self) -> None:
        """Let all values go; who still holds one keeps it."""
        with self._lock:
            self._values.clear()

    def __len__(self) -> int:
        return len(self._values)

    def _make(self, key: Hashable, future: Future[T], make: Callable[[], T]) -> None:
        try:
            future.set_result(make())
        except BaseException as error:
            with self._lock:
                if self._values.get(key) is future:
                    del self._values[key]
            future.set_exception(error)
            raise
