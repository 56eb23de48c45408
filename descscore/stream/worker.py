"""A worker process: reads and decodes images, and writes their pixels into shared memory.

A worker does not import torch, so it starts quickly and uses little memory. It gets its jobs from
:mod:`descscore.stream.dispatcher`, which replaces a worker that dies or hangs. Workers end with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

import numpy as np

from descscore.errors import DescscoreError, ImageError
from descscore.images import BYTES_NAME, PixelSpec, content_digest, load_pixels, read_image_file

Pixels: TypeAlias = "np.ndarray[Any, Any]"
"""Prepared pictures: ``(height, width, 3)`` uint8, or ``(n, height, width, 3)``."""

MORE_MEMORY = 4 << 30
"""Bytes that a worker may take for an image, beyond those that it takes at its start. Any decoder that wants
more fails, and with it only this image's row."""

PREPARE = f"{__name__}:prepare"
"""The function that workers run on an image, as :attr:`PoolOptions.function` names it."""

_PR_SET_PDEATHSIG = 1


def cores() -> int:
    """Number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class WorkerError(DescscoreError):
    """The processes that decode images cannot be started, or have ended."""

    kind = "worker"


@dataclass(frozen=True)
class PoolOptions:
    """Settings of a pool of workers."""

    workers: int
    """Number of worker processes."""
    slots: int
    """Number of prepared pictures that the shared memory holds."""
    time_limit: float = 60.0
    """Seconds that one image may take."""
    function: str = PREPARE
    """``module:name`` of the function that prepares one image, with the arguments and the result of
    :func:`prepare`."""


@dataclass(frozen=True)
class Decoded:
    """The answer for one image."""

    number: int
    """The number under which the image was submitted."""
    slot: int | None
    """Slot of its pixels in the decoder; None if there is an error."""
    digest: bytes | None
    """SHA-256 of the image file; None if there is an error."""
    error: ImageError | None = None
    """The reason why the image cannot be decoded; None without one."""


def prepare(source: str | bytes, spec: PixelSpec) -> tuple[Pixels, bytes]:
    """The prepared pixels ``(height, width, 3)`` of an image file, and the SHA-256 of its bytes.

    source: a path, or the bytes. Raises :class:`ImageError` as :func:`descscore.images.load_pixels`.
    """
    data = source if isinstance(source, bytes) else read_image_file(source)
    return load_pixels(data, spec, image_name(source)), content_digest(data)


def image_name(source: str | bytes) -> str:
    """The name of an image in error messages."""
    return BYTES_NAME if isinstance(source, bytes) else source


def main(connection_fd: int, memory_fd: int, parent: int) -> None:
    """Run one worker until the parent closes the connection.

    The first message is ``(PixelSpec, PoolOptions)``; the worker answers ``b"ready"``. Each later message
    is a list of jobs ``(number, slot, source)``, answered job by job with ``(number, digest, error)``.
    """
    _die_with_parent()
    end_with(parent)
    connection: Connection[Any, Any] = Connection(connection_fd)
    spec, options = pickle.loads(connection.recv_bytes())
    module, _, name = options.function.partition(":")
    function = getattr(import_module(module), name)
    memory = mmap.mmap(memory_fd, options.slots * spec.nbytes)
    _be_quiet()
    _limit_memory()
    connection.send_bytes(b"ready")
    with contextlib.suppress(EOFError, OSError):
        while True:
            for number, slot, source in pickle.loads(connection.recv_bytes()):
                answer = _decode(function, source, spec, memory, slot)
                connection.send_bytes(pickle.dumps((number, *answer)))


def _decode(
    function: Any, source: str | bytes, spec: PixelSpec, memory: mmap.mmap, slot: int
) -> tuple[bytes | None, ImageError | None]:
    """Put the image's pixels into ``slot``; returns the image's digest, or the error."""
    try:
        pixels, digest = function(source, spec)
    except ImageError as error:
        return None, error
    except MemoryError:
        reason = f"takes over {MORE_MEMORY:,} bytes of memory"
        return None, ImageError("image_too_large", f"{image_name(source)}: {reason}")
    except Exception as error:  # noqa: BLE001 - the worker must survive any image
        return None, ImageError("damaged_image", f"{image_name(source)}: cannot be decoded ({error!r})")
    start = slot * spec.nbytes
    memory[start : start + spec.nbytes] = np.ascontiguousarray(pixels).data.cast("B")
    return digest, None


def _be_quiet() -> None:
    """Hide the warnings of decoding libraries; errors are reported in the images' rows."""
    warnings.simplefilter("ignore")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def _limit_memory() -> None:
    """Let Linux refuse this process more memory than :data:`MORE_MEMORY`."""
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (taken + MORE_MEMORY, hard))


def start_child(module: str, connection: Connection[Any, Any], memory_fd: int) -> subprocess.Popen[bytes]:
    """Start a Python process that runs ``main(connection_fd, memory_fd, parent)`` of ``module``.

    Unlike ``multiprocessing`` it does not import the caller's main module, so a script needs no
    ``if __name__ == "__main__"``, and the child does not import what the script imports.
    """
    # The same search path, so that the child runs the same copy of this package. Python passes over what is
    # no string in it, such as a Path, whose text would be no code.
    places = [place for place in sys.path if isinstance(place, str)]
    code = (
        f"import sys; sys.path[:] = {places!r}; from {module} import main; "
        f"main({connection.fileno()}, {memory_fd}, {os.getpid()})"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        pass_fds=(connection.fileno(), memory_fd),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def end_with(parent: int) -> None:
    """Make this process end within seconds after its parent, and let only the parent handle Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getppid() != parent:  # the parent has died while this process started
        os._exit(1)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _die_with_parent() -> None:
    """Let Linux kill this process with its parent, because a hung decoder cannot see a closed connection."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
