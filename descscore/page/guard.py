"""What stands before the pages: only the routes they need, bodies of bounded size, accounts, headers.

Gradio's server has many more routes (files, uploads, proxies, its API) than these pages
use. Whatever is not listed here is not there.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from descscore.page.accounts import Accounts
from descscore.page.bodies import MAX_BODY, MAX_FORM, MAX_SECONDS, Body, Places, RefusedError

Scope: TypeAlias = "dict[str, Any]"

ACCOUNT_HEADER = b"x-descscore-account"
"""Set here, for the pages; one that a client sends is dropped."""

_READ = re.compile(
    r"/try|/(try/)?("
    r"|config/?|theme\.css|favicon\.ico|robots\.txt"
    r"|(assets|static)/[\w./@-]+"
    r"|gradio_api/(queue/data|theme\.css|app_id)"
    r")"
)
_WRITE = re.compile(r"/(try/)?gradio_api/queue/join/?")

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'"
)
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


@dataclass(frozen=True)
class Guard:
    """An ASGI application in front of another.

    accounts: who may come in, None for everybody. framed: whether other sites may show the page
    in a frame. images_at: where the page lies that takes images, None where there is none. places:
    for large requests on their way.
    """

    app: Any
    accounts: Accounts | None = None
    framed: bool = False
    images_at: str | None = None
    places: Places = field(default_factory=Places)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        headers = dict(scope["headers"])
        refusal, user = _refusal(scope, headers, self._largest(scope)), None
        if self.accounts and not refusal:
            given = headers.get(b"authorization", b"").decode("latin-1")
            # Checking a password takes long on purpose; others must not wait for it.
            user = await asyncio.to_thread(self.accounts.user, given)
            refusal = None if user else 401
        if refusal:
            await _refuse(send, refusal)
            return
        kept = [(name, value) for name, value in scope["headers"] if name != ACCOUNT_HEADER]
        if user:
            kept.append((ACCOUNT_HEADER, user.encode()))
        await self._pass_on(scope | {"headers": kept, "query_string": _query(scope)}, receive, send)

    def _largest(self, scope: Scope) -> int:
        takes_images = self.images_at is not None and scope["path"].startswith(self.images_at)
        return MAX_BODY if takes_images else MAX_FORM

    async def _pass_on(self, scope: Scope, receive: Any, send: Any) -> None:
        body = Body(receive, self._largest(scope), MAX_SECONDS if scope["method"] == "POST" else None)
        with self.places.place(_is_large(scope)) as there_is_room:
            if there_is_room:
                await self._answer(scope, body, send)
                return
        with suppress(RefusedError):
            await body.drop()
        await _refuse(send, body.refusal or 503)

    async def _answer(self, scope: Scope, body: Body, send: Any) -> None:
        answer = _Answer(send, body, self._headers())
        with suppress(RefusedError):
            await self.app(scope, body, answer)
        if body.refusal and not answer.started:
            await _refuse(send, body.refusal)

    def _headers(self) -> list[tuple[bytes, bytes]]:
        policy = _POLICY if self.framed else _POLICY + "; frame-ancestors 'none'"
        return [*_HEADERS, (b"content-security-policy", policy.encode())]


class _Answer:
    """ASGI's ``send`` with more headers; what is said about a refused body is left to the guard."""

    def __init__(self, send: Any, body: Body, headers: list[tuple[bytes, bytes]]) -> None:
        self._send, self._body, self._more = send, body, headers
        self.started = False

    async def __call__(self, message: dict[str, Any]) -> None:
        if self._body.refusal and not self.started:
            return
        if message["type"] == "http.response.start":
            self.started = True
            message = message | {"headers": [*message.get("headers", ()), *self._more]}
        await self._send(message)


def _is_large(scope: Scope) -> bool:
    """Whether a request may be larger than a form, as far as it says."""
    length = dict(scope["headers"]).get(b"content-length", b"")
    return scope["method"] == "POST" and not (length.isdigit() and int(length) <= MAX_FORM)


def _query(scope: Scope) -> bytes:
    """The query of the one route that needs one; elsewhere Gradio takes names of files in it."""
    query: bytes = scope.get("query_string", b"")
    return query if scope["path"].endswith("/queue/data") else b""


def _refusal(scope: Scope, headers: dict[bytes, bytes], largest: int) -> int | None:
    """The status to refuse a request with, None for one that is all right. largest: body, in bytes."""
    if scope["method"] in ("GET", "HEAD"):
        return None if _READ.fullmatch(scope["path"]) and ".." not in scope["path"] else 404
    if scope["method"] != "POST":
        return 405
    if not _WRITE.fullmatch(scope["path"]):
        return 404
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > largest:
        return 413
    origin = headers.get(b"origin")
    same = origin is None or urlsplit(origin.decode("latin-1")).netloc.encode() == headers.get(b"host")
    return None if same else 403


_REASONS = {
    401: b"Log in with your account.",
    403: b"Another site may not do that.",
    404: b"There is nothing here.",
    405: b"That cannot be done here.",
    408: b"That took too long to arrive.",
    413: b"That is too large.",
    503: b"Too much is on its way; try again in a minute.",
}


async def _refuse(send: Any, status: int) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="descscore", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": _REASONS[status]})
