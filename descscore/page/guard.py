"""Check every web request: its route, host name, origin, size and account.

Every request passes :class:`Guard` before Gradio or a page sees it. Gradio's server has many more routes
(files, uploads, proxies, its queue and API) than these pages use. All routes that are not listed here are
refused. A page gets a request only after the whole of it has arrived, and only if it is small enough.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

from descscore.page.uploads import MAX_BYTES
from descscore.study.accounts import Accounts

MAX_FORM = 2**16
"""Largest form, in bytes. A request holds a form, and on the page that takes images also an image."""

MAX_BODY = MAX_FORM + MAX_BYTES
"""Largest request to a page that takes images, in bytes."""

MAX_SECONDS = 120
"""Seconds that a request may take to arrive. The page's script waits equally long."""

MAX_LARGE = 8 * MAX_BODY
"""Largest sum of all requests over :data:`MAX_FORM` that are in progress, in bytes."""

ACCOUNT_HEADER = b"x-descscore-account"
"""Header with the account's name, which the guard sets for the pages. It drops one from a client."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names of this machine that requests may use with every ``--host``."""

_STATIC = re.compile(r"/(try/)?(assets|static)/[\w./@-]+")
_READ = re.compile(
    r"/try|/(try/)?(|config/?|theme\.css|favicon\.ico|robots\.txt|gradio_api/(theme\.css|app_id))"
)
_WRITE = re.compile(r"/(try/)?act")
_EVENTS = "gradio_api/queue/data"
_PROGRAM_READS = ("gradio_api/info", _EVENTS)
_PROGRAM_WRITES = ("gradio_api/upload", "gradio_api/queue/join")
"""What a program asks of the page that takes images (:mod:`descscore.page.endpoint`), below its path."""
_SESSION = re.compile(rb"session_hash=[0-9A-Za-z-]{1,64}")
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'"
)
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_DECIDING = (b"host", b"origin", b"authorization", b"content-length")
_NO_STORE = (b"cache-control", b"no-store")
_REASONS = {
    400: b"The request is not understood.",
    401: b"Log in with your account.",
    403: b"Another site may not do that.",
    404: b"There is nothing here.",
    405: b"That cannot be done here.",
    408: b"The request took too long to arrive.",
    413: b"The request is too large.",
    503: b"Too many requests at once; try again in a minute.",
}

_UNKNOWN_NAME = (
    b"This server is not known by that name. The people who run it can add it: descscore serve --name NAME"
)

Scope: TypeAlias = "dict[str, Any]"
T = TypeVar("T")


class RefusedError(Exception):
    """Raised to refuse a request with an HTTP ``status``, and with a ``reason`` for the client."""

    def __init__(self, status: int, reason: bytes = b"") -> None:
        super().__init__(status)
        self.status, self.reason = status, reason or _REASONS[status]


class Lane:
    """Threads for one kind of work, so that a flood of it leaves room for the other kinds.

    Args:
        at_once: Pieces of work that run at once.
        waiting: Pieces of work that may wait; more are refused.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self._threads = ThreadPoolExecutor(at_once, "descscore-page")
        self._room = at_once + waiting

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """The function's result. Work that is cancelled before its turn never runs.

        Raises:
            RefusedError: Too much work waits.
        """
        if self._room <= 0:
            raise RefusedError(503)
        self._room -= 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        finally:
            self._room += 1


@dataclass(frozen=True)
class Hosts:
    """The names by which clients may address this server.

    A site that has its own name point to this machine could otherwise use the pages in the name of a
    visitor (DNS rebinding). No site can do that with an address in place of a name.
    """

    host: str = "127.0.0.1"
    """Address or name to listen on."""
    names: tuple[str, ...] = ()
    """Other names."""

    def know(self, header: str) -> bool:
        """Whether a ``Host`` header holds a known name."""
        name = _host_name(header)
        if name is None:
            return False
        if name in LOOPBACK or name in {_plain(known) for known in (self.host, *self.names)}:
            return True
        own = _address(self.host)
        is_everywhere = self.host == "" or (own is not None and own.is_unspecified)
        return is_everywhere and (_address(name) is not None or name == _plain(socket.gethostname()))


def _host_name(header: str) -> str | None:
    """The name in a ``Host`` header, without its port; None if there is none."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:@/\[\]\\?#]+)(:[0-9]{0,5})?", header)
    return _plain(match[1].strip("[]")) if match else None


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name)
    except ValueError:
        return None


