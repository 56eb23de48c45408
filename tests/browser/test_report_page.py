"""The report's page in a browser: axe-core, reflow, keyboard, and that it loads nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from playwright.sync_api import Page

from accessibility import NARROW, WIDE, focus_order, open_everything, overflow, violations
from descscore.cli import main
from report_data import make_adapter, make_data


@pytest.fixture(scope="module")
def report(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two models, one of them with a read-out, so that every kind of plot is on it."""
    root = tmp_path_factory.mktemp("report")
    data, adapter = make_data(root / "data"), make_adapter(tiny_folder, root / "adapter")
    arguments = ["eval", "report", "--data", str(data), "--output", str(root), "--resamples", "99"]
    result = CliRunner().invoke(main, [*arguments, "--model", str(tiny_folder), "--model", str(adapter)])
    assert result.exit_code == 0, result.output
    return root / "report.html"


@pytest.mark.parametrize(("width", "scheme"), [(WIDE, "light"), (WIDE, "dark"), (NARROW, "light")])
def test_axe_finds_nothing(chromium_page: Page, report: Path, width: int, scheme: str) -> None:
    chromium_page.set_viewport_size({"width": width, "height": 900})
    chromium_page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    chromium_page.goto(report.as_uri())
    open_everything(chromium_page)
    assert violations(chromium_page) == []


@pytest.mark.parametrize("width", [WIDE, 640, NARROW])
def test_only_tables_scroll_sideways(chromium_page: Page, report: Path, width: int) -> None:
    """640 pixels are a 1280 pixel window at 200 % zoom, 320 the same at 400 %."""
    chromium_page.set_viewport_size({"width": width, "height": 900})
    chromium_page.goto(report.as_uri())
    open_everything(chromium_page)
    assert overflow(chromium_page) == 0
    inside = "one => one.scrollWidth > one.clientWidth"
    wide = chromium_page.evaluate(f"[...document.querySelectorAll('.scroll')].filter({inside}).length")
    assert wide > 0 or width == WIDE


def test_text_can_be_twice_as_large(chromium_page: Page, report: Path) -> None:
    chromium_page.goto(report.as_uri())
    chromium_page.evaluate("document.documentElement.style.fontSize = '200%'")
    assert overflow(chromium_page) == 0


def test_title_language_and_landmarks(chromium_page: Page, report: Path) -> None:
    chromium_page.goto(report.as_uri())
    assert chromium_page.title().startswith("descscore report: ")
    assert chromium_page.evaluate("document.documentElement.lang") == "en"
    for role in ("banner", "navigation", "main", "contentinfo"):
        assert chromium_page.get_by_role(role).count() == 1  # type: ignore[arg-type]
    assert chromium_page.get_by_role("heading", level=1).count() == 1


def test_the_keyboard_reaches_every_region_after_the_skip_link(chromium_page: Page, report: Path) -> None:
    chromium_page.goto(report.as_uri())
    open_everything(chromium_page)
    order = focus_order(chromium_page)
    assert order[0] == "A Skip to the results"
    regions = chromium_page.evaluate(
        "[...document.querySelectorAll('.scroll')].map(one => one.getAttribute('aria-labelledby'))"
    )
    assert len(regions) > 10
    assert [name for name in order if name in set(regions)] == regions


def test_a_focused_region_scrolls_by_arrow_key(chromium_page: Page, report: Path) -> None:
    chromium_page.set_viewport_size({"width": NARROW, "height": 900})
    chromium_page.goto(report.as_uri())
    region = chromium_page.get_by_role("region", name="Correlations with the mean ratings of BLV readers")
    region.focus()
    for _ in range(3):
        chromium_page.keyboard.press("ArrowRight")
    chromium_page.wait_for_function("one => one.scrollLeft > 0", arg=region.element_handle())


def test_the_skip_link_shows_and_leads_to_the_results(chromium_page: Page, report: Path) -> None:
    chromium_page.goto(report.as_uri())
    link = chromium_page.get_by_role("link", name="Skip to the results")
    chromium_page.keyboard.press("Tab")
    box = link.bounding_box()
    assert box is not None
    assert box["y"] >= 0
    chromium_page.keyboard.press("Enter")
    assert chromium_page.evaluate("document.activeElement.id") == "main"


def test_every_picture_is_drawn_with_a_name_and_a_table(chromium_page: Page, report: Path) -> None:
    chromium_page.goto(report.as_uri())
    pictures = chromium_page.get_by_role("img").all()
    assert len(pictures) == 17
    for picture in pictures:
        assert picture.evaluate("one => one.complete && one.naturalWidth > 100")
        assert len(picture.get_attribute("alt") or "") > 60
    links = chromium_page.locator("figcaption a")
    assert links.count() == 17
    for link in links.all():
        target = link.get_attribute("href") or ""
        assert chromium_page.locator(f"{target} table").count() == 1


def test_the_page_loads_nothing(chromium_page: Page, report: Path) -> None:
    seen: list[str] = []
    chromium_page.on("request", lambda request: seen.append(request.url))
    chromium_page.goto(report.as_uri())
    chromium_page.wait_for_load_state("networkidle")
    assert [url for url in seen if not url.startswith("data:image/svg+xml")] == [report.as_uri()]
    assert chromium_page.locator("script").count() == 0
