"""Check every web request: its route, size, origin and account; and check uploaded images.

Every request passes :class:`Guard` before Gradio sees it. Gradio's server has many more routes (files,
uploads, proxies, its API) than these pages use. All routes that are not listed here are refused. A page
gets a request only after the whole of it has arrived, and only if it is small enough. :func:`read_upload`
then checks an image in a request.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import re
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from PIL import Image, UnidentifiedImageError

from descscore.errors import ImageError
from descscore.images import load_image
from descscore.study.accounts import Accounts

MAX_BYTES = 20 * 2**20
"""Largest image file that is accepted: 20 MB."""

MAX_PIXELS = 60_000_000
"""Largest image that is decoded, in pixels."""

MAX_BODY = MAX_BYTES * 4 // 3 + 2**18
"""Largest request to a page that takes images, in bytes: an image in base64, and texts."""

MAX_FORM = 2**16
"""Largest request to any other page, in bytes."""

MAX_SECONDS = 120
"""Seconds that a request may take to arrive. The page's script waits equally long."""

LARGE_AT_ONCE = 8
"""Number of requests of more than :data:`MAX_FORM` bytes that may be in progress at once."""

ACCOUNT_HEADER = b"x-descscore-account"
"""Header with the account's name, which the guard sets for the pages. It drops one from a client."""

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
_REASONS = {
    401: b"Log in with your account.",
    403: b"Another site may not do that.",
    404: b"There is nothing here.",
    405: b"That cannot be done here.",
    408: b"The request took too long to arrive.",
    413: b"The request is too large.",
    503: b"Too many large requests at once; try again in a minute.",
}

Scope: TypeAlias = "dict[str, Any]"


