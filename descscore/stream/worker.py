"""Start a decoding worker and hold the connection to it."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import mmap
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np

from descscore.errors import DescscoreError, ImageError
from descscore.images import PixelSpec, check_path, load_image, picture_pixels

# A process that decodes images for :mod:`descscore.stream.pool` and dies with its parent.
#
# It imports no torch. Prepared pictures go into slots of memory shared with the parent;
# what else is to be said goes through a connection, one message a picture.


MAX_FILE_BYTES = 1 << 30
"""Largest image file that is read."""

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Setup:
    """What a worker is told when it starts. slots: pictures that the shared memory holds.
    function: ``module:name`` of what prepares one image, :func:`prepare` but in tests.
    """

    spec: PixelSpec
    slots: int
    function: str = "descscore.stream.worker:prepare"
    niceness: int = 0


def prepare(source: str | bytes, spec: PixelSpec) -> tuple[np.ndarray[Any, Any], bytes]:
    """An image file, by path or as bytes -> its prepared pixels and the SHA-256 of its bytes.

    Raises :class:`ImageError` as :func:`descscore.images.load_image` does.
    """
    name = "image bytes" if isinstance(source, bytes) else source
    data = source if isinstance(source, bytes) else read_image_file(source)
    try:
        return picture_pixels(load_image(data), spec), hashlib.sha256(data).digest()
    except ImageError as error:
        reason = str(error).removeprefix("image bytes: ")
        raise ImageError(error.kind, f"{name}: {reason}") from None


def read_image_file(name: str) -> bytes:
    """The bytes of an image file, or an :class:`ImageError` that names it."""
    path = check_path(name)
    try:
        with path.open("rb") as file:
            # What is to be read is set aside first, so not simply as much as any file may have.
            size = os.fstat(file.fileno()).st_size
            data = file.read(min(size, MAX_FILE_BYTES) + 1)
    except OSError as error:
        raise ImageError("unreadable_image", f"{path}: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ImageError("image_too_large", f"{path}: over the limit of {MAX_FILE_BYTES} bytes")
    return data


def main(connection_fd: int, memory_fd: int, parent: int) -> None:
    """Take jobs ``(number, slot, source)`` until the parent closes the connection."""
    _be_killed_with_parent()
    end_with(parent)
    connection = Connection(connection_fd)
    setup: Setup = pickle.loads(connection.recv_bytes())
    module, _, name = setup.function.partition(":")
    function = getattr(import_module(module), name)
    memory = mmap.mmap(memory_fd, setup.slots * setup.spec.nbytes)
    _be_quiet()
    if setup.niceness:
        os.nice(setup.niceness)
    connection.send_bytes(b"ready")
    with contextlib.suppress(EOFError, OSError):
        while True:
            for number, slot, source in pickle.loads(connection.recv_bytes()):
                connection.send_bytes(
                    pickle.dumps((number, *_answer(function, source, setup.spec, memory, slot)))
                )


def _answer(
    function: Any, source: str | bytes, spec: PixelSpec, memory: mmap.mmap, slot: int
) -> tuple[bytes | None, ImageError | None]:
    """Digest, or error, of one image whose pixels now lie in ``slot``."""
    try:
        pixels, digest = function(source, spec)
    except ImageError as error:
        return None, error
    except Exception as error:  # noqa: BLE001 - whatever an image does, the worker lives on
        return None, ImageError("damaged_image", f"{str(source)[:200]}: cannot be decoded ({error!r})")
    start = slot * spec.nbytes
    memory[start : start + spec.nbytes] = np.ascontiguousarray(pixels).data.cast("B")
    return digest, None


def end_with(parent: int) -> None:
    """End this process soon after its parent, and leave Ctrl-C to that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getppid() != parent:  # it has died while this process started
        os._exit(1)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _be_killed_with_parent() -> None:
    """By the kernel where it can: a hung decoder would not see a closed connection."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _be_quiet() -> None:
    """Decoders write warnings about single files; their rows say what matters."""
    warnings.simplefilter("ignore")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


START_SECONDS = 120.0
"""How long a worker may take to start."""

_BAD_STARTS = 3


class WorkerError(DescscoreError):
    """No decoding worker can be started."""

    kind = "worker"


class WorkerProcess:
    """One worker at a time: started when it is needed, and again after :meth:`end`.

    setup: what it is told. memory_fd: descriptor of the memory shared with it.
    """

    def __init__(self, setup: Setup, memory_fd: int) -> None:
        self.setup, self.memory_fd = setup, memory_fd
        self.process: subprocess.Popen[bytes] | None = None
        self.stopping = False
        self._connection: Connection[Any, Any] | None = None

    def stop(self) -> None:
        """Kill the worker and start none again; may be called by another thread."""
        self.stopping = True
        process = self.process
        if process is not None:
            process.kill()

    def connection(self) -> Connection[Any, Any]:
        """The connection to the running worker; starts one where there is none.

        Raises :class:`WorkerError` where that fails repeatedly, EOFError when stopping.
        """
        for _ in range(_BAD_STARTS):
            if self._connection is None:
                self._connection = self._start()
            if self._connection is not None:
                return self._connection
            if self.stopping:
                raise EOFError
        raise WorkerError(f"a decoding process could not be started in {_BAD_STARTS} attempts")

    def end(self) -> None:
        """Kill the worker and wait for its end."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _start(self) -> Connection[Any, Any] | None:
        """Start a worker and wait until it is ready; None where it does not come up."""
        here, there = Pipe()
        self.process = start_child("descscore.stream.worker", there, self.memory_fd)
        there.close()
        try:
            here.send_bytes(pickle.dumps(self.setup))
            if not self.stopping and here.poll(START_SECONDS) and here.recv_bytes() == b"ready":
                return here
        except (EOFError, OSError):
            pass
        here.close()
        self.end()
        return None


def start_child(module: str, connection: Connection[Any, Any], memory_fd: int) -> subprocess.Popen[bytes]:
    """Start a Python process that runs ``main(connection_fd, memory_fd, parent)`` of a module."""
    # The interpreter's own search path, so that it runs the package that this process runs.
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from {module} import main; "
        f"main({connection.fileno()}, {memory_fd}, {os.getpid()})"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        pass_fds=(connection.fileno(), memory_fd),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
