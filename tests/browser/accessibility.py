"""What every page must pass in a real browser: axe-core without a finding, and no request to the outside."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

WIDE, NARROW = 1280, 320
"""CSS pixels. 320 is also what a 1280 pixel window shows at 400 % zoom (WCAG 2.2, 1.4.10 Reflow)."""


def violations(page: Page) -> list[str]:
    """Every finding of axe-core's default rules, best practices included, with the element it is about.

    Assert that this is empty: nothing counts as minor.
    """
    found = Axe().run(page).response["violations"]
    return [f"{rule['id']} ({rule['impact']}): {node['html']}" for rule in found for node in rule["nodes"]]


def open_everything(page: Page) -> None:
    """Unfold all details, so that what they hold is checked too."""
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")


def overflow(page: Page) -> int:
    """By how many pixels the page as a whole is wider than the window; scrolling parts do not count."""
    root = "document.documentElement"
    return int(page.evaluate(f"Math.max({root}.scrollWidth, document.body.scrollWidth) - {root}.clientWidth"))


def focus_order(page: Page, limit: int = 500) -> list[str]:
    """What the tab key reaches, in order: each element's id, or its tag and the start of its text.

    Ends where the focus leaves the page. Raises :class:`AssertionError` where it never does.
    """
    page.evaluate("document.activeElement.blur(); window.getSelection().removeAllRanges()")
    seen: list[str] = []
    for _ in range(limit):
        page.keyboard.press("Tab")
        name = page.evaluate(_FOCUSED)
        if name is None or (seen and name == seen[0]):
            return seen
        seen.append(name)
    raise AssertionError(f"focus does not leave the page after {limit} stops: {seen[-5:]}")


_FOCUSED = """() => {
    const one = document.activeElement;
    if (!one || one === document.body) return null;
    const region = one.getAttribute('aria-labelledby');
    return region || one.id || one.tagName + ' ' + one.textContent.trim().slice(0, 60);
}"""
