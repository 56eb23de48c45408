"""The pages as they are served, Gradio and all, over HTTP: what a stranger may try."""

from __future__ import annotations

import gc
import http.client
import json
import logging
import re
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from descscore.page.guard import MAX_FORM
from descscore.page.reply import Reply
from descscore.page.site import build_app
from descscore.page.study_page import StudyPage
from page_client import TIMEOUT, PageClient, ask, serve
from study_tools import make_store, profile

SECRET = "the-secret-of-this-test"
KEPT = {"", "/", "/config", "/config/", "/theme.css", "/favicon.ico", "/robots.txt"}
KEPT |= {"/assets/x", "/static/x", "/try", "/gradio_api/app_id"}
KEPT |= {"/gradio_api/theme.css"}
KEPT_POST = {"/act"}
FOR_PROGRAMS = {"/try/gradio_api/info", "/try/gradio_api/queue/data"}
FOR_PROGRAMS |= {"/try/gradio_api/queue/join", "/try/gradio_api/upload"}


class Trial:
    """In place of the page to try, without a model: says what reached it, waits, or fails."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.waiting: list[str] = []

    def act(
        self, action: str, fields: Mapping[str, str], account: str | None = None, image: bytes | None = None
    ) -> Reply:
        if action == "fail":
            raise RuntimeError(SECRET)
        if action == "wait":
            self.waiting.append(action)
            self.go_on.wait(TIMEOUT)
        return Reply(page=f"{action} {'none' if image is None else len(image)}")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyPage:
    folder = tmp_path_factory.mktemp("served")
    (folder / "secret.txt").write_text(SECRET)
    store = make_store(folder, images=2, texts=1)
    return StudyPage(store, store.items())


@pytest.fixture(scope="module")
def trial() -> Trial:
    return Trial()


@pytest.fixture(scope="module")
def app(study: StudyPage, trial: Trial) -> Any:
    return build_app(study, trial)


@pytest.fixture(scope="module")
def address(app: Any) -> Iterator[str]:
    yield from serve(app)


def gradio_routes(app: Any) -> set[tuple[str, str]]:
    """Method and path of every route of Gradio behind the guard, whatever its version has."""
    found: set[tuple[str, str]] = set()

    def walk(router: Any, prefix: str) -> None:
        for route in router.routes:
            inner = getattr(route, "original_router", None) or getattr(route, "app", None)
            path = getattr(route, "path", "") or ""
            if hasattr(inner, "routes"):
                walk(inner, prefix + path)
            elif hasattr(route, "methods"):
                found.update((method, prefix + path) for method in route.methods or ())

    walk(app.app, "")
    return found


def test_of_all_of_gradio_s_routes_only_those_the_page_needs_answer(app: Any, address: str) -> None:
    routes = gradio_routes(app)
    paths = {path for _, path in routes}
    assert {"/config", "/try/config", "/act", "/try/act"} <= paths
    assert len(paths) > 30
    answering: dict[str, set[str]] = {"GET": set(), "POST": set()}
    for method, path in sorted(routes):
        plain = re.sub(r"\{[^}]*\}", "x", path)
        status, _ = ask(address, method, plain, {"content-length": "0"} if method == "POST" else {})
        if status not in (404, 405) and plain not in FOR_PROGRAMS:
            answering["GET" if method == "HEAD" else method].add(plain.removeprefix("/try") or "/")
    assert answering["GET"] <= KEPT
    assert answering["POST"] <= KEPT_POST


GRADIO_6_31 = """
/ /act /assets/x /config /favicon.ico /login /logout /manifest.json /monitoring /monitoring/summary
/monitoring/x /openapi.json /pwa_icon /pwa_icon/x /robots.txt /static/x /svelte/x /theme.css /try
/gradio_api/api/x /gradio_api/app_id /gradio_api/call/v2/x /gradio_api/call/v2/x/x /gradio_api/call/x
/gradio_api/call/x/x /gradio_api/cancel /gradio_api/component_server /gradio_api/custom_component/x/x/x/x
/gradio_api/deep_link /gradio_api/dev/reload /gradio_api/file/x /gradio_api/file=x /gradio_api/heartbeat/x
/gradio_api/info /gradio_api/login_check /gradio_api/openapi.json /gradio_api/process_recording
/gradio_api/proxy=x /gradio_api/queue/data /gradio_api/queue/join /gradio_api/queue/status /gradio_api/reset
/gradio_api/run/x /gradio_api/runs /gradio_api/startup-events /gradio_api/stream/x /gradio_api/stream/x/close
/gradio_api/stream/x/x/x/playlist-file /gradio_api/stream/x/x/x/playlist.m3u8 /gradio_api/stream/x/x/x/x.x
/gradio_api/theme.css /gradio_api/token /gradio_api/undo-vibe-edit /gradio_api/upload
/gradio_api/upload_progress /gradio_api/user /gradio_api/vibe-code /gradio_api/vibe-edit
/gradio_api/vibe-starter-queries
"""
"""Every route that Gradio had when somebody last looked at what the guard lets through."""


def test_gradio_has_no_route_that_nobody_has_looked_at(app: Any) -> None:
    """If this fails, find out what the new routes do. Then add them to the list; the guard refuses them."""
    plain = {re.sub(r"\{[^}]*\}", "x", path) for _, path in gradio_routes(app)}
    paths = {path.removeprefix("/try").rstrip("/") or "/" for path in plain}
    assert paths - set(GRADIO_6_31.split()) == set()


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../../../../../../etc/passwd",
        "/assets/..%2f..%2f..%2f..%2fetc/passwd",
        "/assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets//etc/passwd",
        "/assets/..\\..\\..\\etc\\passwd",
        "/static/%252e%252e/%252e%252e/etc/passwd",
        "/static/{folder}/secret.txt",
        "//{folder}/secret.txt",
        "/try/assets/{folder}/secret.txt",
        "/gradio_api/file={folder}/secret.txt",
        "/try/gradio_api/file={folder}/study.db",
        "/gradio_api/file={folder}/photos/Caf%C3%A9,%20%C2%ABview%C2%BB%200.png",
        "/gradio_api/file=http://127.0.0.1/",
        "/gradio_api/proxy=http://127.0.0.1/",
        "/gradio_api//file={folder}/secret.txt",
        "/gradio_api/./file={folder}/secret.txt",
        "/%67radio_api/file={folder}/secret.txt",
        "/theme.css/../gradio_api/file={folder}/secret.txt",
        "/?deep_link=../secret",
        "/config?deep_link=../../secret",
    ],
)
def test_no_path_leads_to_a_file(address: str, study: StudyPage, path: str) -> None:
    folder = study.store.path.parent
    status, body = ask(address, "GET", path.format(folder=folder))
    assert status in ((200,) if "deep_link" in path else (400, 403, 404))
    for word in (SECRET.encode(), b"root:", b"SQLite format", b"PNG\r\n", b'"deep_link_state":"invalid"'):
        assert word not in body


def test_the_pages_hold_nothing_about_the_study_but_its_mark(address: str, study: StudyPage) -> None:
    for path in ("/", "/config", "/try/", "/try/config"):
        body = ask(address, "GET", path)[1].decode()
        assert "photos" not in body
        assert str(study.store.path.parent) not in body
        for item in study.store.items():
            assert item.image_hash not in body
            assert item.description not in body
    assert study.mark in ask(address, "GET", "/config")[1].decode()


def test_the_page_to_try_is_found_without_its_slash(address: str) -> None:
    assert ask(address, "GET", "/try")[0] == 307
    assert ask(address, "GET", "/try/")[0] == 200


def test_a_whole_study_by_the_endpoints_alone(address: str, study: StudyPage) -> None:
    tab = PageClient(address)
    assert 'name="consent"' in tab.act("open", {})["page"]
    who = {"code": tab.act("register", profile("Ann"))["code"]}
    for step in ("0", "1"):
        answers = dict.fromkeys(("overall", "imaginability", "relevance", "irrelevance"), "4")
        reply = tab.act("save", who | answers | {"step": step})
        assert reply["status"].startswith("Saved.")
    assert len(study.store.judgments()) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"null",
        b"{}",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"data":' * 7_000,
        b"1" * 60_000,
        b'{"action": "open"}',
        b'{"action": ["open"], "fields": {}}',
        b'{"action": "open", "fields": "x"}',
        b'{"action": "open", "fields": {"code": {"path": "/etc/passwd"}}}',
        b'{"action": "open", "fields": {"step": null}}',
        '{"action": "open", "fields": {}}'.encode("utf-16"),
        b"\n" + b"x" * 1000,
    ],
    ids=lambda body: repr(body[:40]),
)
def test_what_is_no_event_is_refused(address: str, body: bytes) -> None:
    status, said = PageClient(address).request("POST", "act", body)
    assert status == 400
    assert b"Traceback" not in said


@pytest.mark.parametrize(
    ("action", "fields"),
    [
        ("", {}),
        ("x" * 50_000, {}),
        ("open", {"a" * 20_000: "b" * 20_000}),
        ("open", {str(number): "" for number in range(5000)}),
        ("open", {"code": "\ud800", "\udfff": "\ud800"}),
        ("\ud800", {"session_hash": "x" * 50_000}),
    ],
    ids=["blank", "long", "long field", "many fields", "half a letter", "odd action"],
)
def test_odd_events_break_nothing(address: str, action: str, fields: dict[str, str]) -> None:
    for page in ("", "try/"):
        status, body = PageClient(address + page).send(action, fields)
        assert status == 200
        assert b"Something went wrong" not in body
    assert 'name="consent"' in PageClient(address).act("open", {})["page"]


def test_the_queue_and_the_sessions_of_gradio_are_out_of_reach(address: str) -> None:
    """They would keep every session's name, whatever its size, and every reply that nobody fetches."""
    event = {"data": [], "fn_index": 0, "session_hash": "x" * 30_000, "event_data": {"action": "open"}}
    for page, answer in (("", 404), ("try/", 400)):  # on the page to try, our own endpoint answers
        tab = PageClient(address + page)
        assert tab.request("POST", "gradio_api/queue/join", json.dumps(event).encode())[0] == answer
        for path in ("gradio_api/queue/join/", "queue/join", "gradio_api/call/act", "gradio_api/run/score"):
            assert tab.request("POST", path, json.dumps(event).encode())[0] == 404
        for path in ("gradio_api/heartbeat/x", "gradio_api/queue/status", "queue/data?session_hash=x"):
            assert tab.request("GET", path)[0] == 404
    assert PageClient(address).request("GET", "gradio_api/queue/data?session_hash=x")[0] == 404


