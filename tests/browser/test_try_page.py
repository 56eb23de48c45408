"""The page to try texts on, in Chromium: scores, comparison, bad uploads, markup, accessibility."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page

from accessibility import NARROW, focus_order, open_everything, overflow, violations
from descscore.page.guard import MAX_BYTES
from descscore.page.try_page import EXAMPLES
from descscore.page.verdict import MINUS
from pages import TRY_HEADING, Site, press, tab_to, wait_for_status


def saved(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def site(try_site: Site) -> Site:
    return try_site


@pytest.fixture
def page(try_page: Page) -> Page:
    return try_page


@pytest.fixture
def drawing(tmp_path: Path) -> Path:
    path = tmp_path / "boat.png"
    EXAMPLES["boat"].draw().save(path)
    return path


def test_try_by_keyboard(page: Page, drawing: Path) -> None:
    assert violations(page) == []
    press(page, "score")
    page.wait_for_selector(".ds-problems li")
    assert page.evaluate("document.activeElement.className") == "ds-problems"
    assert page.inner_text("#image-error") == "Error: Choose an image."
    assert page.get_attribute("#description", "aria-invalid") == "true"
    assert "description-error" in page.get_attribute("#description", "aria-describedby")
    assert violations(page) == []
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the summary's first link leads to the field
    assert page.evaluate("document.activeElement.id") == "image"
    page.set_input_files("#image", drawing)  # the system's own window for files
    wait_for_status(page, "Image chosen.")
    assert page.get_attribute(".ds-preview img", "alt") == "The image that you chose"
    tab_to(page, "#description")
    page.keyboard.type("A boat on the sea.")
    press(page, "score")
    wait_for_status(page, "Score ")
    assert "of the description" in page.text_content(".ds-result caption")
    assert page.is_hidden(".ds-problems")
    assert page.get_attribute("#description", "aria-invalid") is None
    assert page.evaluate("document.activeElement.id") == "score"
    assert page.input_value("#description") == "A boat on the sea."
    assert violations(page) == []


def test_compare_drafts_from_an_example(page: Page) -> None:
    press(page, "example:house")
    wait_for_status(page, "The form is filled in")
    assert page.input_value("#caption") == EXAMPLES["house"].caption
    tab_to(page, "#caption")
    page.keyboard.press("Enter")  # return in a field presses Score, not the first button
    wait_for_status(page, "Among 4 drafts")
    tables = page.locator(".ds-result caption").all_text_contents()
    assert [name.split()[0] for name in tables] == ["Scores", "Which", "All", "Parts"]
    assert page.is_hidden(".ds-result table")
    page.click(".ds-details summary")
    assert page.is_visible(".ds-result table")
    cosines = page.locator("table:has(caption:text('All drafts')) tbody tr td:nth-child(4)").all_inner_texts()
    values = [float(value.replace(MINUS, "-")) for value in cosines]
    assert values == sorted(values, reverse=True)
    assert violations(page) == []


def test_an_article_adds_scores_in_context(page: Page) -> None:
    press(page, "example:boat")
    wait_for_status(page, "The form is filled in")
    tab_to(page, "#context")
    page.keyboard.type("Boats carry people and goods over the sea.")
    press(page, "score")
    wait_for_status(page, "Among 3 drafts")
    open_everything(page)
    rows = page.locator("table:has(caption:text('Scores of the description')) tbody th").all_inner_texts()
    assert "Score in context" in rows
    heads = page.locator("thead th:text('In context')")
    assert heads.count() == 2
    assert "|context:" in page.inner_text(".ds-signature")
    assert violations(page) == []
    for width in (640, NARROW):
        page.set_viewport_size({"width": width, "height": 900})
        assert (overflow(page), violations(page)) == (0, [])
    page.set_viewport_size({"width": 1280, "height": 900})
    page.fill("#context", "a" * 10_001)
    page.fill("#drafts", "b\n" * 21)
    page.fill("#caption", "c" * 2001)
    press(page, "score")
    page.wait_for_selector("#context-error:not([hidden])")
    for name in ("caption", "context", "drafts"):
        assert page.is_visible(f"#{name}-error")
        assert page.get_attribute(f"#{name}", "aria-invalid") == "true"
        assert f"{name}-error" in page.get_attribute(f"#{name}", "aria-describedby")
    assert violations(page) == []
    page.fill("#context", "")
    page.fill("#drafts", "")
    page.fill("#caption", "")
    press(page, "score")
    page.wait_for_function("!document.querySelector('.ds-result').textContent.includes('context')")
    assert page.locator("[aria-invalid]").count() == 0


def test_the_focus_goes_through_the_form_in_its_order(page: Page) -> None:
    order = focus_order(page)
    wanted = [
        "image",
        "BUTTON Take a photo",
        "BUTTON Example: a house",
        "BUTTON Example: a boat",
        "description",
        "caption",
        "context",
        "drafts",
        "score",
    ]
    assert [stop for stop in order if stop in wanted] == wanted


def test_small_windows_and_large_text(page: Page) -> None:
    press(page, "example:house")
    wait_for_status(page, "The form is filled in")
    press(page, "score")
    wait_for_status(page, "Among 4 drafts")
    for width in (640, NARROW):  # a 1280 pixel window at 200 % and at 400 %
        page.set_viewport_size({"width": width, "height": 900})
        assert overflow(page) <= 0
        assert violations(page) == []
    page.set_viewport_size({"width": 1280, "height": 900})
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    open_everything(page)
    assert overflow(page) <= 0
    page.emulate_media(color_scheme="dark")
    assert violations(page) == []


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("notes.txt", b"no image", "notes.txt is not in a format that can be read"),
        ("named.png", b"no image", "not an image that can be read"),
        ("empty.png", b"", "The file is empty"),
        ("cut.jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "cannot|damaged|not an image"),
        ("huge.png", b"\x89PNG" + b"\0" * (20 * 2**20), "larger than 20 MB"),
        (
            "code.svg",
            b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
            "code.svg is not in a format",
        ),
        ("wide.png", saved(Image.new("1", (12_000, 6_000))), "more than 60 million pixels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_uploads(page: Page, tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    tab_to(page, "#description")
    page.keyboard.type("A text that stays.")
    page.set_input_files("#image", path)
    if path.name not in reason and "larger" not in reason:
        wait_for_status(page, "Image chosen.")
        press(page, "score")
    page.wait_for_selector("#image-error:not([hidden])")
    assert re.search(reason, page.inner_text("#image-error"))
    assert page.input_value("#description") == "A text that stays."
    assert page.locator(".ds-result *").count() == 0
    assert violations(page) == []


def test_a_file_of_nearly_20_megabytes_is_scored(page: Page, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2640, 2640, 3), np.uint8)
    data = saved(Image.fromarray(noise), "BMP")
    assert MAX_BYTES - 100_000 < len(data) < MAX_BYTES
    (tmp_path / "large.bmp").write_bytes(data)
    page.set_input_files("#image", tmp_path / "large.bmp")
    wait_for_status(page, "Image chosen.")
    page.fill("#description", "Noise.")
    press(page, "score")
    wait_for_status(page, "Score ")


def test_markup_in_texts_does_not_run(page: Page, drawing: Path) -> None:
    bad = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script> {{7*7}} ${7*7}"
    page.set_input_files("#image", drawing)
    wait_for_status(page, "Image chosen.")
    for field in ("#description", "#caption", "#drafts"):
        page.fill(field, bad)
    page.fill("#drafts", f"{bad}\n<b>A boat</b>")
    press(page, "score")
    wait_for_status(page, "Score ")
    assert page.locator(".ds-result img, .ds-result script, .ds-result b").count() == 0
    assert "{{7*7}} ${7*7}" in page.inner_text(".ds-result")
    assert page.title() == f"{TRY_HEADING} - descscore"


def test_only_what_the_page_needs_is_served(page: Page, site: Site) -> None:
    for path in (
        "gradio_api/file=/etc/passwd",
        "gradio_api/queue/status",
        "gradio_api/upload",
        "docs",
        "monitoring",
    ):
        assert page.request.get(site.address + path).status == 404
    refused = page.request.get(site.address, headers={"Host": "example.org"})
    assert refused.status == 400  # a name that somebody pointed at this machine
