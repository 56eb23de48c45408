"""More people at once than the queue takes: who is refused is told, keeps the form, and can go on later."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from playwright.sync_api import Browser, Page

from accessibility import violations
from descscore.page.try_page import EXAMPLES
from descscore.study.judgments import JudgmentStore
from page_client import PageClient
from pages import (
    TIMEOUT,
    TRY_HEADING,
    Site,
    choose,
    press,
    register,
    tab_to,
    wait_for_heading,
    wait_for_status,
    write_study,
)

PROGRAM = Path(__file__).parent / "held_serve.py"
BUSY = "Too many people are waiting. What you filled in is kept; try again in a minute."
STUDY_TAKES = 8 + 256
IMAGES_TAKEN = 2 + 8
"""How many are worked on at once and how many may wait."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("queue")


@pytest.fixture(scope="module")
def site(folder: Path, tiny_folder: Path) -> Iterator[Site]:
    arguments = ["--study", write_study(folder), "--database", folder / "study.db"]
    model = ["--with-try", "--model", tiny_folder, "--device", "cpu"]
    served = Site(arguments + model, folder / "log", (PROGRAM, folder / "hold")).start()
    yield served
    served.kill()


@pytest.fixture
def hold(folder: Path) -> Iterator[Path]:
    """The file that keeps the server busy; made by the test."""
    yield folder / "hold"
    (folder / "hold").unlink(missing_ok=True)


class Crowd:
    """People who send one action each and wait for the answer."""

    def __init__(self, tab: PageClient, image: bytes | None = None) -> None:
        self._tab, self._image = tab, image
        self._statuses: list[int] = []
        self._people: list[Thread] = []

    def send(self, count: int) -> None:
        """Let so many people more send their action."""
        people = [Thread(target=self._send) for _ in range(count)]
        for one in people:
            one.start()
        self._people += people

    def fill(self, takes: int) -> None:
        """Send until the server refuses, which must be after ``takes`` of them."""
        self.send(takes)
        until = time.monotonic() + TIMEOUT / 1000
        while 503 not in self._statuses and time.monotonic() < until:
            time.sleep(0.05)
            self.send(1)
        while self._waiting() > takes and time.monotonic() < until:
            time.sleep(0.05)
        assert self._waiting() == takes

    def drain(self) -> None:
        """All that were taken are answered."""
        for one in self._people:
            one.join()
        assert set(self._statuses) <= {200, 503}

    def _waiting(self) -> int:
        return len(self._people) - len(self._statuses)

    def _send(self) -> None:
        self._statuses.append(self._tab.send("start", {}, self._image)[0])


def refused(page: Page) -> None:
    """The page says that the queue is full, once, where it covers nothing, and to everybody."""
    page.wait_for_selector(".ds-problems li")
    assert page.locator(".ds-problems li").all_inner_texts() == [BUSY]
    assert page.evaluate("document.activeElement.className") == "ds-problems"
    assert page.locator(".ds-page").get_attribute("aria-busy") == "false"
    assert not [
        one for one in page.locator(".toast-wrap, [data-testid=status-tracker]").all() if one.is_visible()
    ]
    assert page.get_by_role("button", name="Close").count() == 0
    assert page.get_by_role("button", name="Clear").count() == 0
    assert violations(page) == []


def test_a_judgment_is_refused_kept_in_the_form_and_saved_later(
    chromium_page: Page, chromium: Browser, site: Site, folder: Path, hold: Path
) -> None:
    page, tab = chromium_page, PageClient(site.address)
    page.goto(site.address)
    wait_for_heading(page, "Judging image descriptions")
    register(page, "Ann", 0)
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2")
    for name in ("imaginability", "relevance", "irrelevance", "overall"):
        choose(page, name, 3)
    hold.touch()
    crowd = Crowd(tab)
    crowd.fill(STUDY_TAKES)
    press(page, "save")
    refused(page)
    assert page.evaluate("document.querySelectorAll('input:checked').length") == 4
    assert JudgmentStore(folder / "study.db").judgments() == []
    late = chromium.new_context().new_page()  # somebody who comes only now can read the first page
    late.goto(site.address)
    wait_for_heading(late, "Judging image descriptions")
    late.context.close()
    hold.unlink()
    crowd.drain()
    press(page, "save")
    wait_for_heading(page, "Description 2 of 2")
    assert page.is_hidden(".ds-problems")
    assert [one.ratings["overall"] for one in JudgmentStore(folder / "study.db").judgments()] == [4]


def test_a_score_is_refused_with_the_image_kept_and_given_later(
    chromium_page: Page, site: Site, folder: Path, hold: Path, tmp_path: Path
) -> None:
    page, tab = chromium_page, PageClient(site.address + "try/")
    EXAMPLES["boat"].draw().save(tmp_path / "boat.png")
    page.goto(site.address + "try/")
    wait_for_heading(page, TRY_HEADING)
    page.set_input_files("#image", tmp_path / "boat.png")
    wait_for_status(page, "Image chosen.")
    tab_to(page, "#description")
    page.keyboard.type("A boat on the sea.")
    hold.touch()
    crowd = Crowd(tab, b"an image")
    crowd.fill(IMAGES_TAKEN)
    press(page, "score")
    refused(page)
    assert page.input_value("#description") == "A boat on the sea."
    assert page.is_visible(".ds-preview img")
    assert page.inner_text(".ds-status") == ""
    hold.unlink()
    crowd.drain()
    press(page, "score")
    wait_for_status(page, "Score ")
    assert page.is_hidden(".ds-problems")


def test_who_waits_in_the_queue_gets_the_answer(chromium_page: Page, site: Site, hold: Path) -> None:
    page, tab = chromium_page, PageClient(site.address + "try/")
    page.goto(site.address + "try/")
    wait_for_heading(page, TRY_HEADING)
    press(page, "example:house")
    wait_for_status(page, "The form is filled in")
    hold.touch()
    crowd = Crowd(tab)
    crowd.send(5)
    press(page, "score")
    wait_for_status(page, "Scoring.")
    assert page.get_attribute(".ds-page", "aria-busy") == "true"
    assert page.get_attribute("#score", "aria-disabled") == "true"
    assert violations(page) == []
    page.keyboard.press("Enter")  # pressed twice
    hold.unlink()
    crowd.drain()
    wait_for_status(page, "Among 4 drafts")
    assert page.get_attribute("#score", "aria-disabled") is None
