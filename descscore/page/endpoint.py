"""The endpoint ``/score`` for programs: answers what ``gradio_client`` asks, with the page's own limits.

The client uploads a picture, joins the queue with its name and the texts, and then listens to the events
of its session. Gradio would write the picture to a file, and keep requests and replies of clients that
never come back. Here both wait in memory, with bounds of size and time, and a score is computed only
while its client listens.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Generic, TypeAlias, TypeVar

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from descscore.page.guard import MAX_BODY, RefusedError
from descscore.page.reply import Reply
from descscore.page.uploads import MAX_BYTES

NAME = "score"
"""Name of the endpoint: ``client.predict(..., api_name="/score")``."""

MAX_HELD = 4 * MAX_BODY
"""Most bytes that uploads may take together; requests may take as much again."""

MAX_WAITING = 64
"""Most uploads, and most requests, that wait for their client."""

HELD_SECONDS = 60.0
"""Seconds that an upload or a request waits for its client."""

_SESSION = re.compile(r"[0-9A-Za-z-]{1,64}")
_TEXTS = ("description", "caption", "context", "drafts")

Ask: TypeAlias = "Callable[[Request, Mapping[str, str], bytes], Awaitable[Reply]]"
"""Scores the texts of a form with an image, behind the limits of the page."""
T = TypeVar("T")


def score(
    image: dict[str, Any], description: str, caption: str = "", context: str = "", drafts: str = ""
) -> dict[str, Any]:
    """Score a description of an image.

    Gradio tells programs this signature. :class:`Endpoint` answers in its place.

    Args:
        image: The picture's file: ``handle_file("photo.jpg")``.
        description: The text that would replace the image.
        caption: A caption to compare it with; may be blank.
        context: The text of the article around the image; may be blank.
        drafts: Other descriptions, one per line; may be blank.
    """
    raise NotImplementedError


class Held(Generic[T]):
    """What waits for its owner for a minute: at most ``most_entries`` of ``most_bytes`` together."""

    def __init__(self, most_entries: int, most_bytes: int) -> None:
        self._most_entries, self._most_bytes = most_entries, most_bytes
        self._entries: dict[str, tuple[float, int, T]] = {}

    def put(self, value: T, size: int) -> str:
        """Keep a value; the random name under which it can be taken.

        Raises:
            RefusedError: There is no room.
        """
        now = monotonic()
        late = [name for name, (until, _, _) in self._entries.items() if until < now]
        for name in late:
            del self._entries[name]
        held = sum(kept for _, kept, _ in self._entries.values())
        if len(self._entries) >= self._most_entries or held + size > self._most_bytes:
            raise RefusedError(503)
        name = secrets.token_hex(16)
        self._entries[name] = (now + HELD_SECONDS, size, value)
        return name

    def take(self, name: str) -> T | None:
        """The value of this name, which is then gone; None if there is none (any more)."""
        until, _, value = self._entries.pop(name, (0.0, 0, None))
        return value if until >= monotonic() else None

    def take_first(self, wanted: Callable[[T], bool]) -> tuple[str, T] | None:
        """The first value that is wanted, which is then gone, with its name; None if there is none."""
        for name in [name for name, (_, _, value) in self._entries.items() if wanted(value)]:
            if (value := self.take(name)) is not None:
                return name, value
        return None


@dataclass(frozen=True)
class _Job:
    """A request that waits until its client listens."""

    session: str
    fields: Mapping[str, str]
    image: bytes


class Endpoint:
    """Answers ``gradio_client`` for one page; ``ask`` scores. Its methods may raise :class:`RefusedError`."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._uploads: Held[bytes] = Held(MAX_WAITING, MAX_HELD)
        self._jobs: Held[_Job] = Held(MAX_WAITING, MAX_HELD)

    async def upload(self, request: Request) -> Response:
        """Keep one file of at most 20 MB; its name, in a list."""
        data = await _file(request)
        return JSONResponse([self._uploads.put(data, len(data))])

    async def join(self, request: Request) -> Response:
        """Keep a request until its client listens; its number."""
        job = self._job(await request.body())
        return JSONResponse({"event_id": self._jobs.put(job, len(job.image))})

    async def events(self, request: Request) -> Response:
        """The results of a session's requests, one event each; then the end."""
        session = request.query_params.get("session_hash", "")
        return StreamingResponse(self._events(request, session), media_type="text/event-stream")

    def _job(self, body: bytes) -> _Job:
        """The request in a body. Raises :class:`RefusedError` if the client does not send such."""
        match json_of(body):
            case {"session_hash": str(session), "data": [{"path": str(name)}, *texts]}:
                if not _SESSION.fullmatch(session) or len(texts) > len(_TEXTS):
                    raise RefusedError(400)
                fields = {key: _text(text) for key, text in zip(_TEXTS, texts, strict=False)}
                image = self._uploads.take(name)
                if image is None:
                    raise RefusedError(400, b"This picture has not been uploaded, or more than a minute ago.")
                return _Job(session, fields, image)
        raise RefusedError(400)

    async def _events(self, request: Request, session: str) -> AsyncIterator[bytes]:
        while (found := self._jobs.take_first(lambda job: job.session == session)) is not None:
            name, job = found
            yield _event(msg="process_starts", event_id=name)
            output = await self._output(request, job)
            yield _event(msg="process_completed", event_id=name, output=output, success="data" in output)
        yield _event(msg="close_stream", event_id=None)

    async def _output(self, request: Request, job: _Job) -> dict[str, Any]:
        try:
            reply = await self._ask(request, job.fields, job.image)
        except RefusedError as error:
            return {"error": error.reason.decode()}
        if reply.values is None:
            wrong = [f"{one.field}: {one.message}" if one.field else one.message for one in reply.errors]
            return {"error": " ".join(wrong)}
        return {"data": [reply.values]}


async def _file(request: Request) -> bytes:
    """The one file of a form."""
    parser = MultiPartParser(request.headers, request.stream(), max_files=1, max_fields=0)
    parser.spool_max_size = MAX_BODY  # in memory: an upload never becomes a file
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeError):
        raise RefusedError(400) from None
    files = [part for part in form.values() if not isinstance(part, str)]
    if not files:
        raise RefusedError(400)
    data = await files[0].read()
    await form.close()
    if len(data) > MAX_BYTES:
        raise RefusedError(413)
    return data


def _text(value: object) -> str:
    if isinstance(value, str):
        return whole(value)
    if value is None:
        return ""
    raise RefusedError(400)


def json_of(body: bytes) -> Any:
    """The value in a request. Raises :class:`RefusedError` where it is not JSON.

    Numbers stay text: no field is one, and a very long one would take very long to read.
    """
    try:
        return json.loads(body.decode(), parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        raise RefusedError(400) from None


def whole(text: str) -> str:
    """``text`` with a question mark for each half of a surrogate pair, which no encoding can write."""
    return text.encode(errors="replace").decode()


def _event(**message: object) -> bytes:
    return b"data: " + json.dumps(message).encode() + b"\n\n"
