"""The pages as they are served, Gradio and all, over HTTP: what a stranger may try."""

from __future__ import annotations

import http.client
import json
import logging
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from descscore.page.guard import MAX_FORM
from descscore.page.reply import Reply
from descscore.page.site import build_app
from descscore.page.study_page import StudyPage
from page_client import PageClient, ask, serve
from study_tools import make_store, profile

SECRET = "the-secret-of-this-test"
KEPT = {"", "/", "/config", "/config/", "/theme.css", "/favicon.ico", "/robots.txt"}
KEPT |= {"/assets/x", "/static/x", "/try", "/gradio_api/app_id"}
KEPT |= {f"/gradio_api/{name}" for name in ("theme.css", "queue/data")}
KEPT_POST = {"/gradio_api/queue/join"}


class Trial:
    """In place of the page to try, without a model: says what reached it, or fails."""

    def act(self, action: str, fields: Mapping[str, str], account: str | None) -> Reply:
        if action == "fail":
            raise RuntimeError(SECRET)
        return Reply(page=f"{action} {len(fields.get('image', ''))}")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyPage:
    folder = tmp_path_factory.mktemp("served")
    (folder / "secret.txt").write_text(SECRET)
    store = make_store(folder, images=2, texts=1)
    return StudyPage(store, store.items())


@pytest.fixture(scope="module")
def app(study: StudyPage) -> Any:
    return build_app(study, Trial())


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

    walk(app.app.app, "")
    return found


def test_of_all_of_gradio_s_routes_only_those_the_page_needs_answer(app: Any, address: str) -> None:
    routes = gradio_routes(app)
    paths = {path for _, path in routes}
    assert {"/config", "/try/config", "/monitoring"} <= paths
    assert len(paths) > 30
    answering: dict[str, set[str]] = {"GET": set(), "POST": set()}
    for method, path in sorted(routes):
        plain = re.sub(r"\{[^}]*\}", "x", path)
        status, _ = ask(address, method, plain, {"content-length": "0"} if method == "POST" else {})
        if status not in (404, 405):
            answering["GET" if method == "HEAD" else method].add(plain.removeprefix("/try") or "/")
    assert answering["GET"] <= KEPT
    assert answering["POST"] <= KEPT_POST


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
    "changes",
    [
        {"fn_index": 99},
        {"fn_index": -1},
        {"fn_index": None},
        {"fn_index": "x"},
        {"session_hash": None},
        {"session_hash": ["x"]},
        {"event_data": None},
        {"event_data": [1, "save"]},
        {"event_data": {"action": ["save"], "fields": "x", "ticket": "1"}},
        {"event_data": {"action": "save", "fields": {"code": {"path": "/etc/passwd"}, "step": 0}}},
        {"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]},
        {"data": [{"path": "http://127.0.0.1/", "url": "x", "meta": {"_type": "gradio.FileData"}}] * 3},
        {"trigger_id": 77},
        {"batched": True},
        {"simple_format": True},
        {"event_id": "x"},
    ],
    ids=str,
)
def test_odd_events_break_nothing_and_read_nothing(address: str, changes: dict[str, Any]) -> None:
    status, body = PageClient(address).join("open", {}, **changes)
    assert status < 300 or status in (400, 422, 500)
    assert b"Traceback" not in body
    assert b"root:" not in body
    assert 'name="consent"' in PageClient(address).act("open", {})["page"]


def test_deep_nesting_and_garbage_break_nothing(address: str) -> None:
    tab = PageClient(address)
    for body in (b"", b"[", b"null", b"{}", b"\xff\xfe", b"[" * 60_000, b'{"data":' * 7_000):
        status, said = tab.request(
            "POST", "gradio_api/queue/join", body, {"Content-Type": "application/json"}
        )
        assert status in (400, 413, 422, 500)
        assert b"Traceback" not in said
    assert tab.act("open", {})["page"]


def test_an_action_that_fails_is_answered_without_its_reason(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    tab = PageClient(address + "try/")
    with caplog.at_level(logging.ERROR):
        reply = tab.act("fail", {})
    assert "kept" in reply["errors"][0]["message"]
    assert SECRET not in json.dumps(reply)
    assert SECRET in caplog.text
    assert tab.act("open", {})["page"] == "open 0"


def test_only_the_page_for_images_takes_large_bodies(address: str) -> None:
    image = {"image": "x" * 2 * MAX_FORM}
    assert PageClient(address + "try/").act("open", image)["page"] == f"open {2 * MAX_FORM}"
    assert PageClient(address).join("open", image)[0] == 413


def test_a_large_body_that_does_not_say_its_length_is_refused_too(address: str) -> None:
    """The framework would answer 400 to what it cannot read to the end."""
    tab = PageClient(address)
    for parts, status in (((b"[1", b"]"), 422), ((b"x" * MAX_FORM, b"x"), 413)):
        said = tab.request("POST", "gradio_api/queue/join", iter(parts), {"Content-Type": "application/json"})
        assert said[0] == status


def test_another_site_s_requests_are_refused(address: str) -> None:
    tab, host = PageClient(address), address.split("/")[2]
    for headers, status in (
        ({"Origin": "https://example.org"}, 403),
        ({"Origin": f"https://{host}.example.org"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "example.org"}, 400),
        ({"Host": "example.org", "Origin": "http://example.org"}, 400),
    ):
        assert tab.request("POST", "gradio_api/queue/join", b"{}", headers)[0] == status
    assert tab.request("POST", "gradio_api/queue/join", b"{}", {"Origin": f"http://{host}"})[0] == 422


def test_no_answer_may_be_read_by_other_sites(address: str) -> None:
    for path in ("/", "/config"):
        link = http.client.HTTPConnection(address.split("/")[2], timeout=60)
        link.request("GET", path, headers={"Origin": "https://example.org"})
        answer = link.getresponse()
        assert answer.getheader("access-control-allow-origin") in (None, f"http://{address.split('/')[2]}")
        assert "frame-ancestors 'none'" in (answer.getheader("content-security-policy") or "")
        link.close()


def test_one_tab_never_gets_what_is_for_another(address: str) -> None:
    """Sixteen tabs at once, each with its own unknown action on the page to try, get their own answer."""
    wrong: list[str] = []

    def use(name: str) -> None:
        tab = PageClient(address + "try/")
        for turn in range(5):
            said = tab.act(f"{name}-{turn}", {})["page"]
            if said != f"{name}-{turn} 0":
                wrong.append(said)

    tabs = [threading.Thread(target=use, args=(f"tab{number}",)) for number in range(16)]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert wrong == []
