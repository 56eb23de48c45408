"""``descscore`` and ``python`` for shells in tests, without a new interpreter's seconds of imports.

A server imports what is slow, once. The commands in :attr:`ForkServer.bin` hand their arguments, folder,
environment and streams to it; it forks, and the child is then an ordinary run of the command.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

CLIENT = """#!{python} -SE
import json, os, signal, socket, sys
if {name!r} == "python" and (len(sys.argv) < 3 or sys.argv[1] not in ("-m", "-c")):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
link = socket.socket(socket.AF_UNIX)
link.connect({address!r})
call = json.dumps([{name!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(link, [len(call).to_bytes(8, "big")], [0, 1, 2])
link.sendall(call)
child = int.from_bytes(link.recv(8, socket.MSG_WAITALL), "big")
signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
sys.exit(int.from_bytes(link.recv(8, socket.MSG_WAITALL), "big"))
"""


class ForkServer:
    """Runs until :meth:`close`. bin: the folder to put first in ``PATH``."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        address = folder / "s"
        self._server = subprocess.Popen([sys.executable, __file__, str(address)])
        for name in ("descscore", "python"):
            path = self.bin / name
            path.write_text(CLIENT.format(python=sys.executable, name=name, address=str(address)))
            path.chmod(0o755)
        while not address.exists():
            if self._server.poll() is not None:
                raise RuntimeError(f"the server ended with {self._server.returncode}")
            time.sleep(0.05)

    def close(self) -> None:
        """End the server; calls that still run go on."""
        self._server.terminate()
        self._server.wait()


def serve(address: str) -> None:
    """Accept calls for ever."""
    import datasets  # noqa: F401
    import gradio  # noqa: F401
    import scipy.stats  # noqa: F401

    import descscore.page.cli
    import descscore.scorer  # noqa: F401

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address + ".new")
    listener.listen(16)
    os.rename(address + ".new", address)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # waiting children are the minders' business
    while True:
        link, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _mind(link)
        link.close()


def _mind(link: socket.socket) -> None:
    """Run one call in a child and tell the client how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, streams, _, _ = socket.recv_fds(link, 8, 3)
    rest = int.from_bytes(head, "big")
    call = json.loads(link.recv(rest, socket.MSG_WAITALL))
    child = os.fork()
    if child == 0:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        link.close()
        os._exit(_run(*call))
    for stream in streams:
        os.close(stream)
    link.sendall(child.to_bytes(8, "big"))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(OSError):
        link.sendall((code if code >= 0 else 128 - code).to_bytes(8, "big"))
    os._exit(0)


def _run(name: str, arguments: list[str], folder: str, environment: dict[str, str]) -> int:
    """The exit code of ``descscore ...``, ``python -m ...`` or ``python -c ...``."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    code = 0
    try:
        if name == "descscore":
            from descscore.cli import main

            sys.argv = ["descscore", *arguments]
            main(prog_name="descscore")
        elif arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = ["-c", *arguments[2:]]
            exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - as an interpreter would
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    return code


if __name__ == "__main__":
    serve(sys.argv[1])
