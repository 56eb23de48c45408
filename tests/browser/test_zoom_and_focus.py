"""Zoom, narrow windows, wide spacing, forced colours, less motion, and where the focus is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from looks import SPACED, cut, difference, hidden_focus, movements, shot
from playwright.sync_api import Page

from accessibility import NARROW, WIDE, open_everything, overflow, violations
from descscore.page.try_page import EXAMPLES
from descscore.page.verdict import MINUS
from pages import Site, answer, press, register, tab_to, wait_for_heading, wait_for_status
from study_tools import write_table

WORD = "Donaudampfschifffahrtsgesellschaftskapitaensmuetzenaufbewahrungsschrankschluesselloch" * 2
HALF = 640
"""A 1280 pixel window at 200 % zoom."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A study with words that no narrow window holds in one line."""
    folder = tmp_path_factory.mktemp("wide")
    rows = []
    for name, example in EXAMPLES.items():
        example.draw().resize((2400, 600)).save(folder / f"{name}.png")
        cells = {"item": name, "image": f"{name}.png", "description": f"{example.description} {WORD}"}
        rows.append(cells | {"article title": WORD, "article text": f"{WORD} {example.caption}"})
    (folder / "consent.txt").write_text(f"Consent to {WORD}.\n\nPlease.", encoding="utf-8")
    study = ["--study", write_table(folder / "items.csv", rows), "--database", folder / "study.db"]
    served = Site([*study, "--without-try", "--consent", folder / "consent.txt"], folder / "log").start()
    yield served
    served.kill()


@pytest.fixture
def page(chromium_page: Page, site: Site) -> Page:
    chromium_page.goto(site.address)
    wait_for_heading(chromium_page, "Judging image descriptions")
    return chromium_page


def check_shape(page: Page) -> None:
    """Nothing is cut and nothing scrolls sideways: zoomed, narrow, with wide spacing, with large text."""
    for width in (HALF, NARROW):
        page.set_viewport_size({"width": width, "height": 600})
        assert (overflow(page), cut(page)) == (0, [])
    style = page.add_style_tag(content=SPACED)
    assert (overflow(page), cut(page)) == (0, [])
    style.evaluate("one => one.remove()")
    page.set_viewport_size({"width": WIDE, "height": 900})
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    assert (overflow(page), cut(page)) == (0, [])
    page.evaluate("document.documentElement.style.fontSize = ''")


def check_sight(page: Page) -> None:
    """The focus is seen at every stop, also in a narrow window and in forced colours, and nothing moves."""
    assert hidden_focus(page) == []
    page.set_viewport_size({"width": NARROW, "height": 600})
    page.emulate_media(forced_colors="active", reduced_motion="reduce")
    assert hidden_focus(page) == []
    assert movements(page) == []
    assert violations(page) == []
    page.emulate_media(forced_colors="none", reduced_motion="no-preference")
    page.set_viewport_size({"width": WIDE, "height": 900})


def check(page: Page) -> None:
    check_shape(page)
    check_sight(page)


def test_every_page_of_a_study(page: Page) -> None:
    check(page)
    press(page, "consent")
    page.wait_for_selector("#consent-error:not([hidden])")
    check(page)
    tab_to(page, "#consent")
    page.keyboard.press("Space")
    press(page, "consent")
    wait_for_heading(page, "About you")
    press(page, "register")
    page.wait_for_selector("#pseudonym-error:not([hidden])")
    check(page)
    page.reload()
    wait_for_heading(page, "Judging image descriptions")
    register(page, "W" * 40, 2)
    check(page)
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2: before the image")
    press(page, "save")
    page.wait_for_selector(".ds-problems li")
    check(page)
    answer(page, "before", 2)
    wait_for_heading(page, "Description 1 of 2: with the image")
    check(page)
    for phase, then in (
        ("after", "Description 2 of 2: before the image"),
        ("before", "Description 2 of 2: with the image"),
        ("after", "All done"),
    ):
        answer(page, phase, 3)
        wait_for_heading(page, then)
    check(page)
    press(page, "ask-delete")
    wait_for_heading(page, "Delete all my answers")
    check(page)


