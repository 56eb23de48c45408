"""Who hears how far a run has come: nobody, or a bar on standard error."""

from __future__ import annotations

from typing import Any, Protocol


class Progress(Protocol):
    """Hears of the rows to do, and of rows done."""

    def begin(self, total: int, done: int) -> None: ...

    def advance(self, rows: int) -> None: ...


class Quiet:
    """No progress is shown."""

    def begin(self, total: int, done: int) -> None:
        pass

    def advance(self, rows: int) -> None:
        pass


QUIET = Quiet()


class Bar:
    """Shows rows done, rows a second and the time left; only on a terminal."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def begin(self, total: int, done: int) -> None:
        from tqdm import tqdm

        # disable=None: no bar where standard error is no terminal, such as in a log.
        self._bar = tqdm(total=total, initial=done, unit=" pairs", disable=None, smoothing=0.1)

    def advance(self, rows: int) -> None:
        self._bar.update(rows)
