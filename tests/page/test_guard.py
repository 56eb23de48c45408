"""What stands before the pages: routes, host names, bodies, origins and accounts."""

from __future__ import annotations

import asyncio
import base64
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import descscore.page.guard as guard
import descscore.study.accounts
from descscore.errors import DataError, UsageError
from descscore.page.guard import MAX_BODY, MAX_FORM, Guard, Hosts, Lane, RefusedError, Room
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
    behind: Behind | None = None,
) -> tuple[int, dict[bytes, bytes], Behind]:
    """Status, headers, and what reached the application."""
    behind = behind or Behind()
    sent, left = [], list(chunks)

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
        "/gradio_api/queue/data",
        "/try/gradio_api/queue/status",
        "/try/gradio_api/queue/data/x",
        "/try/gradio_api/call/score",
        "/try/gradio_api/file=/etc/passwd",
        "/try/gradio_api/heartbeat/x",
        "/act",
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
        "/gradio_api/queue/join",
        "/try/gradio_api/call/score",
        "/try/gradio_api/queue/data",
        "/try/gradio_api/cancel",
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


def test_what_a_program_needs_is_there_on_the_page_that_takes_images_alone() -> None:
    for method, path in (
        ("GET", "gradio_api/info"),
        ("GET", "gradio_api/queue/data"),
        ("POST", "gradio_api/queue/join"),
        ("POST", "gradio_api/upload"),
    ):
        assert ask(method, f"/try/{path}")[0] == 200
        assert ask(method, f"/{path}")[0] == 404
    evil = {"origin": "https://example.org", "host": "localhost"}
    for path, largest in (("gradio_api/upload", MAX_BODY), ("gradio_api/queue/join", MAX_FORM)):
        assert ask("POST", f"/try/{path}", evil)[0] == 403
        assert ask("POST", f"/try/{path}", {"content-length": str(largest)})[0] == 200
        assert ask("POST", f"/try/{path}", {"content-length": str(largest + 1)})[0] == 413


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        (b"session_hash=0f-9", b"session_hash=0f-9"),
        (b"session_hash=0f&deep_link=a", b""),
        (b"session_hash=" + b"a" * 65, b""),
        (b"deep_link=a", b""),
    ],
)
def test_of_all_queries_only_the_session_of_a_program_s_events_goes_on(query: bytes, kept: bytes) -> None:
    behind = ask("GET", "/try/gradio_api/queue/data", query=query)[2]
    assert behind.scope is not None
    assert behind.scope["query_string"] == kept
    behind = ask("GET", "/try/config", query=query)[2]
    assert behind.scope["query_string"] == b""


@pytest.mark.parametrize(("page", "largest"), [("/try", MAX_BODY), ("", MAX_FORM)])
def test_bodies_are_bounded(page: str, largest: int) -> None:
    join = f"{page}/act"
    assert ask("POST", join, {"content-length": str(largest)})[0] == 200
    assert ask("POST", join, {"content-length": str(largest + 1)})[0] == 413
    assert ask("POST", join, chunks=(10, largest - 10))[0] == 200
    for said in ({"content-length": "10"}, {}):  # says little, or nothing, and sends much
        assert ask("POST", join, said, chunks=(largest, 1))[0] == 413


