"""What annoyed people on the page to try: results out of sight or old, texts of others, clumsy pictures."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from accessibility import NARROW, violations
from conftest import ARGUMENTS, chromium_path
from descscore.page.try_page import EXAMPLES
from pages import TRY_HEADING, Site, press, wait_for_heading, wait_for_status


@pytest.fixture
def page(try_page: Page) -> Page:
    return try_page


@pytest.fixture
def drawings(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.png" for name in EXAMPLES]
    for path, example in zip(paths, EXAMPLES.values(), strict=True):
        example.draw().save(path)
    return paths


def score_example(page: Page, name: str = "house") -> None:
    press(page, f"example:{name}")
    wait_for_status(page, "The form is filled in")
    press(page, "score")
    page.wait_for_selector(".ds-result h2")


def result_in_view(page: Page) -> bool:
    return bool(
        page.evaluate(
            """() => [...document.querySelectorAll('#result, .ds-verdict')].every((one) => {
                const box = one.getBoundingClientRect();
                return box.top >= 0 && box.bottom <= window.innerHeight;
            })"""
        )
    )


def test_the_verdict_stands_beside_the_form_in_view_and_the_focus_stays(page: Page) -> None:
    score_example(page)
    assert result_in_view(page)
    form, result = page.locator("form").bounding_box(), page.locator(".ds-result").bounding_box()
    assert form
    assert result
    assert result["x"] > form["x"] + form["width"]
    assert page.evaluate("document.activeElement.id") == "score"
    page.evaluate("window.scrollTo(0, 0)")
    assert result_in_view(page)


@pytest.mark.parametrize(("width", "size"), [(NARROW, "100%"), (640, "100%"), (1280, "200%")])
def test_below_the_form_the_verdict_comes_into_view_and_gets_the_focus(
    page: Page, width: int, size: str
) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.evaluate("size => document.documentElement.style.fontSize = size", size)
    score_example(page)
    page.wait_for_function("document.activeElement.id === 'result'")
    assert result_in_view(page)
    assert violations(page) == []


def test_the_button_works_and_the_old_result_says_that_it_is_old(page: Page) -> None:
    score_example(page)
    assert page.is_hidden(".ds-old-note")
    page.route("**/act", lambda route: None)  # never answered
    press(page, "score")
    page.wait_for_selector('.ds-page[aria-busy="true"]')
    assert page.inner_text("#score").startswith("Scoring")
    assert "earlier result" in page.inner_text(".ds-old-note")
    assert violations(page) == []
    page.unroute("**/act")


def test_what_is_changed_makes_the_result_an_old_one(page: Page, drawings: list[Path]) -> None:
    score_example(page)
    before = page.input_value("#description")
    page.fill("#description", "Something else.")
    assert "This result is old" in page.inner_text(".ds-old-note")
    assert violations(page) == []
    page.fill("#description", before)
    assert page.is_hidden(".ds-old-note")
    page.set_input_files("#image", drawings[1])
    wait_for_status(page, "Image chosen.")
    assert "This result is old" in page.inner_text(".ds-old-note")
    page.fill("#description", "A boat.")
    press(page, "score")
    page.wait_for_function("document.querySelector('.ds-old-note').hidden")
    assert page.inner_text("#score") == "Score"


def test_an_example_s_texts_go_with_its_picture_and_own_ones_stay(page: Page, drawings: list[Path]) -> None:
    press(page, "example:house")
    wait_for_status(page, "The form is filled in")
    page.fill("#caption", "My own caption")
    page.set_input_files("#image", drawings[1])
    wait_for_status(page, "Image chosen.")
    assert [page.input_value(f"#{name}") for name in ("description", "drafts")] == ["", ""]
    assert page.input_value("#caption") == "My own caption"
    page.fill("#description", "A boat.")
    page.set_input_files("#image", drawings[0])
    wait_for_status(page, "Image chosen.")
    assert page.input_value("#description") == "A boat."


def test_several_pictures_one_after_the_other(page: Page, drawings: list[Path]) -> None:
    page.set_input_files("#image", drawings)
    wait_for_status(page, "2 images chosen. The first is shown.")
    thumbs = page.locator(".ds-thumbs .ds-thumb")
    assert thumbs.all_inner_texts() == ["house.png", "boat.png"]
    assert [one.get_attribute("aria-pressed") for one in thumbs.all()] == ["true", "false"]
    assert violations(page) == []
    page.fill("#description", "A boat on the sea.")
    press(page, "score")
    page.wait_for_selector(".ds-result h2")
    first = page.inner_text(".ds-verdict")
    thumbs.nth(1).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector('.ds-thumbs li:nth-child(2) [aria-pressed="true"]')
    assert page.evaluate("document.activeElement.textContent") == "boat.png"
    assert page.is_visible(".ds-old-note")
    press(page, "score")
    page.wait_for_function("document.querySelector('.ds-old-note').hidden")
    assert page.inner_text(".ds-verdict") != first


def test_each_picture_keeps_its_texts_and_can_be_removed(page: Page, drawings: list[Path]) -> None:
    page.set_input_files("#image", drawings)
    wait_for_status(page, "2 images chosen. The first is shown.")
    thumbs = page.locator(".ds-thumbs .ds-thumb")
    page.fill("#description", "A house.")
    page.fill("#drafts", "A red house.")
    thumbs.nth(1).click()
    assert page.input_value("#description") == "A house."  # a new picture begins with what stands there
    page.fill("#description", "A boat.")
    page.fill("#drafts", "")
    thumbs.nth(0).click()
    assert (page.input_value("#description"), page.input_value("#drafts")) == ("A house.", "A red house.")
    press(page, "score")
    page.wait_for_selector(".ds-result h2")
    page.get_by_role("button", name="Remove boat.png").focus()
    page.keyboard.press("Enter")
    wait_for_status(page, "boat.png removed.")
    assert page.is_hidden(".ds-old-note")  # the result still belongs to the picture and the texts
    assert page.evaluate("document.activeElement.textContent") == "house.png"
    assert thumbs.all_inner_texts() == ["house.png"]
    assert violations(page) == []
    page.get_by_role("button", name="Remove house.png").click()
    wait_for_status(page, "house.png removed.")
    assert page.evaluate("document.activeElement.id") == "image"
    assert page.is_hidden(".ds-thumbs")
    assert page.is_hidden(".ds-preview")
    assert page.input_value("#description") == "A house."
    press(page, "score")
    page.wait_for_selector(".ds-problems li")
    assert page.inner_text("#image-error") == "Error: Choose an image."


def test_a_word_s_part_is_a_number_that_says_something(page: Page) -> None:
    """With two decimals of the cosine, most words had 0.00."""
    score_example(page)
    page.click(".ds-details summary")
    table = page.locator("table:has(caption:text('Parts of the score by word'))")
    assert "Hundredths of the score" in table.locator("thead").inner_text()
    parts = table.locator("tbody tr td:nth-child(3)").all_inner_texts()
    assert sum(part != "0.0" for part in parts) > len(parts) / 2


def test_a_file_that_is_no_picture_is_refused_at_once_by_its_name(page: Page, tmp_path: Path) -> None:
    """It used to be listed as chosen, and failed only when it was scored; a telephone's HEIC did so too."""
    files = [tmp_path / name for name in ("notes.pdf", "photo.heic", "house.png")]
    for file in files[:2]:
        file.write_bytes(b"no picture")
    EXAMPLES["house"].draw().save(files[2])
    page.set_input_files("#image", files)
    page.wait_for_selector("#image-error:not([hidden])")
    said = page.inner_text("#image-error")
    assert said.startswith(
        "Error: notes.pdf, photo.heic are not in a format that can be read. Choose JPEG, PNG"
    )
    assert page.locator(".ds-thumbs .ds-thumb").all_inner_texts() == ["house.png"]
    assert page.is_visible(".ds-preview img")
    assert violations(page) == []
    page.fill("#description", "A house.")
    press(page, "score")
    page.wait_for_selector(".ds-result h2")


