"""Every state of the pages, wide, narrow, at 200 % and dark: without a finding of axe-core, and as pictures.

``DESCSCORE_SCREENSHOTS=docs/images .venv/bin/python -m pytest tests/browser/test_pictures.py`` writes the
pictures. Those of the documentation are ``try.png`` and ``judge.png``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from accessibility import open_everything, overflow, violations
from pages import (
    TIMEOUT,
    TRY_HEADING,
    Site,
    answer,
    picture,
    press,
    register,
    wait_for_heading,
    wait_for_status,
)

LOOKS = {
    "wide": {"viewport": {"width": 1280, "height": 900}},
    "narrow": {"viewport": {"width": 390, "height": 844}},
    "zoomed": {"viewport": {"width": 640, "height": 450}, "device_scale_factor": 2},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "narrow-dark": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}
"""A 1280 pixel window at 200 % shows 640."""


@pytest.fixture(scope="module")
def try_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The page to try texts on with the bundled model, which is what the pictures of the README show."""
    served = Site(["--device", "cpu"], tmp_path_factory.mktemp("try") / "log").start()
    yield served
    served.kill()


@pytest.fixture(params=LOOKS)
def look(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def page(chromium: Browser, look: str) -> Iterator[Page]:
    context = chromium.new_context(**LOOKS[look])  # type: ignore[arg-type]
    context.set_default_timeout(TIMEOUT)
    yield context.new_page()
    context.close()


def check(page: Page, name: str, whole: bool = False) -> None:
    picture(page, f"{name}.png", whole)
    assert (violations(page), overflow(page)) == ([], 0)


def test_the_page_to_try(page: Page, try_site: Site, look: str) -> None:
    page.goto(try_site.address)
    wait_for_heading(page, TRY_HEADING)
    check(page, f"try-{look}-empty")
    press(page, "score")
    page.wait_for_selector(".ds-problems li")
    check(page, f"try-{look}-errors")
    press(page, "example:house")
    wait_for_status(page, "The form is filled in")
    press(page, "score")
    page.wait_for_selector(".ds-result h2")
    if look == "wide":
        page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
        picture(page, "try.png")
    check(page, f"try-{look}-result")
    page.fill("#description", "A house.")
    check(page, f"try-{look}-old")
    open_everything(page)
    check(page, f"try-{look}-details", whole=True)


def test_a_study(page: Page, study_site: Site, look: str, tmp_path: Path) -> None:
    page.goto(study_site.address)
    wait_for_heading(page, "Judging image descriptions")
    check(page, f"study-{look}-consent")
    register(page, f"Look {look}", 2)
    check(page, f"study-{look}-welcome")
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2: before the image")
    check(page, f"study-{look}-before", whole=True)
    answer(page, "before", 2)
    wait_for_heading(page, "Description 1 of 2: with the image")
    if look == "wide":
        picture(page, "judge.png")
    check(page, f"study-{look}-with-image", whole=True)
    press(page, "save")
    page.wait_for_selector(".ds-problems li")
    check(page, f"study-{look}-errors", whole=True)
