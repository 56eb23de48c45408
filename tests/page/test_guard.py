"""What stands before the pages: routes, bodies, origins, accounts, and uploads."""

from __future__ import annotations

import asyncio
import base64
import io
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import descscore.page.guard as guard
from descscore.errors import DataError, ImageError, UsageError
from descscore.page.guard import (
    LARGE_AT_ONCE,
    MAX_BODY,
    MAX_BYTES,
    MAX_FORM,
    Guard,
    read_upload,
)
from descscore.study.accounts import Accounts, write_account


class Behind:
    """The application behind the guard: says what reached it."""

    def __init__(self) -> None:
        self.scope: dict[str, Any] | None = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.scope = scope
        if scope["method"] == "POST":
            while (await receive()).get("more_body"):
                pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})


def ask(
    method: str,
    path: str,
    headers: dict[str, str] | None = None,
    accounts: Accounts | None = None,
    chunks: tuple[int, ...] = (0,),
    query: bytes = b"",
) -> tuple[int, dict[bytes, bytes], Behind]:
    """Status, headers, and what reached the application."""
    behind, sent, left = Behind(), [], list(chunks)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * left.pop(0), "more_body": bool(left)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": method, "path": path, "headers": pairs, "query_string": query}
    asyncio.run(Guard(behind, accounts, images_at="/try/")(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), behind


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/try/",
        "/config",
        "/assets/index-DphvyggB.js",
        "/gradio_api/queue/data",
        "/gradio_api/app_id",
        "/try/theme.css",
    ],
)
def test_what_the_page_needs_is_there(path: str) -> None:
    status, headers, _ = ask("GET", path)
    assert status == 200
    assert b"frame-ancestors 'none'" in headers[b"content-security-policy"]
    assert b"default-src 'self'" in headers[b"content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=https://example.org/a.png",
        "/gradio_api/proxy=https://example.org/",
        "/gradio_api/file/etc/passwd",
        "/assets/../../../etc/passwd",
        "/static/%2e%2e/secret",
        "/gradio_api/upload_progress",
        "/gradio_api/info",
        "/gradio_api/heartbeat/x",
        "/gradio_api/startup-events",
        "/manifest.json",
        "/gradio_api/runs",
        "/gradio_api/stream/a/b/c/playlist.m3u8",
        "/monitoring",
        "/docs",
        "/openapi.json",
        "/study.db",
        "//etc/passwd",
    ],
)
def test_nothing_else_is_there(path: str) -> None:
    status, _, behind = ask("GET", path)
    assert status == 404
    assert behind.scope is None


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/upload",
        "/gradio_api/run/predict",
        "/gradio_api/component_server",
        "/gradio_api/cancel",
        "/gradio_api/reset",
        "/",
    ],
)
def test_nothing_else_takes_anything(path: str) -> None:
    assert ask("POST", path, {"content-length": "0"})[0] == 404
    assert ask("DELETE", path)[0] == 405


@pytest.mark.parametrize(("page", "largest"), [("/try", MAX_BODY), ("", MAX_FORM)])
def test_bodies_are_bounded(page: str, largest: int) -> None:
    join = f"{page}/gradio_api/queue/join"
    assert ask("POST", join, {"content-length": str(largest)})[0] == 200
    assert ask("POST", join, {"content-length": str(largest + 1)})[0] == 413
    assert ask("POST", join, chunks=(10, largest - 10))[0] == 200
    for said in ({"content-length": "10"}, {}):  # says little, or nothing, and sends much
        assert ask("POST", join, said, chunks=(largest, 1))[0] == 413


