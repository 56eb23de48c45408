"""Give memory that was freed back to the system.

A stream allocates and frees blocks of ever different sizes. glibc keeps what lies free between blocks
still in use, and over many windows that adds up, though nothing is held.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache


def give_back() -> None:
    """Some milliseconds; nothing where the C library is another one."""
    trim = _trim()
    if trim is not None:
        trim(0)


@lru_cache(maxsize=1)
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return None
