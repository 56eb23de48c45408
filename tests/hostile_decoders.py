"""Stand-ins for decoders that hang or bring their process down, loaded by decoding workers."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from descscore.images import PixelSpec
from descscore.stream.worker import prepare


def misbehave(source: str | bytes, spec: PixelSpec) -> tuple[Any, bytes]:
    """By the name of the file: hang, die, die the first time only, or decode."""
    name = Path(source).name if isinstance(source, str) else ""
    if name.startswith("hang"):
        time.sleep(3600)
    if name.startswith("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("once"):
        mark = Path(str(source) + ".seen")
        if not mark.exists():
            mark.touch()
            os._exit(3)
    if name.startswith("raise"):
        raise ZeroDivisionError("odd decoder")
    return prepare(source, spec)


def take_memory(source: str | bytes, spec: PixelSpec) -> tuple[Any, bytes]:
    """Ask for 5 GB for the file ``hungry``."""
    if source == "hungry":
        return bytearray(5 << 30), b""
    return prepare(source, spec)


def broken(source: str | bytes, spec: PixelSpec) -> tuple[Any, bytes]:
    raise AssertionError("never called")


if os.environ.get("DESCSCORE_TEST_BROKEN_DECODER"):
    raise SystemExit("this worker cannot start")
