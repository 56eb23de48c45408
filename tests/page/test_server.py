"""Clients that are slow on purpose, and what strangers can do to the log."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import descscore.page.server as server
from descscore.page.server import LINES_A_MINUTE, LONGEST_LINE, LogLimit
from page_client import serve

LARGE = 30 * 2**20


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers with as many bytes as the path says, after the body has come."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/slow":
        await asyncio.sleep(2)
    size = LARGE if scope["path"] == "/large" else 2
    headers = [(b"content-length", str(size).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x" * size})


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    monkeypatch.setattr(server, "HEADER_SECONDS", 1.0)
    monkeypatch.setattr(server, "SEND_SECONDS", 1.0)
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 5)
    for address in serve(application):
        host, port = address.split("/")[2].split(":")
        yield host, int(port)


def is_dropped(link: socket.socket, seconds: float) -> bool:
    """Whether the server ends this connection within so many seconds."""
    link.settimeout(seconds)
    try:
        return link.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def ask(place: tuple[str, int], path: str = "/") -> int:
    link = http.client.HTTPConnection(*place, timeout=60)
    link.request("GET", path)
    status = link.getresponse().status
    link.close()
    return status


@pytest.mark.parametrize(
    "sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "a byte", "half"]
)
def test_a_head_that_does_not_come_ends_the_connection(place: tuple[str, int], sent: bytes) -> None:
    with socket.create_connection(place) as link:
        link.sendall(sent)
        assert is_dropped(link, 30)


def test_a_head_that_trickles_in_ends_the_connection(place: tuple[str, int]) -> None:
    """Also on a connection that has had an answer."""
    with socket.create_connection(place) as link:
        link.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert link.recv(1000)
        begun = time.monotonic()
        with contextlib.suppress(OSError):
            while not is_dropped(link, 0.3):
                link.sendall(b"G")
        assert time.monotonic() - begun < 20


def test_an_answer_that_takes_long_is_not_cut_off(place: tuple[str, int]) -> None:
    assert ask(place, "/slow") == 200


def test_who_does_not_take_the_answer_is_dropped(place: tuple[str, int]) -> None:
    with socket.create_connection(place) as link:
        link.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(4)
        taken, link_open = 0, True
        link.settimeout(10)
        while link_open:
            try:
                part = link.recv(2**20)
            except ConnectionResetError:
                part = b""
            taken, link_open = taken + len(part), bool(part)
        assert taken < LARGE  # what the system had taken over, but not all


BODY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx"
UNREAD = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"
DONE = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "sent", [b"", b"G", BODY, UNREAD, DONE], ids=["none", "head", "body", "answer", "idle"]
)
def test_slow_and_idle_connections_give_way_to_people(
    place: tuple[str, int], monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(server, "HEADER_SECONDS", 60.0)
    monkeypatch.setattr(server, "SEND_SECONDS", 60.0)
    slow = [socket.create_connection(place) for _ in range(5)]
    for link in slow:
        link.sendall(sent)
    time.sleep(0.5)
    for _ in range(10):
        assert ask(place) == 200
    for link in slow:
        link.close()


def test_an_answer_on_its_way_does_not_give_way(place: tuple[str, int]) -> None:
    statuses: list[int] = []
    people = [threading.Thread(target=lambda: statuses.append(ask(place, "/slow"))) for _ in range(4)]
    for one in people:
        one.start()
    time.sleep(0.5)
    idle = [socket.create_connection(place) for _ in range(10)]
    for one in people:
        one.join()
    assert statuses == [200] * 4
    for link in idle:
        link.close()


def test_what_a_client_sends_meanwhile_buys_it_no_time(place: tuple[str, int]) -> None:
    with socket.create_connection(place) as link:
        link.sendall(UNREAD)
        begun = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - begun < 20:
                time.sleep(0.2)
                link.sendall(b"G")
        assert time.monotonic() - begun < 20


def record(message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("x", logging.ERROR, "x", 1, message, arguments, None)


def test_a_message_in_the_log_is_short_and_moves_no_cursor() -> None:
    limit, odd = LogLimit(), record("%s", "\x1b[2J\r" + "x" * 10**6 + "\u202e the end")
    assert limit.filter(odd)
    assert len(odd.getMessage()) < LONGEST_LINE + 100
    assert odd.getMessage().startswith("\\u001b[2J\\r")
    assert odd.getMessage().endswith(" the end")
    assert odd.getMessage().isprintable()


def test_an_error_s_traceback_is_kept_in_bounds() -> None:
    try:
        raise KeyError("y" * 10**6)
    except KeyError as error:
        failed = record("failed")
        failed.exc_info = (KeyError, error, error.__traceback__)
    assert LogLimit().filter(failed)
    assert "KeyError" in failed.getMessage()
    assert len(logging.Formatter().format(failed)) < LONGEST_LINE + 100


def test_a_minute_has_only_so_many_messages() -> None:
    now = [0.0]
    limit = LogLimit(lambda: now[0])
    assert sum(limit.filter(record("one")) for _ in range(1000)) == LINES_A_MINUTE
    now[0] = 61
    assert limit.filter(record("next"))