def raw_request(address: str, path: str, body: bytes) -> socket.socket:
    """A connection on which a request has been sent whose answer is not read."""
    host, port = address.split("/")[2].split(":")
    link = socket.create_connection((host, int(port)))
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    link.sendall(head.encode() + body)
    return link


def test_requests_leave_nothing_in_memory(address: str) -> None:
    """They hold a megabyte of image or a form of 60 kB; some of the clients do not wait for the answer."""
    image, form = b"x" * 2**20, {"a" * 30_000: "b" * 30_000}

    def use(number: int) -> None:
        PageClient(address + "try/").act(f"see{number}", {}, image)
        PageClient(address).act("open", form | {"session_hash": str(number)})
        raw_request(address, "/try/act", b'{"action": "open", "fields": {}}\n' + image).close()

    use(0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(1, 21):
            use(number)
        PageClient(address).act("open", {})
        end = time.monotonic() + 10  # what those sent who did not wait may still be on its way
        grown = 3 * 2**20
        while grown >= 3 * 2**20 and time.monotonic() < end:
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
            time.sleep(0.05)
        assert grown < 3 * 2**20
    finally:
        tracemalloc.stop()


def test_the_page_opens_while_all_others_wait(address: str, trial: Trial) -> None:
    """More come than may wait. They are refused, and the page opens for everybody else."""
    trial.go_on.clear()
    statuses: list[int] = []
    tabs = [
        threading.Thread(target=lambda: statuses.append(PageClient(address + "try/").send("wait", {})[0]))
        for _ in range(30)
    ]
    for tab in tabs:
        tab.start()
    while 503 not in statuses:
        time.sleep(0.01)
    assert PageClient(address + "try/").act("open", {})["page"] == "open none"
    assert PageClient(address + "try/").act("example:x", {})["page"] == "example:x none"
    assert PageClient(address + "try/").act("score", {}, b"x")["page"] == "score 1"
    assert 'name="consent"' in PageClient(address).act("open", {})["page"]
    trial.go_on.set()
    for tab in tabs:
        tab.join()
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 16


def test_who_goes_away_gives_their_place_to_others(address: str, trial: Trial) -> None:
    trial.go_on.clear()
    trial.waiting.clear()
    body = b'{"action": "wait", "fields": {}}'
    links = [raw_request(address, "/try/act", body) for _ in range(20)]
    while len(trial.waiting) < 2:
        time.sleep(0.01)
    for link in links:
        link.close()
    time.sleep(0.5)
    trial.go_on.set()
    assert PageClient(address + "try/").act("after", {})["page"] == "after none"
    assert len(trial.waiting) == 2  # the others were dropped before their turn


def test_an_action_that_fails_is_answered_without_its_reason(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    tab = PageClient(address + "try/")
    with caplog.at_level(logging.ERROR):
        reply = tab.act("fail", {})
    assert "kept" in reply["errors"][0]["message"]
    assert SECRET not in json.dumps(reply)
    assert SECRET in caplog.text
    assert tab.act("open", {})["page"] == "open none"


def test_only_the_page_for_images_takes_large_bodies(address: str) -> None:
    image = b"x" * 2 * MAX_FORM
    assert PageClient(address + "try/").act("open", {}, image)["page"] == f"open {2 * MAX_FORM}"
    assert PageClient(address).send("open", {}, image)[0] == 413
    assert PageClient(address + "try/").send("open", {"a": "x" * MAX_FORM})[0] == 413
    assert PageClient(address + "try/").act("open", {}, b"\n\n")["page"] == "open 2"


def test_a_large_body_that_does_not_say_its_length_is_refused_too(address: str) -> None:
    tab = PageClient(address)
    for parts, status in (((b"[1", b"]"), 400), ((b"x" * MAX_FORM, b"x"), 413)):
        assert tab.request("POST", "act", iter(parts))[0] == status


def test_another_site_s_requests_are_refused(address: str) -> None:
    tab, host = PageClient(address), address.split("/")[2]
    for headers, status in (
        ({"Origin": "https://example.org"}, 403),
        ({"Origin": f"https://{host}.example.org"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 400),
        ({"Host": "example.org"}, 400),
        ({"Host": "example.org", "Origin": "http://example.org"}, 400),
    ):
        assert tab.request("POST", "act", b"{}", headers)[0] == status
    event = b'{"action": "open", "fields": {}}'
    assert tab.request("POST", "act", event, {"Origin": f"http://{host}"})[0] == 200
    assert tab.request("OPTIONS", "act", None, {"Origin": f"http://{host}"})[0] == 405


def test_no_answer_may_be_read_by_other_sites_or_kept_by_a_cache(address: str) -> None:
    own = f"http://{address.split('/')[2]}"
    for path in ("/", "/config", "/try/"):
        for origin in ("https://example.org", own, "http://localhost:1", "null"):
            link = http.client.HTTPConnection(address.split("/")[2], timeout=60)
            link.request("GET", path, headers={"Origin": origin})
            answer = link.getresponse()
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]
            assert "frame-ancestors 'none'" in (answer.getheader("content-security-policy") or "")
            assert answer.getheader("cache-control") == "no-store"
            link.close()


def test_one_tab_never_gets_what_is_for_another(address: str) -> None:
    """Sixteen tabs at once, each with its own unknown action on the page to try, get their own answer."""
    wrong: list[str] = []

    def use(name: str) -> None:
        tab = PageClient(address + "try/")
        for turn in range(5):
            said = tab.act(f"{name}-{turn}", {})["page"]
            if said != f"{name}-{turn} none":
                wrong.append(said)

    tabs = [threading.Thread(target=use, args=(f"tab{number}",)) for number in range(16)]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert wrong == []
