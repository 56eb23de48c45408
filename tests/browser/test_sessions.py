"""What happens to annotators in real browsers: shared ones, forgetful ones, lost answers, a full disk."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route

from accessibility import violations
from descscore.study.judgments import JudgmentStore, Profile
from descscore.study.questions import questions_of
from pages import (
    Site,
    answer,
    choose,
    press,
    register,
    tab_to,
    wait_for_heading,
    wait_for_status,
)

BLIND = 0


@pytest.fixture
def store(study_folder: Path) -> JudgmentStore:
    return JudgmentStore(study_folder / "study.db")


def overall(store: JudgmentStore, name: str) -> list[int]:
    return [one.ratings["overall"] for one in store.judgments() if one.pseudonym == name]


def test_who_closes_the_page_goes_on_where_they_stopped(
    study_page: Page, study_site: Site, store: JudgmentStore
) -> None:
    context = study_page.context
    register(study_page, "Al", BLIND)
    press(study_page, "start")
    wait_for_heading(study_page, "Description 1 of 2")
    answer(study_page, "none", 5)
    wait_for_heading(study_page, "Description 2 of 2")
    study_page.close()
    page = context.new_page()
    page.goto(study_site.address)
    wait_for_heading(page, "Description 2 of 2")
    assert page.evaluate("document.querySelectorAll('input:checked').length") == 0
    answer(page, "none", 1)
    wait_for_heading(page, "All done")
    assert overall(store, "Al") == [5, 1]


def test_two_annotators_of_one_browser_are_not_taken_for_each_other(
    study_page: Page, study_site: Site, store: JudgmentStore
) -> None:
    """One leaves and another comes, while a tab of the first is still open."""
    first = study_page
    register(first, "Ann", BLIND)
    press(first, "start")
    wait_for_heading(first, "Description 1 of 2")
    second = first.context.new_page()
    second.goto(study_site.address)
    second.wait_for_selector(".ds-page h1")
    press(second, "start")
    wait_for_heading(second, "Description 1 of 2")
    press(second, "leave")
    wait_for_heading(second, "Judging image descriptions")
    register(second, "Bo", BLIND)
    press(second, "start")
    wait_for_heading(second, "Description 1 of 2")
    first.bring_to_front()
    answer(first, "none", 5)
    wait_for_status(first, "Saved.")
    assert (overall(store, "Ann"), overall(store, "Bo")) == ([5], [])
    second.bring_to_front()
    answer(second, "none", 1)
    wait_for_status(second, "Saved.")
    assert (overall(store, "Ann"), overall(store, "Bo")) == ([5], [1])
    press(first, "leave")  # forgets Ann, but not Bo, whom the browser knows now
    wait_for_heading(first, "Judging image descriptions")
    second.reload()
    wait_for_heading(second, "Description 2 of 2")


def test_answers_left_in_a_form_are_not_filled_in_for_somebody_else(
    study_page: Page, store: JudgmentStore
) -> None:
    page = study_page
    register(page, "Cy", BLIND)
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2")
    choose(page, "overall", 4)
    _, code = store.register(Profile("Di", "blind", "always", "I agree."))
    page.evaluate("code => Object.keys(localStorage).forEach((key) => localStorage.setItem(key, code))", code)
    page.reload()
    wait_for_heading(page, "How it works")
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2")
    assert page.evaluate("document.querySelectorAll('input:checked').length") == 0


def test_a_browser_that_keeps_nothing(chromium_page: Page, study_site: Site, store: JudgmentStore) -> None:
    """As with site data blocked: the annotator is told, and can work as long as the page is open."""
    page = chromium_page
    page.add_init_script(
        """for (const name of ['localStorage', 'sessionStorage'])
        Object.defineProperty(window, name, { get() { throw new DOMException('no', 'SecurityError'); } });"""
    )
    page.goto(study_site.address)
    wait_for_heading(page, "Judging image descriptions")
    code = register(page, "Ed", BLIND)
    wait_for_status(page, "This browser cannot remember you: write down your code.")
    assert violations(page) == []
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2")
    answer(page, "none", 2)
    wait_for_heading(page, "Description 2 of 2")
    page.reload()
    wait_for_heading(page, "Judging image descriptions")
    page.fill("#typed_code", code)
    page.press("#typed_code", "Enter")
    wait_for_heading(page, "Description 2 of 2")
    answer(page, "none", 3)
    wait_for_heading(page, "All done")
    assert overall(store, "Ed") == [2, 3]


def test_a_double_click_saves_once(study_page: Page, store: JudgmentStore) -> None:
    page = study_page
    tab_to(page, "#consent")
    page.keyboard.press("Space")
    page.dblclick('button[value="consent"]')
    wait_for_heading(page, "About you")
    page.fill("#pseudonym", "Flo")
    page.check('[name="vision"][value="blind"]')
    page.check('[name="screen_reader"][value="never"]')
    page.dblclick('button[value="register"]')
    wait_for_heading(page, "How it works")
    assert page.is_hidden(".ds-problems")
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2")
    for question in questions_of("none"):
        page.check(f'[name="{question.name}"][value="4"]')
    page.dblclick('button[value="save"]')
    wait_for_heading(page, "Description 2 of 2")
    assert page.evaluate("document.querySelectorAll('input:checked').length") == 0
    assert overall(store, "Flo") == [4]


def test_the_code_can_be_read_again(study_page: Page) -> None:
    page = study_page
    code = register(page, "Gil", BLIND)
    page.reload()
    wait_for_heading(page, "How it works")  # nothing is judged yet: it may not be written down
    assert page.inner_text("#code") == code
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2")
    press(page, "welcome")
    wait_for_heading(page, "How it works")
    assert page.inner_text("#code") == code


def test_an_answer_that_never_comes_gives_the_form_back(study_page: Page, store: JudgmentStore) -> None:
    page = study_page
    register(page, "Hal", BLIND)
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2")
    page.clock.install()
    for question in questions_of("none"):
        page.check(f'[name="{question.name}"][value="2"]')
    held: list[Route] = []  # neither answered nor refused

    def hold_the_first(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route("**/act", hold_the_first)
    page.click('button[value="save"]')
    page.wait_for_selector('.ds-page[aria-busy="true"]')
    page.clock.run_for(31_000)
    assert page.inner_text(".ds-status") == "Still waiting for the server."
    assert violations(page) == []
    page.clock.run_for(100_000)
    message = "The server has not answered. What you filled in is kept; try again."
    assert page.locator(".ds-problems li").all_inner_texts() == [message]
    assert page.get_attribute(".ds-page", "aria-busy") == "false"
    page.clock.resume()
    assert page.evaluate("document.querySelectorAll('input:checked').length") == 4
    page.click('button[value="save"]')
    wait_for_heading(page, "Description 2 of 2")
    assert overall(store, "Hal") == [2]


def test_a_full_disk_is_told_and_the_form_is_kept(
    study_page: Page, study_site: Site, store: JudgmentStore
) -> None:
    """The server's process may write no more than a page of a file, as when the disk has no room."""
    page = study_page
    register(page, "Ida", BLIND)
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2")
    _, most = resource.prlimit(study_site.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(study_site.pid, resource.RLIMIT_FSIZE, (4096, most))
    try:
        answer(page, "none", 4)
        page.wait_for_selector(".ds-problems li")
        said = page.inner_text(".ds-problems li")
        assert said.startswith("This was not saved: ")
        assert "What you filled in is still in the form." in said
        assert page.evaluate("document.querySelectorAll('input:checked').length") == 4
        assert overall(store, "Ida") == []
        assert violations(page) == []
    finally:
        resource.prlimit(study_site.pid, resource.RLIMIT_FSIZE, (most, most))
    press(page, "save")
    wait_for_heading(page, "Description 2 of 2")
    assert overall(store, "Ida") == [4]


def test_somebody_deleted_elsewhere_is_told(study_page: Page, store: JudgmentStore) -> None:
    page = study_page
    code = register(page, "Jo", BLIND)
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2")
    store.delete(store.by_code(code))
    answer(page, "none", 4)
    page.wait_for_selector(".ds-problems li")
    assert overall(store, "Jo") == []
    assert page.evaluate("Object.keys(localStorage).length") == 0
    assert page.inner_text(".ds-page h1") == "Judging image descriptions"
    assert "nothing was saved" in page.inner_text(".ds-problems")
    assert page.evaluate("document.activeElement.className") == "ds-problems"
    assert violations(page) == []