def test_the_page_to_try_and_its_result(try_page: Page) -> None:
    page = try_page
    check(page)
    press(page, "example:house")
    wait_for_status(page, "The form is filled in")
    page.fill("#description", f"{EXAMPLES['house'].description} {WORD}")
    page.fill("#drafts", f"{WORD}\nA house.")
    page.fill("#context", f"{WORD} Houses are built for people to live in.")
    press(page, "score")
    wait_for_status(page, "Among 3 drafts")
    assert page.locator("thead th:text('In context')").count() == 2
    check(page)
    open_everything(page)
    check(page)


@pytest.mark.parametrize("colours", ["none", "active"])
def test_focus_and_answers_are_seen_on_the_screen(page: Page, colours: str) -> None:
    """By its pixels, not its style: outline of the focus, chosen answers, progress, and wrong fields."""
    page.emulate_media(forced_colors=colours)  # type: ignore[arg-type]
    register(page, f"Pixel {colours}", 0)
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2")
    for selector in ('button[value="save"]', 'button[value="leave"]', 'input[name="overall"][value="1"]'):
        part = page.locator(selector)
        without = shot(page, part)
        tab_to(page, selector)
        assert difference(without, shot(page, part)) > 100
        page.evaluate("document.activeElement.blur()")
    choice = page.locator('input[name="overall"][value="2"]')
    without = shot(page, choice)
    choice.check()
    page.evaluate("document.activeElement.blur()")
    assert difference(without, shot(page, choice)) > 30
    progress, group = page.locator("progress"), page.locator("fieldset#relevance")
    empty, fine = shot(page, progress, 0), shot(page, group, 0)[:, :3]
    page.locator('button[value="save"]').click()
    page.wait_for_selector(".ds-problems li")
    page.evaluate("document.activeElement.blur()")
    assert difference(fine, shot(page, group, 0)[: len(fine), :3]) > 100
    answer(page, "none", 2)
    wait_for_heading(page, "Description 2 of 2")
    assert difference(empty, shot(page, progress, 0)) > 500


def test_signs_in_the_result_show_without_colours(try_page: Page) -> None:
    page = try_page
    page.emulate_media(forced_colors="active")
    press(page, "example:house")
    wait_for_status(page, "The form is filled in")
    press(page, "score")
    wait_for_status(page, "Among 4 drafts")
    lines = page.evaluate(
        """() => [...document.querySelectorAll('.ds-text :is(.ds-raises, .ds-lowers)')].map((one) => [
            one.className.split(' ')[0],
            getComputedStyle(one.querySelector('.ds-word')).borderBottomStyle,
            one.querySelector('sup').textContent[0],
        ])"""
    )
    assert lines
    assert {tuple(line) for line in lines} <= {("ds-raises", "solid", "+"), ("ds-lowers", "dashed", MINUS)}


def test_nothing_moves_while_the_page_waits(try_page: Page) -> None:
    page = try_page
    page.emulate_media(reduced_motion="reduce")
    press(page, "example:house")
    wait_for_status(page, "The form is filled in")
    page.route("**/act", lambda route: None)  # never answered
    press(page, "score")
    page.wait_for_selector('.ds-page[aria-busy="true"]')
    page.wait_for_timeout(300)
    assert movements(page) == []
    page.unroute("**/act")


def test_what_is_cut_or_moves_or_hides_the_focus_is_found(chromium_page: Page) -> None:
    shell = '<html lang=en><body style="margin:0"><main class="ds-root">{}</main>'
    for flaw, found in (
        ('<p style="overflow:hidden;height:1em">a<br>b', ["cut"]),
        ('<p style="margin-left:-50px">a', ["sticks out"]),
        ('<p style="width:2000px">a', ["sticks out"]),
        ("<p>a", []),
    ):
        chromium_page.set_content(shell.format(flaw))
        assert [line.split(":")[0] for line in cut(chromium_page)] == found
    chromium_page.set_content(shell.format('<button>a</button><button style="outline:none">b</button>'))
    chromium_page.add_style_tag(content=":focus-visible { outline: 3px solid black; }")
    assert ["'b'" in line for line in hidden_focus(chromium_page)] == [True]
    chromium_page.set_content(shell.format('<p style="transition: color 1s">a'))
    assert movements(chromium_page) == ["P"]