@dataclass
class Room:
    """Memory for requests."""

    left: int
    """Bytes that are free."""


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
    hosts: Hosts = Hosts()
    """The names by which clients may address the server."""
    large: Room = field(default_factory=lambda: Room(MAX_LARGE))
    """Room that large requests share."""
    passwords: Lane = field(default_factory=lambda: Lane(at_once=2, waiting=64))
    """Threads that check passwords."""

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        try:
            headers, largest = _single_headers(scope), self._largest(scope)
            self._check_host(headers)
            self._check(scope, headers, largest)
            admitted = await self._with_account(scope, headers)
            length = _stated_length(headers)
            is_large = length is None or length > MAX_FORM
            arrival = _Arrival(largest, self.large if is_large else Room(MAX_FORM))
            await self._pass_on(admitted, arrival, receive, self._with_headers(scope, send))
        except RefusedError as error:
            await _refuse(send, error)

    def _largest(self, scope: Scope) -> int:
        """The largest body, in bytes, that the requested page takes."""
        return MAX_BODY if self._below_images(scope) in ("act", "gradio_api/upload") else MAX_FORM

    def _below_images(self, scope: Scope) -> str | None:
        """The path below the page that takes images; None for other paths."""
        path: str = scope["path"]
        if self.images_at is None or not path.startswith(self.images_at):
            return None
        return path.removeprefix(self.images_at)

    def _check(self, scope: Scope, headers: Mapping[bytes, bytes], largest: int) -> None:
        """Raise :class:`RefusedError` for a route, size or origin that is not allowed."""
        path, below = scope["path"], self._below_images(scope)
        if scope["method"] in ("GET", "HEAD"):
            known = _READ.fullmatch(path) or _STATIC.fullmatch(path) or below in _PROGRAM_READS
            if not known or ".." in path:
                raise RefusedError(404)
            return
        if scope["method"] != "POST":
            raise RefusedError(405)
        if not (_WRITE.fullmatch(path) or below in _PROGRAM_WRITES):
            raise RefusedError(404)
        length, origin = _stated_length(headers), headers.get(b"origin")
        if length is not None and length > largest:
            raise RefusedError(413)
        if origin is not None and _network_location(origin) != headers.get(b"host"):
            raise RefusedError(403)

    def _check_host(self, headers: Mapping[bytes, bytes]) -> None:
        host = headers.get(b"host")
        # Every browser names the host, so a request without a name is no other site's doing.
        if host is not None and not self.hosts.know(host.decode("latin-1")):
            raise RefusedError(400, _UNKNOWN_NAME)

    async def _with_account(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Scope:
        """The request with the account's name in :data:`ACCOUNT_HEADER`, if the site has accounts.

        It has no query but the session of a program's events: no page needs one, and Gradio would read
        file names from some.
        """
        kept = [(name, value) for name, value in scope["headers"] if name != ACCOUNT_HEADER]
        if self.accounts:
            authorization = headers.get(b"authorization", b"").decode("latin-1")
            user = self.accounts.known(authorization)
            if user is None and authorization:
                # In a thread, because checking a password is slow on purpose.
                user = await self.passwords.run(self.accounts.user, authorization)
            if user is None:
                raise RefusedError(401)
            kept.append((ACCOUNT_HEADER, user.encode()))
        query = scope.get("query_string", b"")
        is_session = self._below_images(scope) == _EVENTS and _SESSION.fullmatch(query)
        return scope | {"headers": kept, "query_string": query if is_session else b""}

    async def _pass_on(self, scope: Scope, arrival: _Arrival, receive: Any, send: Any) -> None:
        if scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        try:
            body = await arrival.read(receive)
            await self.app(scope, _replay(body, receive), send)
        finally:
            arrival.end()

    def _with_headers(self, scope: Scope, send: Any) -> Any:
        """ASGI's ``send``, extended to set the headers that protect the page."""
        policy = _POLICY if self.framed else _POLICY + "; frame-ancestors 'none'"
        added = [*_HEADERS, (b"content-security-policy", policy.encode())]
        dropped: tuple[bytes, ...] = (b"access-control-",)  # Gradio lets some other sites read its answers
        if not _STATIC.fullmatch(scope["path"]):
            added.append(_NO_STORE)
            dropped += (_NO_STORE[0],)

        async def answer(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                kept = [pair for pair in headers if not pair[0].lower().startswith(dropped)]
                message = message | {"headers": [*kept, *added]}
            await send(message)

        return answer


def _single_headers(scope: Scope) -> Mapping[bytes, bytes]:
    """The headers by name. A header that decides something may be there only once."""
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _DECIDING and name in headers:
            raise RefusedError(400)
        headers[name] = value
    return headers


def _network_location(origin: bytes) -> bytes:
    try:
        return urlsplit(origin.decode("latin-1")).netloc.encode("latin-1")
    except ValueError:
        raise RefusedError(400) from None


def _stated_length(headers: Mapping[bytes, bytes]) -> int | None:
    """The length of the body, in bytes, as the client states it; None if it does not."""
    length = headers.get(b"content-length", b"")
    # Python refuses to read very long numbers.
    return int(length) if length.isdigit() and len(length) < 100 else None


@dataclass
class _Arrival:
    """A request's body on its way."""

    largest: int
    """Largest allowed body, in bytes."""
    room: Room
    """Room for it, which a large one shares with others."""
    held: int = 0
    """Bytes of the room that this request holds."""

    async def read(self, receive: Any) -> bytes:
        """The whole body.

        Raises:
            RefusedError: The body is too large, has no room, or does not arrive in time.
        """
        try:
            return await asyncio.wait_for(self._read(receive), MAX_SECONDS)
        except asyncio.TimeoutError:
            raise RefusedError(408) from None

    async def _read(self, receive: Any) -> bytes:
        parts, size, more, fits = [], 0, True, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RefusedError(408)
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size > self.largest:
                raise RefusedError(413)
            # Without room it reads on, because many clients read an answer only after they have sent all.
            fits = fits and self._hold(len(part))
            if fits:
                parts.append(part)
            else:
                parts.clear()
                self.end()
        if not fits:
            raise RefusedError(503)
        return b"".join(parts)

    def _hold(self, size: int) -> bool:
        if size > self.room.left:
            return False
        self.room.left -= size
        self.held += size
        return True

    def end(self) -> None:
        """Give the room back."""
        self.room.left += self.held
        self.held = 0


def _replay(body: bytes, receive: Any) -> Any:
    """ASGI's ``receive`` of a request that has arrived: first its body, then the client's later messages."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> dict[str, Any]:
        message: dict[str, Any] = messages.pop() if messages else await receive()
        return message

    return replay


async def _refuse(send: Any, error: RefusedError) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS, _NO_STORE]
    if error.status == 401:
        headers.append((b"www-authenticate", b'Basic realm="descscore", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": error.reason})
