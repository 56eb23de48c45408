"""Start a decoding worker and hold the connection to it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe
from typing import Any

from descscore.batch.decode_worker import Setup
from descscore.errors import DescscoreError

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
        self.process = start_child("descscore.batch.decode_worker", there, self.memory_fd)
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
