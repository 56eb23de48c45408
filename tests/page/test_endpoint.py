"""The endpoint ``/score``: called by Gradio's own client over loopback, and by those who mean it ill."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

import descscore.page.endpoint as endpoint
from descscore import DescScorer
from descscore.page.guard import MAX_FORM, RefusedError
from descscore.page.reply import Reply
from descscore.page.site import build_app
from descscore.page.try_page import TryPage
from page_client import PageClient, serve


class Trial:
    """In place of the page: says what reached it, and can be held up."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self.seen: list[str] = []

    def act(
        self, action: str, fields: Mapping[str, str], account: str | None = None, image: bytes | None = None
    ) -> Reply:
        self.seen.append(fields.get("description", ""))
        self.go_on.wait(60)
        return Reply(values={"action": action, "bytes": len(image or b""), **fields})


@pytest.fixture
def trial() -> Trial:
    return Trial()


@pytest.fixture
def address(trial: Trial) -> Iterator[str]:
    yield from serve(build_app(None, trial))


@pytest.fixture(scope="module")
def scorer(tiny_folder: Path) -> DescScorer:
    return DescScorer.from_pretrained(tiny_folder, device="cpu")


def test_gradio_s_client_gets_the_library_s_scores(scorer: DescScorer, photo: Path) -> None:
    for address in serve(build_app(None, TryPage(scorer))):
        client = Client(address, verbose=False, analytics_enabled=False)
        found = client.predict(
            handle_file(photo), "A cat.", caption="Minka", drafts="A dog.", api_name="/score"
        )
        expected = scorer.score(photo, "A cat.")
        assert found["score"] == pytest.approx(expected.score, abs=1e-5)
        assert found["signature"] == expected.signature
        assert found["comparison"]["preferred"] == scorer.compare(photo, "A cat.", "Minka").preferred
        assert {draft["text"] for draft in found["drafts"]} == {"A cat.", "A dog."}
        assert found["verdict"].startswith("Score ")
        with pytest.raises(AppError, match="description: Write a description"):
            client.predict(handle_file(photo), " ", api_name="/score")
        jobs = [client.submit(handle_file(photo), f"Cat {n}.", api_name="/score") for n in range(3)]
        scores = [job.result(timeout=120)["cosine"] for job in jobs]
        assert scores == [pytest.approx(scorer.score(photo, f"Cat {n}.").cosine, abs=1e-5) for n in range(3)]


