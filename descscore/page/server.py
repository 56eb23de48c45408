"""Run the web server, with limits for slow clients and for the log that uvicorn does not have."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

MAX_CONNECTIONS = 500
"""Connections at once. Most systems let a process open 1,024 files, and databases need some."""

HEADER_SECONDS = 10.0
"""Seconds in which a client must send the head of a request."""

SEND_SECONDS = 120.0
"""Seconds in which a client must take an answer."""

LONGEST_LINE = 5000
"""Most characters of a message in the log."""

LINES_A_MINUTE = 60
"""Most messages in the log in a minute."""


def run_server(app: Any, sock: socket.socket) -> None:
    """Serve ``app`` on ``sock`` until stopped, with a log of bounded size on standard error."""
    handler = logging.StreamHandler()
    handler.addFilter(LogLimit())
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", handlers=[handler])
    make_server(app).run(sockets=[sock])


def make_server(app: Any) -> uvicorn.Server:
    """A web server for ``app`` with limits for slow clients."""
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        log_config=None,
        log_level="warning",
        timeout_graceful_shutdown=3,
    )
    return uvicorn.Server(config)


class BoundedProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's protocol for one connection, which drops clients that take too long.

    uvicorn bounds the time between two requests, but neither the time of a request's head nor that in which
    a client takes the answer. When there are too many connections, the one that has waited longest for a
    head gives way. So idle connections cannot keep out people who use the page.
    """

    _waiting: ClassVar[dict[BoundedProtocol, None]] = {}
    """Connections that wait for the head of a request, the oldest first."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_for_head()
        if len(self.connections) > MAX_CONNECTIONS:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._limit(None)
        self._waiting.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:  # a head is complete; the guard limits the rest of the request
            self._waiting.pop(self, None)
            self._limit(None)
        elif self not in self._waiting and (before is None or before.response_complete):
            self._wait_for_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # it is not if another request has waited behind this one
            self._limit(SEND_SECONDS)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._limit(SEND_SECONDS)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.cycle is not None and not self.cycle.response_complete:
            self._limit(None)

    def _wait_for_head(self) -> None:
        self._waiting[self] = None
        self._limit(HEADER_SECONDS)

    def _limit(self, seconds: float | None) -> None:
        """Drop the connection in ``seconds``, unless this is called again; None sets no limit."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)


class LogLimit(logging.Filter):
    """Bounds the length of messages and their number in a minute, because strangers cause them.

    Args:
        clock: Tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock, self._minute, self._count = clock, 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        minute = int(self._clock() // 60)
        if minute != self._minute:
            self._minute, self._count = minute, 0
        self._count += 1
        if self._count > LINES_A_MINUTE:
            return False
        text = logging.Formatter().format(record)  # with the traceback, if there is one
        if self._count == LINES_A_MINUTE:
            text = f"no more messages in this minute after this one: {text}"
        record.msg, record.args = _bounded(text), None
        record.exc_info = record.exc_text = record.stack_info = None
        return True


def _bounded(text: str) -> str:
    """``text`` without its middle if it is long, and without characters that move the cursor."""
    if len(text) > LONGEST_LINE:
        text = f"{text[: LONGEST_LINE // 2]} [...] {text[-LONGEST_LINE // 2 :]}"
    return "".join(
        letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text
    )