def test_large_requests_on_their_way_at_once_are_bounded() -> None:
    """The application holds each until all are there: eight pass, a ninth is refused, small ones pass."""
    join, held = "/try/gradio_api/queue/join", LARGE_AT_ONCE
    inside, go_on = [], asyncio.Event()

    async def behind(scope: dict[str, Any], receive: Any, send: Any) -> None:
        inside.append(scope)
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    application = Guard(behind, images_at="/try/")

    async def ask_for(length: int | None) -> int:
        statuses, left = [], [b"x" * 1000, b"x" * 1000]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": left.pop(), "more_body": bool(left)}

        async def send(message: dict[str, Any]) -> None:
            statuses.append(message.get("status"))

        headers = [] if length is None else [(b"content-length", str(length).encode())]
        scope = {"type": "http", "method": "POST", "path": join, "headers": headers}
        await application(scope, receive, send)
        assert length != MAX_BODY or statuses[0] == 200 or not left  # a refused one has been taken in
        return statuses[0]

    async def all_at_once() -> list[int]:
        waiting = [asyncio.create_task(ask_for(length)) for length in [MAX_BODY, None] * (held // 2)]
        while len(inside) < held:
            await asyncio.sleep(0)
        found = [await ask_for(MAX_BODY), await ask_for(None)]
        small = asyncio.create_task(ask_for(MAX_FORM))
        while len(inside) == held:
            await asyncio.sleep(0)
        go_on.set()
        assert await asyncio.gather(small, *waiting) == [200] * (held + 1)
        return [*found, await ask_for(MAX_BODY)]

    assert asyncio.run(asyncio.wait_for(all_at_once(), 60)) == [503, 503, 200]


async def nobody_listens(message: dict[str, Any]) -> None:
    """ASGI's ``send`` whose messages nobody needs."""


def test_room_comes_free_when_the_application_fails() -> None:
    async def failing(scope: dict[str, Any], receive: Any, send: Any) -> None:
        raise KeyError

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x"}

    async def ask_often() -> None:
        application = Guard(failing, images_at="/try/")
        scope = {"type": "http", "method": "POST", "path": "/try/gradio_api/queue/join", "headers": []}
        for _ in range(LARGE_AT_ONCE + 1):
            with pytest.raises(KeyError):  # not refused: it reached the application
                await application(scope, receive, nobody_listens)

    asyncio.run(ask_often())


def test_a_request_that_trickles_in_is_refused_and_one_that_is_there_may_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "MAX_SECONDS", 0.5)
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/queue/join", "headers": []}
    sent: list[dict[str, Any]] = []

    async def never() -> dict[str, Any]:
        await asyncio.sleep(60)
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(Guard(Behind())(scope, never, send))
    assert [message.get("status") for message in sent] == [408, None]
    coming = [{"type": "http.request", "body": b"x"}, {"type": "http.disconnect"}]

    async def there() -> dict[str, Any]:
        await asyncio.sleep(0.8 * (len(coming) == 1))  # longer than a body may take
        return coming.pop(0)

    async def behind(scope: dict[str, Any], receive: Any, send: Any) -> None:
        sent.extend([await receive(), await receive()])

    sent.clear()
    asyncio.run(Guard(behind)(scope, there, send))
    assert [message["type"] for message in sent] == ["http.request", "http.disconnect"]


def test_who_goes_away_in_the_middle_reaches_nothing() -> None:
    coming = [{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> dict[str, Any]:
        return coming.pop(0)

    behind = Behind()
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/queue/join", "headers": []}
    asyncio.run(Guard(behind)(scope, receive, nobody_listens))
    assert behind.scope is None


def test_queries_reach_only_the_route_that_needs_one() -> None:
    for path, kept in (("/", b""), ("/config", b""), ("/gradio_api/queue/data", b"session_hash=a")):
        assert ask("GET", path, query=b"session_hash=a")[2].scope["query_string"] == kept


def test_a_websocket_is_closed() -> None:
    behind, sent = Behind(), []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["type"])

    asyncio.run(Guard(behind)({"type": "websocket", "path": "/", "headers": []}, None, send))
    assert (behind.scope, sent) == (None, ["websocket.close"])


def test_another_site_cannot_send() -> None:
    join, length = "/gradio_api/queue/join", {"content-length": "0", "host": "127.0.0.1:7860"}
    assert ask("POST", join, length | {"origin": "http://127.0.0.1:7860"})[0] == 200
    assert ask("POST", join, length | {"origin": "https://example.org"})[0] == 403
    assert ask("POST", join, length | {"origin": "null"})[0] == 403


def basic(name: str, password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def test_accounts(tmp_path: Path) -> None:
    file = tmp_path / "accounts"
    write_account(file, "ann@example.org", "correct: horse")
    write_account(file, "bo", "früher war mehr")
    write_account(file, "bo", "a newer password")
    accounts = Accounts.read(file)
    assert b"horse" not in file.read_bytes()
    assert file.stat().st_mode & 0o077 == 0
    status, _, behind = ask("GET", "/", basic("ann@example.org", "correct: horse"), accounts)
    assert status == 200
    assert dict(behind.scope["headers"])[b"x-descscore-account"] == b"ann@example.org"
    assert ask("GET", "/", basic("bo", "a newer password"), accounts)[0] == 200
    for wrong in (
        {},
        basic("bo", "früher war mehr"),
        basic("bo", ""),
        basic("", ""),
        basic("nobody", "a newer password"),
        {"authorization": "Basic ???"},
        {"authorization": "Bearer a"},
        {"x-descscore-account": "bo"},
    ):
        status, headers, behind = ask("GET", "/", wrong, accounts)
        assert status == 401
        assert headers[b"www-authenticate"].startswith(b"Basic realm=")
        assert behind.scope is None


def test_nobody_can_say_who_they_are_themselves(tmp_path: Path) -> None:
    _, _, behind = ask("GET", "/", {"x-descscore-account": "bo"})
    assert b"x-descscore-account" not in dict(behind.scope["headers"])


def test_account_files_errors_name_the_line(tmp_path: Path) -> None:
    file = tmp_path / "accounts"
    with pytest.raises(DataError, match="cannot be read"):
        Accounts.read(file)
    for text, reason in (("", "holds no accounts"), ("ann:xx\n", "line 1"), ("\na:zz:00\n", "line 2")):
        file.write_text(text)
        with pytest.raises(DataError, match=reason):
            Accounts.read(file)
    file.unlink()
    for name, password in (("a:b", "long enough"), ("", "long enough"), ("ann", "short")):
        with pytest.raises(UsageError):
            write_account(file, name, password)
    assert not file.exists()


def address(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def png(size: tuple[int, int], mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def saved(kind: str, **more: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(buffer, kind, **more)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "MPO"])
def test_an_upload_is_read(kind: str) -> None:
    image = read_upload(address(saved(kind)))
    assert (image.size, image.mode) == ((30, 20), "RGB")


@pytest.mark.parametrize("kind", ["EPS", "TIFF", "PCX", "PPM", "TGA", "ICO", "PDF"])
def test_formats_that_no_browser_shows_are_not_even_tried(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands EPS files to another program, Ghostscript."""
    data = saved(kind)
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(ImageError, match="not an image that can be read"):
        read_upload(address(data))


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ("/etc/passwd", "did not arrive"),
        ("file:///etc/passwd", "did not arrive"),
        ("https://example.org/a.png", "did not arrive"),
        ("", "did not arrive"),
        ("data:image/png;base64,***", "did not arrive whole"),
        ("data:application/octet-stream;base64,", "is empty"),
        (address(b"%PDF-1.7 no image"), "not an image"),
        (address(b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"), "not an image"),
        (address(png((300, 200))[:200]), "damaged or incomplete"),
        (address(png((12_000, 6_000), "1")), "more than 60 million pixels"),
        (address(png((100_000, 5_000), "1")), "more than 60 million pixels"),
        ("data:image/png;base64," + "A" * (MAX_BYTES * 4 // 3 + 100), "larger than 20 MB"),
    ],
)
def test_a_bad_upload_says_what_to_do(sent: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read_upload(sent)
