"""How a page is seen: what is cut off, where the focus is shown, what moves."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page

SPACED = """.ds-root * { line-height: 1.5 !important; letter-spacing: 0.12em !important;
word-spacing: 0.16em !important; } .ds-root p { margin-bottom: 2em !important; }"""
"""What WCAG 2.2, 1.4.12 (Text Spacing), says a reader may set."""


def cut(page: Page) -> list[str]:
    """Elements whose content is cut off, or that stick out of the window at its sides; what scrolls may."""
    return list(page.evaluate(_CUT))


_CUT = """() => {
    const found = [];
    const name = (one) => `${one.tagName.toLowerCase()} ${one.className} ${one.textContent.slice(0, 40)}`;
    const root = document.querySelector('.ds-root');
    const all = [...root.querySelectorAll('*'), root];
    for (let one = root.parentElement; one; one = one.parentElement) all.push(one);
    for (const one of all) {
        if (!one.checkVisibility() || one.matches('input, textarea')) continue;
        const style = getComputedStyle(one);
        if (style.clipPath !== 'none') continue; // for screen readers only
        const hides = (value) => ['hidden', 'clip'].includes(value);
        const wider = one.scrollWidth > one.clientWidth + 1;
        const higher = one.scrollHeight > one.clientHeight + 1;
        const hidden = (hides(style.overflowX) && wider) || (hides(style.overflowY) && higher);
        if (hidden) found.push(`cut: ${name(one)}`);
        if (style.textOverflow === 'ellipsis' && wider) found.push(`shortened: ${name(one)}`);
        const box = one.getBoundingClientRect();
        const out = box.right > document.documentElement.clientWidth + 1 || box.left < -1;
        if (out && !one.closest('.ds-wide')) found.push(`sticks out: ${name(one)}`);
    }
    return found;
}"""


def hidden_focus(page: Page, limit: int = 200) -> list[str]:
    """Stops of the tab key at which no clear outline is shown, or that lie outside the window."""
    page.evaluate("document.activeElement.blur(); window.getSelection().removeAllRanges()")
    found, stops = [], 0
    while stops < limit:
        page.keyboard.press("Tab")
        stop = page.evaluate(_FOCUS)
        if stop is None or (stops and stop["first"]):
            assert stops > 0
            return found
        stops += 1
        if not (stop["outlined"] and stop["inside"]):
            found.append(str(stop))
    raise AssertionError("the focus does not leave the page")


_FOCUS = """() => {
    const one = document.activeElement;
    if (!one || one === document.body) return null;
    const style = getComputedStyle(one), box = one.getBoundingClientRect();
    const across = box.right > 0 && box.left < window.innerWidth;
    const first = one.seenFirst || false;
    if (!document.querySelector('.ds-root').walked) one.seenFirst = true;
    document.querySelector('.ds-root').walked = true;
    return {
        name: one.id || one.value || one.textContent.trim().slice(0, 40),
        outlined: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
        inside: across && box.bottom > 0 && box.top < window.innerHeight,
        first,
    };
}"""


def shot(page: Page, part: Locator, margin: int = 8) -> np.ndarray:
    """The pixels of a part with a margin around it, as they are on the screen."""
    part.scroll_into_view_if_needed()
    box = part.bounding_box()
    assert box
    clip = {
        "x": max(box["x"] - margin, 0),
        "y": max(box["y"] - margin, 0),
        "width": box["width"] + 2 * margin,
        "height": box["height"] + 2 * margin,
    }
    data = page.screenshot(clip=clip, animations="disabled")  # type: ignore[arg-type]
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def difference(first: np.ndarray, second: np.ndarray) -> int:
    """How many pixels differ clearly."""
    assert first.shape == second.shape
    return int((np.abs(first - second).max(axis=2) > 60).sum())


def movements(page: Page) -> list[str]:
    """What moves by itself, or would when it changes."""
    return list(
        page.evaluate(
            """() => [...document.getAnimations().map((one) => one.animationName || one.transitionProperty),
            ...[...document.querySelectorAll('.ds-root, .ds-root *, html')].filter((one) => {
                const style = getComputedStyle(one);
                return style.scrollBehavior === 'smooth' || style.animationName !== 'none'
                    || style.transitionDuration.split(',').some((time) => parseFloat(time) > 0);
            }).map((one) => one.tagName)]"""
        )
    )