def test_large_requests_share_a_bounded_memory() -> None:
    """Each is held until all are there. Those that fit pass, others are refused, small ones pass."""
    inside, go_on, size = [], asyncio.Event(), 2 * MAX_FORM

    async def behind(scope: dict[str, Any], receive: Any, send: Any) -> None:
        inside.append(scope)
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    application = Guard(behind, images_at="/try/", large=Room(4 * size))

    async def ask_for(length: int | None, sent: int = size) -> int:
        statuses, left = [], [b"x" * (sent // 2)] * 2

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": left.pop(), "more_body": bool(left)}

        async def send(message: dict[str, Any]) -> None:
            statuses.append(message.get("status"))

        headers = [] if length is None else [(b"content-length", str(length).encode())]
        scope = {"type": "http", "method": "POST", "path": "/try/act", "headers": headers}
        await application(scope, receive, send)
        assert not left  # a refused one has been taken in
        return statuses[0]

    async def all_at_once() -> list[int]:
        waiting = [asyncio.create_task(ask_for(length)) for length in [MAX_BODY, None] * 2]
        while len(inside) < 4:
            await asyncio.sleep(0)
        found = [await ask_for(MAX_BODY), await ask_for(None)]
        small = asyncio.create_task(ask_for(MAX_FORM, MAX_FORM))
        while len(inside) == 4:
            await asyncio.sleep(0)
        go_on.set()
        assert await asyncio.gather(small, *waiting) == [200] * 5
        return [*found, await ask_for(MAX_BODY)]

    assert asyncio.run(asyncio.wait_for(all_at_once(), 60)) == [503, 503, 200]


def test_large_requests_that_have_hardly_begun_keep_nobody_out() -> None:
    """A thousand claim a large body and send a byte of it; another one arrives whole."""
    application, never = Guard(Behind(), images_at="/try/", large=Room(MAX_BODY)), asyncio.Event()
    length = [(b"content-length", str(MAX_BODY).encode())]
    scope = {"type": "http", "method": "POST", "path": "/try/act", "headers": length}
    statuses: list[Any] = []

    async def send(message: dict[str, Any]) -> None:
        statuses.append(message.get("status"))

    async def begin() -> None:
        coming = [{"type": "http.request", "body": b"x", "more_body": True}]

        async def receive() -> dict[str, Any]:
            if not coming:
                await never.wait()
            return coming.pop()

        await application(scope, receive, nobody_listens)

    async def whole() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * (MAX_BODY - 1000), "more_body": False}

    async def run() -> None:
        begun = [asyncio.create_task(begin()) for _ in range(1000)]
        await asyncio.sleep(0.1)
        await application(scope, whole, send)
        for task in begun:
            task.cancel()

    asyncio.run(run())
    assert statuses[0] == 200


async def nobody_listens(message: dict[str, Any]) -> None:
    """ASGI's ``send`` whose messages nobody needs."""


def test_room_comes_free_when_the_application_fails() -> None:
    async def failing(scope: dict[str, Any], receive: Any, send: Any) -> None:
        raise KeyError

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x"}

    async def ask_often() -> None:
        application = Guard(failing, images_at="/try/", large=Room(1))
        scope = {"type": "http", "method": "POST", "path": "/try/act", "headers": []}
        for _ in range(2):
            with pytest.raises(KeyError):  # not refused: it reached the application
                await application(scope, receive, nobody_listens)

    asyncio.run(ask_often())


def test_a_request_that_trickles_in_is_refused_and_one_that_is_there_may_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "MAX_SECONDS", 0.5)
    scope = {"type": "http", "method": "POST", "path": "/act", "headers": []}
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
    scope = {"type": "http", "method": "POST", "path": "/act", "headers": []}
    asyncio.run(Guard(behind)(scope, receive, nobody_listens))
    assert behind.scope is None


def test_no_query_reaches_a_page() -> None:
    for path in ("/", "/config", "/gradio_api/app_id"):
        behind = ask("GET", path, query=b"deep_link=a")[2]
        assert behind.scope is not None
        assert behind.scope["query_string"] == b""


def test_a_websocket_is_closed() -> None:
    behind, sent = Behind(), []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["type"])

    asyncio.run(Guard(behind)({"type": "websocket", "path": "/", "headers": []}, None, send))
    assert (behind.scope, sent) == (None, ["websocket.close"])


def test_another_site_cannot_send() -> None:
    join, length = "/act", {"content-length": "0", "host": "127.0.0.1:7860"}
    assert ask("POST", join, length | {"origin": "http://127.0.0.1:7860"})[0] == 200
    assert ask("POST", join, length | {"origin": "https://example.org"})[0] == 403
    assert ask("POST", join, length | {"origin": "null"})[0] == 403
    assert ask("POST", join, {"content-length": "0", "origin": "http://127.0.0.1:7860"})[0] == 403


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "http://[x]", "//[", "http://\xe9["])
def test_an_origin_that_is_none_is_a_bad_request(origin: str) -> None:
    status, _, behind = ask("POST", "/act", {"content-length": "0", "host": "localhost", "origin": origin})
    assert status in (400, 403)
    assert behind.scope is None


@pytest.mark.parametrize("name", ["host", "origin", "authorization", "content-length"])
def test_a_header_that_decides_may_not_be_there_twice(name: str) -> None:
    """Two parts of a server could each believe another one."""
    scope = {"type": "http", "method": "POST", "path": "/act", "headers": [(name.encode(), b"1")] * 2}
    statuses = []

    async def send(message: dict[str, Any]) -> None:
        statuses.append(message.get("status"))

    asyncio.run(Guard(Behind())(scope, None, send))
    assert statuses[0] == 400


KNOWN = {
    "127.0.0.1": ("localhost", "LOCALHOST:7860", "127.0.0.1:1", "[::1]:7860", "localhost."),
    "::1": ("[::1]", "localhost:80"),
    "0.0.0.0": ("10.0.0.7:7860", "192.168.1.1", "[fe80::1]:80", "localhost", "study.example.org"),
    "10.0.0.7": ("10.0.0.7", "10.0.0.7:7860", "127.0.0.1", "study.example.org:443"),
    "machine.example.net": ("machine.example.net:7860", "MACHINE.example.net"),
}
UNKNOWN = {
    "127.0.0.1": (
        "example.org",
        "10.0.0.7",
        "127.0.0.1.example.org",
        "",
        "[",
        "]",
        "[::1",
        "a b",
        "localhost@x",
    ),
    "0.0.0.0": ("example.org", "evil.study.example.org", "study.example.org.evil.net", "127.0.0.1.nip.io:80"),
    "10.0.0.7": ("10.0.0.8", "example.org:7860", "10.0.0.7.nip.io"),
    "machine.example.net": ("example.net", "10.0.0.7"),
}


