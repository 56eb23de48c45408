"""The browser checks themselves: that they can fail."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

from accessibility import focus_order, open_everything, overflow, violations

GOOD = """<!DOCTYPE html><html lang="en"><head><title>A page</title></head>
<body><main><h1>A page</h1><p>Text</p>{}</main></body></html>"""
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="


def test_a_sound_page_passes(chromium_page: Page) -> None:
    chromium_page.set_content(GOOD.format(f'<img src="{PIXEL}" alt="A dot">'))
    assert violations(chromium_page) == []
    assert overflow(chromium_page) == 0


@pytest.mark.parametrize(
    ("flaw", "rule"),
    [
        (f'<img src="{PIXEL}">', "image-alt"),
        ('<p style="color: #aaa; background: #fff">Pale</p>', "color-contrast"),
        ("<h4>Skipped</h4>", "heading-order"),
        ('<div style="overflow: auto; height: 2em"><p>a<p>b<p>c</div>', "scrollable-region-focusable"),
        ("<details><summary>More</summary><input></details>", "label"),
    ],
    ids=lambda value: value if value.replace("-", "").isalpha() else "",
)
def test_a_flaw_is_found(chromium_page: Page, flaw: str, rule: str) -> None:
    chromium_page.set_content(GOOD.format(flaw))
    open_everything(chromium_page)
    assert [line for line in violations(chromium_page) if line.startswith(f"{rule} (")]


def test_a_page_that_is_too_wide_is_seen(chromium_page: Page) -> None:
    chromium_page.set_content(GOOD.format('<p style="width: 1400px">Wide</p>'))
    assert overflow(chromium_page) > 100


def test_the_focus_goes_through_what_can_be_reached(chromium_page: Page) -> None:
    chromium_page.set_content(GOOD.format('<a href="#x">x</a><b tabindex="0" id="y">y</b><i>z</i>'))
    assert focus_order(chromium_page) == ["A x", "y"]


def test_a_request_to_the_outside_is_stopped_and_told(chromium_page: Page, outside: list[str]) -> None:
    address = "https://example.org/dot.png"
    chromium_page.set_content(GOOD.format(f'<img src="{address}" alt="A dot">'))
    assert outside == [address]
    outside.clear()
