"""One run at a time in an output folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from descscore.errors import DataError

LOCK_FILE = ".lock"


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other runs out of ``output``; the system frees the lock of a killed process."""
    lock = FileLock(output / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(
            f"{output}: another run is writing here; wait for it or give another --output"
        ) from None
    except OSError as error:
        raise DataError(f"{output}: cannot be locked ({error})") from None
    try:
        yield
    finally:
        lock.release()
