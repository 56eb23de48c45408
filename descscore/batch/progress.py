"""A progress bar on standard error: rate and time left."""

from __future__ import annotations

from typing import Any


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
