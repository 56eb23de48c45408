"""What a request may carry: how large it is, how long it may take, and how many large ones at once.

A queue bounds what waits for an answer, but a request comes into it only when all of it is there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from descscore.page.upload import MAX_BYTES

MAX_BODY = MAX_BYTES * 4 // 3 + 2**18
"""Largest request to a page that takes images, in bytes: an image in base64 and texts."""

MAX_FORM = 2**16
"""Largest request to any other page, in bytes."""

MAX_SECONDS = 120
"""How long a request may take to arrive; the page's script gives up after as long."""

LARGE_AT_ONCE = 8
"""How many requests of more than :data:`MAX_FORM` bytes may be on their way at once."""


class RefusedError(Exception):
    """A request is not taken; the message is its HTTP status."""


class Places:
    """Room for large requests: each takes a place while it is on its way."""

    def __init__(self, number: int = LARGE_AT_ONCE) -> None:
        self._free = number

    @contextmanager
    def place(self, large: bool) -> Iterator[bool]:
        """Whether there is one; a request that is not large needs none."""
        taken = large and self._free > 0
        self._free -= taken
        try:
            yield taken or not large
        finally:
            self._free += taken


class Body:
    """ASGI's ``receive`` of one request, which stops at ``largest`` bytes and after ``seconds``, if any.

    refusal: the HTTP status for a request that went beyond, None until then. Frameworks may turn
    the :class:`RefusedError` that is raised then into an answer of their own.
    """

    def __init__(self, receive: Any, largest: int, seconds: float | None) -> None:
        self._receive = receive
        self._left = largest
        self._until = None if seconds is None else time.monotonic() + seconds
        self._whole = False
        self.refusal: int | None = None

    async def __call__(self) -> dict[str, Any]:
        """The next message."""
        message: dict[str, Any] = await self._next()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            self._refuse(413)
        self._whole = not message.get("more_body")
        return message

    async def drop(self) -> None:
        """Let all of it arrive and keep nothing: many clients hear an answer only afterwards."""
        while not self._whole:
            await self()

    async def _next(self) -> dict[str, Any]:
        if self._whole:  # what comes now is that the client has gone, whenever that is
            message: dict[str, Any] = await self._receive()
            return message
        left = None if self._until is None else self._until - time.monotonic()
        try:
            return await asyncio.wait_for(self._receive(), left)
        except asyncio.TimeoutError:
            self._refuse(408)
            raise

    def _refuse(self, status: int) -> None:
        self.refusal = status
        raise RefusedError(status)