class RefusedError(Exception):
    """Raised to refuse a request with an HTTP ``status``."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True)
class Guard:
    """An ASGI application in front of another one, ``app``."""

    app: Any
    accounts: Accounts | None = None
    """The accounts that may log in; None admits everybody."""
    framed: bool = False
    """Whether other sites may show the page in a frame."""
    images_at: str | None = None
    """Path of the page that takes images; None without such a page."""
    large: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LARGE_AT_ONCE))
    """Room for large requests."""

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        try:
            largest = self._largest(scope)
            _check(scope, largest)
            admitted = await self._with_account(scope) | {"query_string": _query(scope)}
            await self._pass_on(admitted, largest, receive, send)
        except RefusedError as error:
            await _refuse(send, error.status)

    def _largest(self, scope: Scope) -> int:
        """The largest body, in bytes, that the requested page takes."""
        takes_images = self.images_at is not None and scope["path"].startswith(self.images_at)
        return MAX_BODY if takes_images else MAX_FORM

    async def _with_account(self, scope: Scope) -> Scope:
        """The request with the account's name in :data:`ACCOUNT_HEADER`, if the site has accounts."""
        headers = [(name, value) for name, value in scope["headers"] if name != ACCOUNT_HEADER]
        if self.accounts:
            authorization = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
            # In a thread, because checking a password is slow on purpose and must not block other requests.
            user = await asyncio.to_thread(self.accounts.user, authorization)
            if user is None:
                raise RefusedError(401)
            headers.append((ACCOUNT_HEADER, user.encode()))
        return scope | {"headers": headers}

    async def _pass_on(self, scope: Scope, largest: int, receive: Any, send: Any) -> None:
        answer = self._with_headers(send)
        if scope["method"] != "POST":
            await self.app(scope, receive, answer)
            return
        large = _is_large(scope)
        if large and self.large.locked():
            # Read the body first, because many clients read an answer only after they have sent everything.
            await _read_body(receive, largest, keep=False)
            raise RefusedError(503)
        async with self.large if large else nullcontext():
            body = await _read_body(receive, largest)
            await self.app(scope, _replay(body, receive), answer)

    def _with_headers(self, send: Any) -> Any:
        """ASGI's ``send``, extended to add the headers that protect the page."""
        policy = _POLICY if self.framed else _POLICY + "; frame-ancestors 'none'"
        added = [*_HEADERS, (b"content-security-policy", policy.encode())]

        async def answer(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = message | {"headers": [*message.get("headers", ()), *added]}
            await send(message)

        return answer


def _check(scope: Scope, largest: int) -> None:
    """Raise :class:`RefusedError` for a route, size or origin that is not allowed.

    Args:
        scope: the request without its body.
        largest: largest allowed body, in bytes.
    """
    if scope["method"] in ("GET", "HEAD"):
        if not _READ.fullmatch(scope["path"]) or ".." in scope["path"]:
            raise RefusedError(404)
        return
    if scope["method"] != "POST":
        raise RefusedError(405)
    if not _WRITE.fullmatch(scope["path"]):
        raise RefusedError(404)
    headers = dict(scope["headers"])
    length, origin = headers.get(b"content-length", b""), headers.get(b"origin")
    if length.isdigit() and int(length) > largest:
        raise RefusedError(413)
    if origin is not None and urlsplit(origin.decode("latin-1")).netloc.encode() != headers.get(b"host"):
        raise RefusedError(403)


def _query(scope: Scope) -> bytes:
    """The query for the only route that needs one. Gradio would read file names from other queries."""
    query: bytes = scope.get("query_string", b"")
    return query if scope["path"].endswith("/queue/data") else b""


def _is_large(scope: Scope) -> bool:
    """Whether a request may be larger than a form, as is any request without a length."""
    length = dict(scope["headers"]).get(b"content-length", b"")
    return not (length.isdigit() and int(length) <= MAX_FORM)


async def _read_body(receive: Any, largest: int, keep: bool = True) -> bytes:
    """Read the body of a request.

    Args:
        receive: ASGI's ``receive``.
        largest: Largest allowed body, in bytes.
        keep: Whether to return the body; otherwise it is read and dropped.

    Raises:
        RefusedError: The body is too large, or does not arrive in time.
    """

    async def read() -> bytes:
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RefusedError(408)
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size > largest:
                raise RefusedError(413)
            parts.append(part if keep else b"")
        return b"".join(parts)

    try:
        return await asyncio.wait_for(read(), MAX_SECONDS)
    except asyncio.TimeoutError:
        raise RefusedError(408) from None


def _replay(body: bytes, receive: Any) -> Any:
    """ASGI's ``receive`` of a request that has arrived: first its body, then the client's later messages."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> dict[str, Any]:
        message: dict[str, Any] = messages.pop() if messages else await receive()
        return message

    return replay


async def _refuse(send: Any, status: int) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="descscore", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": _REASONS[status]})


_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP")
"""Formats that browsers can show. Pillow can read others, one of them by running another program."""

_DATA_ADDRESS = re.compile(r"data:[\w.+/-]*;base64,")


def read_upload(address: str) -> Image.Image:
    """The RGB image in a base64 ``data:`` address.

    Paths and other addresses are never opened. Raises :class:`ImageError` with advice for the user.
    """
    head = _DATA_ADDRESS.match(address)
    if head is None:
        raise ImageError("bad_upload", "The image did not arrive. Choose it again.")
    # Checked before decoding. Base64 has four letters for three bytes.
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
        raise ImageError(error.kind, _advice(error)) from None


def _check_format(data: bytes) -> None:
    Image.init()
    readable = [name for name in _FORMATS if name in Image.OPEN]
    try:
        Image.open(io.BytesIO(data), formats=readable).close()
    except UnidentifiedImageError:
        raise ImageError("not_an_image" if data else "empty_image", "image bytes") from None
    except Exception:  # noqa: BLE001 - load_image then raises the exact error
        return


def _advice(error: ImageError) -> str:
    if error.kind == "image_too_large":
        return f"The image has more than {MAX_PIXELS // 10**6} million pixels. Choose a smaller one."
    if error.kind == "empty_image":
        return "The file is empty. Choose another one."
    if error.kind == "not_an_image":
        return "The file is not an image that can be read. Choose a JPEG, PNG, WebP, GIF, AVIF or BMP file."
    return "The image is damaged or incomplete. Choose another one."