def test_no_word_of_ours_breaks_inside_in_the_tables(page: Page) -> None:
    score_example(page)
    page.click(".ds-details summary")
    broken = page.evaluate(
        """() => [...document.querySelectorAll('.ds-wide th:not([dir])')].filter((cell) => {
            const range = document.createRange();
            const words = [...cell.firstChild.textContent.matchAll(/\\S+/g)];
            return words.some((word) => {
                range.setStart(cell.firstChild, word.index);
                range.setEnd(cell.firstChild, word.index + word[0].length);
                return range.getClientRects().length > 1;
            });
        }).map((cell) => cell.textContent)"""
    )
    assert broken == []
    assert page.locator(".ds-wide th:not([dir])", has_text="Description").count() > 0
    assert not page.evaluate(
        "[...document.querySelectorAll('.ds-wide')].some((one) => one.scrollWidth > one.clientWidth)"
    )


def test_a_picture_is_dropped_or_pasted(page: Page, drawings: list[Path]) -> None:
    data = base64.b64encode(drawings[0].read_bytes()).decode()
    for kind, holder in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """([kind, holder, data]) => {
                const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
                const files = new DataTransfer();
                files.items.add(new File([bytes], `${kind}.png`, { type: 'image/png' }));
                const event = new Event(kind, { bubbles: true, cancelable: true });
                event[holder] = files;
                document.querySelector('#description').dispatchEvent(event);
            }""",
            [kind, holder, data],
        )
        wait_for_status(page, "Image chosen.")
        assert page.is_visible(".ds-preview img")
    assert page.locator(".ds-thumbs .ds-thumb").all_inner_texts() == ["drop.png", "paste.png"]
    page.fill("#description", "A house.")
    press(page, "score")
    page.wait_for_selector(".ds-result h2")


