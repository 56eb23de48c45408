"""The annotators' page without a browser: served in this process, and used by its script's endpoints."""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import uvicorn

TIMEOUT = 240
"""Seconds; continuous integration may share its processors."""


class PageClient:
    """One tab. address: of the page, with a slash at its end. headers: sent with every request."""

    def __init__(self, address: str, headers: dict[str, str] | None = None) -> None:
        self._headers = headers or {}
        parts = urlsplit(address)
        self._where = (parts.hostname or "", parts.port or 80)
        self._base = parts.path
        self._session = secrets.token_hex(6)
        self._tickets = 0
        config = json.loads(self.request("GET", "config")[1])
        (self._event,) = [one for one in config["dependencies"] if one["targets"][0][1] == "act"]

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

    def join(self, action: str, fields: dict[str, str], **changes: Any) -> tuple[int, bytes]:
        """Put an event into the queue. changes: to the request's own fields."""
        self._tickets += 1
        data = {"action": action, "fields": fields, "ticket": self._tickets}
        request = {
            "data": [],
            "event_data": data,
            "fn_index": self._event["id"],
            "trigger_id": self._event["targets"][0][0],
            "session_hash": self._session,
        }
        body = json.dumps(request | changes).encode()
        return self.request("POST", "gradio_api/queue/join", body, {"Content-Type": "application/json"})

    def act(self, action: str, fields: dict[str, str]) -> dict[str, Any]:
        """Do an action and wait for what the server answers to it. Raises :class:`Refused`."""
        status, body = self.join(action, fields)
        if status != 200:
            raise Refused(f"{status} {body[:200]!r}")
        for message in self.messages():
            if message["msg"] == "process_completed":
                reply: dict[str, Any] = message["output"]["data"][0]
                assert reply["ticket"] == self._tickets
                return reply
        raise Refused("the answer did not come")

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the server sends to this tab, until it has answered all."""
        link = http.client.HTTPConnection(*self._where, timeout=TIMEOUT)
        try:
            path = f"{self._base}gradio_api/queue/data?session_hash={self._session}"
            link.request("GET", path, headers=self._headers)
            for line in link.getresponse():
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])
        finally:
            link.close()


class Refused(Exception):
    """The server did not take an action, or did not answer it."""


def serve(app: Any) -> Iterator[str]:
    """The address at which ``app`` is served until the generator is closed."""
    link = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
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
    # Streams that last stay unread.
    body = b"" if "event-stream" in (answer.getheader("content-type") or "") else answer.read()
    link.close()
    return answer.status, body
