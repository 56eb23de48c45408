"""Wall-clock time of work that may run on another device."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import Tensor


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def wait(result: Tensor) -> Tensor:
    """Wait until the device has made ``result``."""
    return result[:1].cpu()
