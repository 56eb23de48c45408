"""What stands before the pages: only the routes they need, bodies of bounded size, accounts, headers.

Gradio's server has many more routes (files, uploads, proxies, its API) than these pages
use. Whatever is not listed here is not there.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from PIL import Image, UnidentifiedImageError

from descscore.errors import ImageError
from descscore.images import load_image
from descscore.page.accounts import Accounts

# An image that a browser sends: a data address, so that no path or address from a user is ever opened.


MAX_BYTES = 20 * 2**20
"""Largest file that is taken: 20 MB."""

MAX_PIXELS = 60_000_000
"""Largest image that is decoded, in pixels."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP")
"""What browsers show too. Pillow has more readers, one of which runs another program."""

_HEAD = re.compile(r"data:[\w.+/-]*;base64,")


def read_upload(address: str) -> Image.Image:
    """The RGB image in a base64 ``data:`` address. Raises :class:`ImageError` with what a user can do."""
    head = _HEAD.match(address)
    if head is None:
        raise ImageError("bad_upload", "The image did not arrive. Choose it again.")
    # Checked before decoding: base64 has four letters for three bytes.
    if (len(address) - head.end()) * 3 // 4 > MAX_BYTES + 2:
        raise ImageError(
            "image_too_large", f"The file is larger than {MAX_BYTES // 2**20} MB. Choose a smaller one."
        )
    try:
        data = base64.b64decode(address[head.end() :], validate=True)
    except binascii.Error:
        raise ImageError("bad_upload", "The image did not arrive whole. Choose it again.") from None
    try:
        _check_format(data)
        return load_image(data, MAX_PIXELS)
    except ImageError as error:
        raise ImageError(error.kind, _for_user(error)) from None


def _check_format(data: bytes) -> None:
    Image.init()
    known = [name for name in _FORMATS if name in Image.OPEN]
    try:
        Image.open(io.BytesIO(data), formats=known).close()
    except UnidentifiedImageError:
        raise ImageError("not_an_image" if data else "empty_image", "image bytes") from None
    except Exception:  # noqa: BLE001 - what is wrong with it, load_image says
        return


def _for_user(error: ImageError) -> str:
    if error.kind == "image_too_large":
        return f"The image has more than {MAX_PIXELS // 10**6} million pixels. Choose a smaller one."
    if error.kind == "empty_image":
        return "The file is empty. Choose another one."
    if error.kind == "not_an_image":
        return "The file is not an image that can be read. Choose a JPEG, PNG, WebP, GIF, AVIF or BMP file."
    return "The image is damaged or incomplete. Choose another one."


# What a request may carry: how large it is, how long it may take, and how many large ones at once.
#
# A queue bounds what waits for an answer, but a request comes into it only when all of it is there.


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