def test_host_names_are_checked_wherever_the_server_listens() -> None:
    for host, headers in KNOWN.items():
        for header in headers:
            assert Hosts(host, ("Study.Example.org",)).know(header), (host, header)
    for host, headers in UNKNOWN.items():
        for header in headers:
            assert not Hosts(host, ("study.example.org",)).know(header), (host, header)
    status, _, behind = ask("GET", "/", {"host": "example.org"})
    assert (status, behind.scope) == (400, None)


class Reflecting(Behind):
    """Lets every origin read its answers and every cache keep them, as a careless application does."""

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def careless(message: dict[str, Any]) -> None:
            headers = [(b"Access-Control-Allow-Origin", b"http://localhost:1"), (b"Cache-Control", b"public")]
            await send(message | {"headers": headers})

        await super().__call__(scope, receive, careless)


def test_no_origin_is_reflected_and_only_static_files_are_kept() -> None:
    for path, kept in (
        ("/", b"no-store"),
        ("/config", b"no-store"),
        ("/assets/a.js", None),
        ("/none", b"no-store"),
    ):
        _, headers, _ = ask("GET", path, {"origin": "http://localhost:1"}, behind=Reflecting())
        names = {name.lower() for name in headers}
        assert not any(name.startswith(b"access-control") for name in names)
        assert headers.get(b"cache-control") == kept


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
    for text, reason in (
        *(("", "holds no accounts"), ("ann:xx\n", "line 1"), ("\na:zz:00\n", "line 2")),
        ("a:00:00\nb:00:00\na:11:11\n", "line 3: has account 'a' a second time"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=reason):
            Accounts.read(file)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DataError, match="is not a regular file"):
        Accounts.read(file)
    file.unlink()
    for name, password in (("a:b", "long enough"), ("", "long enough"), ("ann", "short")):
        with pytest.raises(UsageError):
            write_account(file, name, password)
    assert not file.exists()


def test_a_request_without_credentials_costs_no_password_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_account(tmp_path / "accounts", "ann", "a long password")
    accounts = Accounts.read(tmp_path / "accounts")
    assert ask("GET", "/", basic("ann", "a long password"), accounts)[0] == 200
    monkeypatch.setattr(descscore.study.accounts.hashlib, "scrypt", None)  # any check would fail now
    for nothing in ({}, {"authorization": ""}, {"authorization": "Basic"}, {"authorization": "Bearer a"}):
        assert ask("GET", "/", nothing, accounts)[0] == 401
    assert ask("GET", "/", basic("ann", "a long password"), accounts)[0] == 200


def test_known_accounts_pass_while_a_flood_of_wrong_passwords_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_account(tmp_path / "accounts", "ann", "a long password")
    accounts, go_on = Accounts.read(tmp_path / "accounts"), threading.Event()
    right = {name.encode(): value.encode() for name, value in basic("ann", "a long password").items()}
    assert accounts.user(right[b"authorization"].decode()) == "ann"
    monkeypatch.setattr(accounts, "user", lambda header: go_on.wait(60) and None)
    application = Guard(Behind(), accounts)

    async def status(headers: dict[bytes, bytes]) -> int:
        statuses = []

        async def send(message: dict[str, Any]) -> None:
            statuses.append(message.get("status"))

        scope = {"type": "http", "method": "GET", "path": "/", "headers": list(headers.items())}
        await application(scope, None, send)
        return statuses[0]

    async def flood() -> None:
        wrong = [asyncio.create_task(status({b"authorization": b"Basic %d" % i})) for i in range(200)]
        await asyncio.sleep(0.1)
        assert await status(right) == 200
        go_on.set()
        assert set(await asyncio.gather(*wrong)) == {401, 503}  # only some of them may wait

    asyncio.run(asyncio.wait_for(flood(), 60))


def test_two_accounts_written_at_once_are_both_kept_or_one_is_told(tmp_path: Path) -> None:
    file, results = tmp_path / "accounts", []

    def add(name: str) -> None:
        try:
            write_account(file, name, "a long password")
            results.append(name)
        except DataError as error:
            assert "try again" in str(error)

    threads = [threading.Thread(target=add, args=(f"name{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results
    assert sorted(line.split(":")[0] for line in file.read_text().splitlines()) == sorted(results)


def test_a_lane_runs_some_lets_some_wait_and_refuses_more() -> None:
    async def run() -> list[Any]:
        lane, go_on, ran = Lane(at_once=1, waiting=2), threading.Event(), []
        running = [asyncio.create_task(lane.run(go_on.wait, 60))]
        running += [asyncio.create_task(lane.run(ran.append, number)) for number in range(2)]
        await asyncio.sleep(0.1)
        with pytest.raises(RefusedError):
            await lane.run(ran.append, "refused")
        running[1].cancel()  # whoever goes away gives their place to another
        await asyncio.sleep(0)
        running.append(asyncio.create_task(lane.run(ran.append, "later")))
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*running, return_exceptions=True)
        return ran

    assert asyncio.run(asyncio.wait_for(run(), 60)) == [1, "later"]
