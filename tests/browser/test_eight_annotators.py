"""Eight annotators at once, each in a browser of their own, at one ``descscore serve``."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from descscore.study.judgments import JudgmentStore
from descscore.study.questions import AFTER, BEFORE, NO_IMAGE
from pages import TIMEOUT, Site
from study_tools import write_items

ANNOTATORS, JUDGMENTS = 8, 50
QUESTIONS = ("overall", "imaginability", "relevance", "irrelevance")
ROBOT = (Path(__file__).parent / "annotator_robot.js").read_text(encoding="utf-8")


class Robots:
    """Eight browsers that annotate by themselves. heard: what their pages said was saved."""

    def __init__(self, chromium: Browser, visions: list[str]) -> None:
        self.heard: list[dict[str, Any]] = []
        self.done: set[int] = set()
        self.errors: list[str] = []
        self._pages = [self._page(chromium, number, vision) for number, vision in enumerate(visions)]

    def _page(self, chromium: Browser, number: int, vision: str) -> Page:
        context = chromium.new_context(viewport={"width": 600, "height": 400})
        context.expose_binding("acknowledge", lambda _, said: self._hear(said))
        context.add_init_script(f"{ROBOT}({number}, {vision!r})")
        page = context.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        return page

    def _hear(self, said: dict[str, Any]) -> None:
        if said.get("done"):
            self.done.add(said["number"])
        else:
            self.heard.append(said)

    def open(self, address: str) -> None:
        for page in self._pages:
            page.goto(address, wait_until="commit", timeout=TIMEOUT)

    def wait(self, until: Callable[[], bool]) -> None:
        """Let them work until that is so. Raises :class:`AssertionError` where they come to a standstill."""
        last, heard = time.monotonic(), -1
        while not until():
            if heard != len(self.heard) + len(self.done):
                last, heard = time.monotonic(), len(self.heard) + len(self.done)
            if self.errors or time.monotonic() > last + TIMEOUT / 1000:
                shown = [page.locator("body").inner_text()[:99] for page in self._pages]
                raise AssertionError(f"{self.errors} {len(self.heard)} heard, {self.done} done, {shown}")
            self._pages[0].wait_for_timeout(20)

    def close(self) -> None:
        for page in self._pages:
            page.context.close()


def expected(said: dict[str, Any]) -> dict[str, int]:
    """The answers that a robot gives: they depend on the description, the question and the robot."""
    letters = sum(map(ord, said["description"]))
    names = [name for name in QUESTIONS if said["phase"] != AFTER or name != "imaginability"]
    return {name: 1 + (letters * (QUESTIONS.index(name) + 1) + said["number"]) % 5 for name in names}


def kept(store: JudgmentStore) -> dict[tuple[str, str, str], dict[str, int]]:
    """Everything in the database by annotator, description and phase."""
    texts = {item.item: item.description for item in store.items()}
    judgments = store.judgments()
    found = {(one.pseudonym, texts[one.item], one.phase): dict(one.ratings) for one in judgments}
    assert len(found) == len(judgments)
    return found


def check_heard(store: JudgmentStore, heard: list[dict[str, Any]]) -> None:
    """Whatever a page said was saved is in the database as it was given."""
    found = kept(store)
    for said in heard:
        key = (f"Robot {said['number']}", said["description"], said["phase"])
        assert found[key] == said["answers"] == expected(said)


@pytest.fixture
def robots(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Robots]:
    made = Robots(chromium, request.param)
    yield made
    made.close()


def serve(folder: Path, items: int) -> tuple[Site, JudgmentStore]:
    table = write_items(folder, images=items, texts=1)
    site = Site(["--study", table, "--database", folder / "study.db", "--without-try"], folder / "log")
    return site.start(), JudgmentStore(folder / "study.db")


@pytest.mark.parametrize("robots", [["blind"] * ANNOTATORS], indirect=True, ids=["blind"])
def test_eight_annotators_at_once_lose_and_double_nothing(robots: Robots, tmp_path: Path) -> None:
    site, store = serve(tmp_path, JUDGMENTS)
    try:
        robots.open(site.address)
        robots.wait(lambda: len(robots.done) == ANNOTATORS)
    finally:
        site.kill()
    assert robots.errors == []
    assert len(robots.heard) == ANNOTATORS * JUDGMENTS
    check_heard(store, robots.heard)
    assert len(kept(store)) == ANNOTATORS * JUDGMENTS
    assert {phase for _, _, phase in kept(store)} == {NO_IMAGE}
    orders = {store.order(store.by_pseudonym(f"Robot {number}")) for number in range(ANNOTATORS)}
    assert len(orders) == ANNOTATORS


@pytest.mark.parametrize("robots", [["blind", "sighted"] * (ANNOTATORS // 2)], indirect=True, ids=["mixed"])
def test_a_server_killed_in_the_middle_loses_nothing_acknowledged_and_all_go_on(
    robots: Robots, tmp_path: Path
) -> None:
    items = 8
    site, store = serve(tmp_path, items)
    rng = random.Random(0)
    try:
        robots.open(site.address)
        for share in (0.3, 0.6):
            robots.wait(lambda share=share: len(robots.heard) >= share * 12 * items)
            robots.wait(lambda: rng.random() < 0.2)
            site.kill()
            check_heard(store, robots.heard)  # before anything is written again
            site.start()
        robots.wait(lambda: len(robots.done) == ANNOTATORS)
    finally:
        site.kill()
    check_heard(store, robots.heard)
    found = kept(store)
    assert len(found) == ANNOTATORS // 2 * items * 3  # a sighted annotator judges each twice
    for (name, description, phase), answers in found.items():
        said = {"number": int(name.split()[1]), "description": description, "phase": phase}
        assert answers == expected(said)
    phases = [phase for _, _, phase in found]
    assert {phase: phases.count(phase) for phase in (NO_IMAGE, BEFORE, AFTER)} == dict.fromkeys(
        (NO_IMAGE, BEFORE, AFTER), ANNOTATORS // 2 * items
    )
