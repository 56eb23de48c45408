"""A client of the annotators' page that goes through the endpoints that the page's script uses."""

from __future__ import annotations

import http.client
import json
import secrets
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

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
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body. The path goes out as it is, without being made straight."""
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