def test_the_program_of_the_documentation_runs(
    scorer: DescScorer,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (Path(__file__).parents[2] / "docs/annotating.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert photo.name == "photo.jpg"
    monkeypatch.chdir(photo.parent)
    for address in serve(build_app(None, TryPage(scorer))):
        exec(program.replace("http://127.0.0.1:7860/", address), {})
    assert scorer.signature in capsys.readouterr().out


def upload(tab: PageClient, data: bytes) -> tuple[int, bytes]:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    return tab.request(
        "POST",
        "gradio_api/upload",
        head + data + b"\r\n--x--\r\n",
        {"Content-Type": "multipart/form-data; boundary=x"},
    )


def join(tab: PageClient, data: Any, session: str = "s") -> tuple[int, bytes]:
    body = json.dumps({"data": data, "session_hash": session, "fn_index": 0}).encode()
    return tab.request("POST", "gradio_api/queue/join", body, {"Content-Type": "application/json"})


def listen(tab: PageClient, session: str = "s") -> list[dict[str, Any]]:
    status, body = tab.request("GET", f"gradio_api/queue/data?session_hash={session}")
    assert status == 200
    return [json.loads(line.removeprefix("data: ")) for line in body.decode().split("\n\n") if line]


def test_the_bytes_of_an_upload_arrive_once_and_for_their_session_alone(address: str) -> None:
    tab, data = PageClient(address), b"\r\n--y\r\n\0" * 99
    (name,) = json.loads(upload(tab, data)[1])
    assert join(tab, [{"path": name}, "A cat.", None, ""])[0] == 200
    assert join(tab, [{"path": name}, "A cat."])[0] == 400  # it is used up
    assert [event["msg"] for event in listen(tab, "other")] == ["close_stream"]
    events = listen(tab)
    assert [event["msg"] for event in events] == ["process_starts", "process_completed", "close_stream"]
    assert events[1]["output"]["data"] == [
        {"action": "values", "bytes": len(data), "description": "A cat.", "caption": "", "context": ""}
    ]
    assert [event["msg"] for event in listen(tab)] == ["close_stream"]  # nothing is kept


@pytest.mark.parametrize(
    "data",
    [
        [{"path": "/etc/passwd"}, "A."],
        [{"path": "http://127.0.0.1:1/a.png", "url": "http://127.0.0.1:1/a.png"}, "A."],
        [{"path": 7}, "A."],
        ["/etc/passwd", "A."],
        [],
        {"path": "x"},
    ],
)
def test_no_path_and_no_address_is_opened(address: str, trial: Trial, data: Any) -> None:
    tab = PageClient(address)
    assert join(tab, data)[0] == 400
    listen(tab)
    assert trial.seen == []


def test_texts_and_sessions_are_checked(address: str) -> None:
    tab = PageClient(address)
    for texts, session in ((["A"] * 5, "s"), ([["A"]], "s"), (["A"], "s/../x"), (["A"], "")):
        (name,) = json.loads(upload(tab, b"x")[1])
        assert join(tab, [{"path": name}, *texts], session)[0] == 400
    assert join(tab, ["x" * MAX_FORM])[0] == 413
    for body in (b"", b"[" * 50_000, b"{"):
        assert tab.request("POST", "gradio_api/queue/join", body)[0] == 400
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x", "text/plain", ""):
        assert tab.request("POST", "gradio_api/upload", b"nothing", {"Content-Type": kind})[0] == 400


def test_uploads_that_nobody_uses_have_bounds_of_number_size_and_time(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tab = PageClient(address)
    assert [upload(tab, b"x")[0] for _ in range(endpoint.MAX_WAITING + 1)].count(503) == 1
    later = time.monotonic() + endpoint.HELD_SECONDS + 1
    monkeypatch.setattr(endpoint, "monotonic", lambda: later)
    (name,) = json.loads(upload(tab, b"x")[1])  # those before have gone
    monkeypatch.undo()
    assert join(tab, [{"path": name}, "A."])[0] == 200
    held: endpoint.Held[bytes] = endpoint.Held(9, 100)
    held.put(b"a", 60)
    with pytest.raises(RefusedError):
        held.put(b"b", 50)


def test_an_upload_never_becomes_a_file(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *more, **kinds: opened.append(path) or real(path, *more, **kinds)
    )
    assert upload(PageClient(address), b"x" * (5 * 2**20))[0] == 200
    assert [path for path in opened if "tmp" in str(path)] == []


def test_nothing_is_computed_for_who_does_not_listen(address: str, trial: Trial) -> None:
    tab = PageClient(address)
    (name,) = json.loads(upload(tab, b"x")[1])
    assert join(tab, [{"path": name}, "A."])[0] == 200
    time.sleep(0.3)
    assert trial.seen == []
    assert [event["msg"] for event in listen(tab)][1] == "process_completed"
    assert trial.seen == ["A."]


def test_programs_wait_behind_the_page_s_limits(address: str, trial: Trial) -> None:
    """More programs listen than may wait: those who come too late are told so."""
    trial.go_on.clear()
    answers: list[Any] = []

    def use(number: int) -> None:
        tab = PageClient(address)
        (name,) = json.loads(upload(tab, b"x")[1])
        join(tab, [{"path": name}, "A."], f"s{number}")
        answers.append(listen(tab, f"s{number}")[1])

    tabs = [threading.Thread(target=use, args=(number,)) for number in range(14)]
    for tab in tabs:
        tab.start()
    while not answers:
        time.sleep(0.02)
    trial.go_on.set()
    for tab in tabs:
        tab.join()
    refused = [one for one in answers if not one["success"]]
    assert refused
    assert "Too many requests" in refused[0]["output"]["error"]
    assert len(answers) - len(refused) >= 10
