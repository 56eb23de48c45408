"""A wire between a browser and a served site that keeps every byte that goes over it."""

from __future__ import annotations

import re
import socket
import threading
from types import TracebackType


class Tee:
    """Listens at ``address`` and hands all on to ``port``. up, down: what went to the site and came back."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}/"
        self.up, self.down = bytearray(), bytearray()

    def __enter__(self) -> Tee:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    def paths(self) -> set[str]:
        """What was asked for, without queries and names of single assets."""
        asked = re.findall(rb"(?:GET|POST|HEAD) (\S+) HTTP/1.1\r\n", bytes(self.up))
        plain = {path.decode().partition("?")[0] for path in asked}
        return {re.sub(r"(/assets|/static)/.*", r"\1", path) for path in plain}

    def _accept(self) -> None:
        while True:
            try:
                browser = self._server.accept()[0]
            except OSError:
                return
            site = socket.create_connection(("127.0.0.1", self._port))
            threading.Thread(target=self._copy, args=(browser, site, self.up), daemon=True).start()
            threading.Thread(target=self._copy, args=(site, browser, self.down), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, kept: bytearray) -> None:
        try:
            while part := source.recv(2**16):
                # Compressed answers could not be searched. The same length, so that nothing else changes.
                part = part.replace(b"Accept-Encoding:", b"X-Encoding-Away:")
                kept += part
                target.sendall(part)
        except OSError:
            pass
        finally:
            for link in (source, target):
                link.close()
