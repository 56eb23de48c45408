"""A study in Chromium: by keyboard alone, reloaded, killed in the middle, and checked by axe-core."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from accessibility import NARROW, overflow, violations
from descscore.study.accounts import write_account
from descscore.study.judgments import JudgmentStore
from pages import (
    MARKUP,
    Site,
    answer,
    choose,
    press,
    register,
    tab_to,
    wait_for_heading,
    wait_for_status,
    write_study,
)

BLIND, SIGHTED = 0, 2


@pytest.fixture
def site(study_site: Site) -> Site:
    return study_site


@pytest.fixture
def store(study_folder: Path) -> JudgmentStore:
    return JudgmentStore(study_folder / "study.db")


@pytest.fixture
def page(study_page: Page) -> Page:
    return study_page


def test_a_whole_study_without_the_image(page: Page, store: JudgmentStore) -> None:
    """By keyboard alone, with a reload in the middle; nothing about the image comes over the wire."""
    received: list[str] = []
    page.on("request", lambda request: received.append(f"{request.url} {request.post_data or ''}"))
    assert violations(page) == []
    press(page, "consent")
    page.wait_for_selector("#consent-error:not([hidden])")
    assert violations(page) == []
    register(page, "Ann", BLIND)
    assert violations(page) == []
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2")
    assert violations(page) == []
    assert page.locator(".ds-root img").count() == 0
    received.append(page.content())
    press(page, "save")
    page.wait_for_selector(".ds-problems li")
    assert page.locator(".ds-problems li").count() == 4
    assert page.get_attribute("#overall", "aria-invalid") == "true"
    assert violations(page) == []
    answer(page, "none", 4)
    wait_for_heading(page, "Description 2 of 2")
    wait_for_status(page, "Saved.")
    received += [page.content(), page.request.get(page.url).text()]
    choose(page, "relevance", 2)
    page.reload()
    wait_for_heading(page, "Description 2 of 2")
    wait_for_status(page, "The form is filled in as you left it.")
    assert page.is_checked('[name="relevance"][value="3"]')
    press(page, "back")
    wait_for_heading(page, "Description 1 of 2")
    assert page.evaluate("document.querySelectorAll('input:checked').length") == 4
    assert violations(page) == []
    choose(page, "overall", 4)
    press(page, "save")
    wait_for_heading(page, "Description 2 of 2")
    answer(page, "none", 1)
    wait_for_heading(page, "All done")
    assert violations(page) == []
    kept = [one for one in store.judgments() if one.pseudonym == "Ann"]
    assert [one.ratings["overall"] for one in kept] == [5, 1]
    assert [one.ratings["relevance"] for one in kept] == [4, 1]
    seen = " ".join(received)
    assert "On house" in seen
    assert not [word for word in ("secret_", "item_", "data:image/jpeg") if word in seen]


def test_a_whole_study_with_the_image(page: Page, store: JudgmentStore) -> None:
    register(page, "Bo", SIGHTED)
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2: before the image")
    assert page.locator(".ds-root img").count() == 0
    assert violations(page) == []
    answer(page, "before", 2)
    wait_for_heading(page, "Description 1 of 2: with the image")
    assert page.get_attribute(".ds-root img", "alt") == "The image that is described above"
    assert page.evaluate("document.querySelector('.ds-root img').naturalWidth") > 0
    assert page.locator("fieldset").count() == 3
    assert violations(page) == []
    assert page.locator(".ds-fold").get_attribute("open") is None
    assert page.is_hidden(".ds-article")  # read already
    page.click(".ds-fold summary")
    assert page.is_visible(".ds-article")
    assert violations(page) == []
    page.click(".ds-fold summary")
    answer(page, "after", 5)
    wait_for_heading(page, "Description 2 of 2: before the image")
    answer(page, "before", 3)
    wait_for_heading(page, "Description 2 of 2: with the image")
    answer(page, "after", 4)
    wait_for_heading(page, "All done")
    kept = [(one.phase, one.ratings["overall"]) for one in store.judgments() if one.pseudonym == "Bo"]
    assert sorted(kept) == [("after", 4), ("after", 5), ("before", 2), ("before", 3)]


def test_the_profile_says_what_is_missing(page: Page) -> None:
    tab_to(page, "#consent")
    page.keyboard.press("Space")
    press(page, "consent")
    wait_for_heading(page, "About you")
    assert violations(page) == []
    tab_to(page, "#pseudonym")
    page.keyboard.type("=1+1")
    press(page, "register")
    page.wait_for_selector("#pseudonym-error:not([hidden])")
    assert page.locator(".ds-problems a").count() == 3
    assert page.get_attribute("fieldset#vision", "aria-invalid") == "true"
    assert page.input_value("#pseudonym") == "=1+1"
    assert violations(page) == []


def test_markup_in_items_does_not_run(page: Page) -> None:
    register(page, "Cy", BLIND)
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2")
    assert MARKUP in page.inner_text(".ds-article")
    assert page.locator(".ds-article img, .ds-article script").count() == 0


def test_narrow_windows_and_large_text(page: Page) -> None:
    register(page, "Di", SIGHTED)
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2: before the image")
    answer(page, "before", 2)
    wait_for_heading(page, "Description 1 of 2: with the image")
    page.set_viewport_size({"width": NARROW, "height": 900})
    assert overflow(page) <= 0
    assert violations(page) == []
    page.set_viewport_size({"width": 1280, "height": 900})
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    assert overflow(page) <= 0


def test_the_code_leads_back_from_another_browser_and_deletes(page: Page, store: JudgmentStore) -> None:
    code = register(page, "Ed", BLIND)
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2")
    answer(page, "none", 3)
    wait_for_heading(page, "Description 2 of 2")
    page.evaluate("localStorage.clear()")
    page.reload()
    wait_for_heading(page, "Judging image descriptions")
    tab_to(page, "#typed_code")
    page.keyboard.type("aaaa")
    page.keyboard.press("Enter")
    page.wait_for_selector("#typed_code-error:not([hidden])")
    assert page.input_value("#typed_code") == "aaaa"
    assert violations(page) == []
    page.fill("#typed_code", code.upper())
    page.keyboard.press("Enter")
    wait_for_heading(page, "Description 2 of 2")
    press(page, "ask-delete")
    wait_for_heading(page, "Delete all my answers")
    assert violations(page) == []
    press(page, "delete")
    page.wait_for_selector("#sure-error:not([hidden])")
    assert violations(page) == []
    tab_to(page, "#sure")
    page.keyboard.press("Space")
    press(page, "delete")
    wait_for_heading(page, "Deleted")
    assert violations(page) == []
    assert store.by_pseudonym("Ed") is None
    page.reload()
    wait_for_heading(page, "Judging image descriptions")


def test_a_killed_server_keeps_what_was_saved_and_the_form(
    page: Page, site: Site, store: JudgmentStore
) -> None:
    register(page, "Flo", BLIND)
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2")
    answer(page, "none", 2)
    wait_for_status(page, "Saved.")
    site.kill()
    answer(page, "none", 4)
    page.wait_for_selector(".ds-problems li")
    assert "cannot be reached" in page.inner_text(".ds-problems")
    assert violations(page) == []
    assert page.evaluate("document.querySelectorAll('input:checked').length") == 4
    site.start()
    page.reload()
    wait_for_status(page, "The form is filled in as you left it.")
    assert page.evaluate("document.querySelectorAll('input:checked').length") == 4
    press(page, "save")
    wait_for_heading(page, "All done")
    kept = [one.ratings["overall"] for one in store.judgments() if one.pseudonym == "Flo"]
    assert kept == [2, 4]


def test_accounts_decide_who_comes_in_and_back(chromium: Browser, tmp_path: Path) -> None:
    accounts = tmp_path / "accounts"
    write_account(accounts, "ann", "a long password")
    study = ["--study", write_study(tmp_path), "--database", tmp_path / "study.db", "--without-try"]
    site = Site([*study, "--accounts", accounts], tmp_path / "log").start()
    try:
        stranger = chromium.new_context()
        assert stranger.request.get(site.address).status == 401
        assert stranger.request.get(site.address + "config").status == 401
        stranger.close()
        for _ in range(2):  # two browsers: only the account leads back
            context = chromium.new_context(
                http_credentials={"username": "ann", "password": "a long password"}
            )
            page = context.new_page()
            page.goto(site.address)
            page.wait_for_selector(".ds-page h1")
            if page.locator("#consent").count():
                register(page, "Ann", BLIND)
                press(page, "start")
                wait_for_heading(page, "Description 1 of 2")
                answer(page, "none", 3)
            wait_for_heading(page, "Description 2 of 2")
            assert page.get_by_text("forget me").count() == 0
            assert violations(page) == []
            context.close()
        assert len(JudgmentStore(tmp_path / "study.db").judgments()) == 1
    finally:
        site.kill()


def test_the_browser_s_back_stays_in_the_study(page: Page, store: JudgmentStore) -> None:
    register(page, "Jo", BLIND)
    page.go_back()  # from "How it works" to where one goes on
    wait_for_heading(page, "Description 1 of 2")
    page.go_back()
    wait_for_status(page, "There is no earlier page that can be changed. What you saved is kept.")
    assert page.inner_text(".ds-page h1") == "Description 1 of 2"
    answer(page, "none", 3)
    wait_for_heading(page, "Description 2 of 2")
    page.go_back()
    wait_for_heading(page, "Description 1 of 2")
    assert page.evaluate("document.querySelectorAll('input:checked').length") == 4
    choose(page, "overall", 4)
    press(page, "save")
    wait_for_heading(page, "Description 2 of 2")
    assert [one.ratings["overall"] for one in store.judgments() if one.pseudonym == "Jo"] == [5]


def test_before_somebody_is_known_back_leads_to_the_first_page(page: Page) -> None:
    tab_to(page, "#consent")
    page.keyboard.press("Space")
    press(page, "consent")
    wait_for_heading(page, "About you")
    page.go_back()
    wait_for_heading(page, "Judging image descriptions")
