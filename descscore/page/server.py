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

from descscore.errors import shown

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
    a client takes the answer. When there are too many connections, the one gives way on whose client the
    server has waited longest. So slow and idle clients cannot keep out people who use the page.
    """

    _waiting: ClassVar[dict[BoundedProtocol, None]] = {}
    """Connections whose clients have to do something, in the order in which that began."""

    _timer: asyncio.TimerHandle | None = None
    _head_has_begun = True
    """Whether the time for a request's head runs: since its first byte, or since the connection began."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait(HEADER_SECONDS)
        if len(self.connections) > MAX_CONNECTIONS:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._go_on()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.flow.write_paused:
            return  # the client has to take an answer first, whatever it sends
        if self.cycle is not None and not (self.cycle.response_complete or self.cycle.more_body):
            self._go_on()
        elif self.cycle is not before:
            self._head_has_begun = False
            self._wait(None)  # for the body; the guard limits its time
        elif not self._head_has_begun and self.cycle.response_complete:
            self._head_has_begun = True
            self._wait(HEADER_SECONDS)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # it is not if another request has waited behind this one
            self._head_has_begun = False
            self._wait(SEND_SECONDS)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait(SEND_SECONDS)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.cycle is not None and not self.cycle.response_complete:
            self._go_on()

    def _wait(self, seconds: float | None) -> None:
        """Note that the client has to do something, and drop the connection if it takes too long.

        Args:
            seconds: What is too long; None if something else limits the time.
        """
        self._go_on()
        self._waiting[self] = None
        if seconds is not None:
            self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _go_on(self) -> None:
        """Note that the server does not wait for the client."""
        self._waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


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
    """``text`` without its middle if it is long, and with control characters shown."""
    if len(text) > LONGEST_LINE:
        text = f"{text[: LONGEST_LINE // 2]} [...] {text[-LONGEST_LINE // 2 :]}"
    return shown(text)
