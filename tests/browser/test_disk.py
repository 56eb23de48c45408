"""A study whose files are taken away from it: the page says so, keeps the form, and goes on afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from accessibility import violations
from descscore.page.try_page import EXAMPLES
from descscore.study.judgments import JudgmentStore
from pages import Site, answer, press, register, wait_for_heading, write_study

PROGRAM = Path(__file__).parent / "ordinary_serve.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("disk")


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Site]:
    study = ["--study", write_study(folder), "--database", folder / "study.db"]
    served = Site([*study, "--without-try"], folder / "log", (PROGRAM,)).start()
    yield served
    served.kill()


@pytest.fixture
def page(chromium_page: Page, site: Site) -> Page:
    chromium_page.goto(site.address)
    wait_for_heading(chromium_page, "Judging image descriptions")
    return chromium_page


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_read_only_database_is_told_and_the_form_is_kept(page: Page, folder: Path, what: str) -> None:
    store = JudgmentStore(folder / "study.db")
    register(page, f"Ann {what}", 0)
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2")
    taken, mode = (store.path, 0o444) if what == "file" else (folder, 0o555)
    before = taken.stat().st_mode
    taken.chmod(mode)
    try:
        answer(page, "none", 4)
        page.wait_for_selector(".ds-problems li")
        assert page.locator(".ds-problems li").all_inner_texts() == [
            "This was not saved: the study's database is read-only. What you filled in is still in the "
            "form. Please tell the people who run the study, and try again later."
        ]
        assert page.evaluate("document.activeElement.className") == "ds-problems"
        assert page.evaluate("document.querySelectorAll('input:checked').length") == 4
        assert violations(page) == []
    finally:
        taken.chmod(before)
    kept = [one for one in store.judgments() if one.pseudonym == f"Ann {what}"]
    assert kept == []
    press(page, "save")
    wait_for_heading(page, "Description 2 of 2")
    kept = [one.ratings["overall"] for one in store.judgments() if one.pseudonym == f"Ann {what}"]
    assert kept == [4]


def test_an_image_that_is_gone_is_told_without_its_name(page: Page, folder: Path) -> None:
    store = JudgmentStore(folder / "study.db")
    register(page, "Bo", 2)
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2: before the image")
    for name in EXAMPLES:
        (folder / f"secret_{name}.png").rename(folder / f"away_{name}.png")
    answer(page, "before", 4)
    page.wait_for_selector(".ds-problems li")
    said = page.inner_text(".ds-problems li")
    assert said.startswith("The image of this step cannot be shown.")
    assert "secret" not in page.content()
    assert violations(page) == []
    assert [one.ratings["overall"] for one in store.judgments() if one.pseudonym == "Bo"] == [4]
    for name in EXAMPLES:
        (folder / f"away_{name}.png").rename(folder / f"secret_{name}.png")
    page.reload()
    wait_for_heading(page, "Description 1 of 2: with the image")
