"""No path and no address that somebody types is opened: ``descscore serve``, watched at all it opens."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from page_client import PageClient, ask
from study_tools import write_items

pytestmark = pytest.mark.long

PROGRAM = Path(__file__).with_name("watched_serve.py")
TRY_FIELDS = ("image", "example", "description", "caption", "context", "drafts")
STUDY_FIELDS = ("pseudonym", "vision", "screen_reader", "new_code", "typed_code", "code", "step", "annotator")
STUDY_ACTIONS = ("open", "consent", "register", "resume", "save", "back", "delete")


@dataclass(frozen=True)
class Watched:
    """A served study and page to try. file, web: bait that nothing may touch. log: what was opened."""

    address: str
    file: Path
    web: socket.socket
    log: Path

    def baits(self) -> list[str]:
        host = f"127.0.0.1:{self.web.getsockname()[1]}/planted-bait.png"
        plain = [str(self.file), f"file://{self.file}", f"http://{host}", f"//{host}", f"ftp://{host}"]
        return [*plain, f"data:image/png;base64,{self.file}", f"url({self.file})", f"|cat {self.file}"]

    def opened(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def called(self) -> bool:
        """Whether somebody has connected to the bait."""
        try:
            self.web.accept()[0].close()
        except TimeoutError:
            return False
        return True


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    bait = folder / "planted-bait.png"
    Image.new("RGB", (30, 20)).save(bait)
    log = folder / "log"
    study = ["--study", write_items(folder, images=2, texts=1), "--database", folder / "study.db"]
    command = [
        PROGRAM,
        log,
        "serve",
        "--port",
        0,
        *study,
        "--with-try",
        "--model",
        tiny_folder,
        "--device",
        "cpu",
    ]
    with socket.create_server(("127.0.0.1", 0)) as web:
        web.settimeout(0.5)
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], stdout=subprocess.PIPE, text=True, cwd=folder
        )
        said = process.stdout.readline()
        assert said.startswith("descscore listens on http://127.0.0.1:")
        yield Watched(said.split()[3], bait, web, log)
        process.kill()
        process.communicate()


def act(tab: PageClient, action: Any, fields: Any, image: bytes | None = None) -> None:
    """Do it, whatever the server thinks of it."""
    tab.send(action, fields, image)


def test_the_watch_sees_what_is_opened(watched: Watched) -> None:
    opened = watched.opened()
    files = [one["about"][0] for one in opened if one["event"] == "open"]
    assert str(watched.file.parent / "items.csv") in files
    assert any(name.endswith("view» 0.png") for name in files)
    assert "sqlite3.connect" in {one["event"] for one in opened}
    assert "socket.bind" in {one["event"] for one in opened}
    with socket.create_connection(watched.web.getsockname()):
        assert watched.called()


def test_nothing_that_is_typed_is_opened(watched: Watched) -> None:
    trial, study = PageClient(watched.address + "try/"), PageClient(watched.address)
    for bait in watched.baits():
        act(trial, "score", dict.fromkeys(TRY_FIELDS, bait))
        act(trial, "score", dict.fromkeys(TRY_FIELDS, bait) | {"image": "", "example": "house"})
        act(trial, f"example:{bait}", {})
        act(trial, "score", {"description": "A."}, bait.encode())
        for action in STUDY_ACTIONS:
            fields = dict.fromkeys(STUDY_FIELDS, bait) | {"consent": "yes", "sure": "yes"}
            act(study, action, fields)
    check_untouched(watched)


def test_nothing_that_gradio_would_take_for_a_file_is_opened(watched: Watched) -> None:
    tab = PageClient(watched.address + "try/")
    for bait in watched.baits():
        data = {"path": bait, "url": bait, "orig_name": bait, "meta": {"_type": "gradio.FileData"}}
        for action, fields in (
            ("score", data),
            ("score", {"image": data}),
            (data, data),
            ("score", {"description": "A.", "image": bait, "value": bait, "session_hash": bait}),
        ):
            act(tab, action, fields)
        for path in (bait, data):
            asked = {"data": [{"path": path, "url": bait}, bait], "session_hash": "a", "fn_index": 0}
            assert tab.request("POST", "gradio_api/queue/join", json.dumps(asked).encode())[0] == 400
        tab.request("GET", "gradio_api/queue/data?session_hash=a")
    check_untouched(watched)


def test_no_route_opens_what_it_is_asked_for(watched: Watched) -> None:
    for bait in watched.baits():
        for path in ("gradio_api/file=", "gradio_api/proxy=", "file=", "static/", "assets/", "theme/", ""):
            for page in ("/", "/try/"):
                for name in (quote(bait), quote(bait, safe="")):
                    assert ask(watched.address, "GET", page + path + name)[0] in (400, 403, 404)
        query = quote(bait, safe="")
        for name in ("__theme", "deep_link", "view", "file", "session_hash", "path"):
            assert ask(watched.address, "GET", f"/?{name}={query}")[0] == 200
    tab = PageClient(watched.address + "try/")
    part = b'Content-Disposition: form-data; name="files"; filename="planted-bait.png"'
    form = b"--b\r\n%s\r\n\r\nx\r\n--b--\r\n" % part
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    for path, status in (
        ("gradio_api/upload", 200),
        ("gradio_api/upload?upload_id=planted-bait", 200),
        ("upload", 404),
    ):
        assert tab.request("POST", path, form, headers)[0] == status
    check_untouched(watched)


def test_what_is_tried_out_is_never_written_down(watched: Watched) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), "red").save(buffer, "PNG")
    tab = PageClient(watched.address + "try/")
    fields = {"description": "A red wall.", "caption": "Ours", "context": "On walls."}
    for _ in range(2):  # the first images start the processes that decode them
        tab.act("score", fields, buffer.getvalue())
    before = len(watched.opened())
    reply = tab.act("score", fields, buffer.getvalue())
    assert "Result" in reply["result"]
    later = watched.opened()[before:]
    assert [one for one in later if one["writes"] or one["event"] not in ("open", "socket.bind")] == []


def check_untouched(watched: Watched) -> None:
    """Neither bait was touched, and the pages still answer."""
    assert [one for one in watched.opened() if "planted-bait" in str(one["about"])] == []
    assert not watched.called()
    assert 'name="consent"' in PageClient(watched.address).act("open", {})["page"]
    assert PageClient(watched.address + "try/").act("open", {})["page"]