def test_a_photo_from_the_camera(chromium: Browser, try_site: Site) -> None:
    """Chromium's made-up camera."""
    fake = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    kind = chromium.browser_type
    browser = kind.launch(executable_path=chromium_path(), args=[*ARGUMENTS, *fake])
    try:
        page = browser.new_page()
        page.goto(try_site.address)
        wait_for_heading(page, TRY_HEADING)
        page.click("text=Take a photo")
        page.wait_for_function("document.querySelector('video').videoWidth > 0")
        assert violations(page) == []
        page.keyboard.press("Escape")
        assert page.is_hidden(".ds-camera")
        assert page.evaluate("document.querySelector('video').srcObject") is None
        page.click("text=Take a photo")
        page.wait_for_function("document.querySelector('video').videoWidth > 0")
        page.click("text=Take the picture")
        wait_for_status(page, "Image chosen.")
        assert page.is_hidden(".ds-camera")
        page.fill("#description", "A green picture with a clock.")
        page.click("#score")
        page.wait_for_selector(".ds-result h2")
    finally:
        browser.close()


def test_without_a_camera_the_page_says_so(page: Page) -> None:
    page.click("text=Take a photo")
    page.wait_for_selector("#image-error:not([hidden])")
    assert "No camera can be used here" in page.inner_text("#image-error")


def test_long_texts_are_counted(page: Page) -> None:
    page.fill("#description", "word " * 100)
    assert page.is_hidden("#description-count")
    page.fill("#description", "word " * 300)
    assert page.inner_text("#description-count") == "1,499 of 2,000 characters"
    page.fill("#description", "word " * 500)
    assert page.inner_text("#description-count") == "2,499 of 2,000 characters: too long"
    assert violations(page) == []


def test_the_signature_is_copied(page: Page, try_site: Site) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=try_site.address)
    score_example(page)
    page.click(".ds-details summary")
    page.click("text=Copy the signature")
    wait_for_status(page, "Signature copied.")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.inner_text(".ds-signature")
    assert copied.startswith("descscore:")
