"""The annotators' page without a browser: served in this process, and used as its script does."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from descscore.page.server import make_server

TIMEOUT = 240
"""Seconds; continuous integration may share its processors."""


class PageClient:
    """One tab. address: of the page, with a slash at its end. headers: sent with every request."""

    def __init__(self, address: str, headers: dict[str, str] | None = None) -> None:
        self._headers = headers or {}
        parts = urlsplit(address)
        self._where = (parts.hostname or "", parts.port or 80)
        self._base = parts.path

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Status and body. The path goes out as it is; a body in parts, without a word on its length."""
        link = http.client.HTTPConnection(*self._where, timeout=TIMEOUT)
        try:
            link.request(method, self._base + path, body, self._headers | (headers or {}))
            answer = link.getresponse()
            return answer.status, answer.read()
        finally:
            link.close()

    def send(self, action: Any, fields: Any, image: bytes | None = None) -> tuple[int, bytes]:
        """Do an action; status and body of the answer."""
        event = json.dumps({"action": action, "fields": fields}).encode()
        return self.request("POST", "act", event if image is None else event + b"\n" + image)

    def act(self, action: str, fields: dict[str, str], image: bytes | None = None) -> dict[str, Any]:
        """Do an action; the page's reply. Raises :class:`Refused`."""
        status, body = self.send(action, fields, image)
        if status != 200:
            raise Refused(f"{status} {body[:200]!r}")
        reply: dict[str, Any] = json.loads(body)
        return reply


class Refused(Exception):
    """The server did not take an action."""


def serve(app: Any) -> Iterator[str]:
    """The address at which ``app`` is served until the generator is closed."""
    link = socket.create_server(("127.0.0.1", 0))
    server = make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [link]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{link.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


def ask(address: str, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Send the path as it is, unlike clients that make it straight."""
    link = http.client.HTTPConnection(address.split("/")[2], timeout=60)
    link.request(method, path, headers=headers or {})
    answer = link.getresponse()
    body = answer.read()
    link.close()
    return answer.status, body
