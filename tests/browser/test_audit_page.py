"""The report of an audit in a browser: axe-core, reflow, keyboard, and filters that hide and show."""

from __future__ import annotations

from pathlib import Path

import pytest
from audit_site import make_site
from click.testing import CliRunner
from playwright.sync_api import Page

from accessibility import NARROW, WIDE, focus_order, open_everything, overflow, violations
from descscore.cli import main


@pytest.fixture(scope="module", params=["tiny", "none"])
def page_file(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The report of made pages with every defect, with and without a model."""
    root = tmp_path_factory.mktemp("audit")
    site = make_site(root / "site", 26)
    long = "donaudampfschifffahrtsgesellschaftskapitaensmuetze" * 3
    (site.folder / "hostile.html").write_text(
        f'<p>x</p><img src="{long}.jpg" alt="<b>{long}</b>.jpg &#x202e;">'
    )
    model = ["--model", str(tiny_folder), "--device", "cpu"] if request.param == "tiny" else ["--no-model"]
    arguments = ["audit", str(site.folder), "--format", "html", "--output", str(root / "report.html"), *model]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1, result.output
    return root / "report.html"


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(chromium_page: Page, page_file: Path, width: int, scheme: str) -> None:
    chromium_page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    chromium_page.set_viewport_size({"width": width, "height": 900})
    chromium_page.goto(page_file.as_uri())
    open_everything(chromium_page)
    assert violations(chromium_page) == []
    assert overflow(chromium_page) == 0


def test_a_box_hides_the_entries_of_its_rule_and_shows_them_again(
    chromium_page: Page, page_file: Path
) -> None:
    chromium_page.goto(page_file.as_uri())
    entries = chromium_page.locator("article.T01")
    count = entries.count()
    assert count > 1
    assert entries.first.is_visible()
    box = chromium_page.get_by_label("T01")
    box.uncheck()
    assert not any(entries.nth(number).is_visible() for number in range(count))
    assert chromium_page.locator("article.T03").first.is_visible()
    chromium_page.get_by_role("button", name="Show all").click()
    assert entries.first.is_visible()


def test_the_keyboard_reaches_the_link_the_boxes_and_the_button(chromium_page: Page, page_file: Path) -> None:
    chromium_page.goto(page_file.as_uri())
    order = focus_order(chromium_page)
    assert "Skip" in order[0]
    boxes = [one for one in order if one.startswith("show-")]
    assert len(boxes) == chromium_page.locator("input").count()
