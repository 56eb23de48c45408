"""The page of an explanation in a browser: axe-core, reflow, keyboard, and that it loads nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from playwright.sync_api import Page

from accessibility import NARROW, WIDE, focus_order, overflow, violations
from descscore.cli import main
from pictures import make_photo
from report_data import make_adapter

TEXT = (
    "A <b>red</b> car & a café-au-lait coloured dog 👩\u200d💻 stand at Ada's gate, 1912, "
    "donaudampfschifffahrtsgesellschaftskapitaensmuetzenaufbewahrungsschrank. " + "Two boats. " * 30
)


@pytest.fixture(scope="module", params=["adapter", "base"])
def page_file(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The page with all it can hold, and that of a model without a purpose subspace; the text is cut."""
    root = tmp_path_factory.mktemp("explain")
    photo = make_photo(root / "photo.png", 0, (300, 200))
    model, more = tiny_folder, ["--where"]
    if request.param == "adapter":
        model, more = make_adapter(tiny_folder, root / "adapter"), ["--where", "--source", "A <i>dog</i>."]
    path = root / "page.html"
    arguments = ["explain", str(photo), TEXT, "--model", str(model), "--device", "cpu", "--html", str(path)]
    result = CliRunner().invoke(main, arguments + more)
    assert result.exit_code == 0, result.output
    return path


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_axe_finds_nothing(chromium_page: Page, page_file: Path, width: int) -> None:
    chromium_page.set_viewport_size({"width": width, "height": 900})
    chromium_page.goto(page_file.as_uri())
    assert violations(chromium_page) == []


@pytest.mark.parametrize("width", [WIDE, 640, NARROW])
def test_only_tables_scroll_sideways(chromium_page: Page, page_file: Path, width: int) -> None:
    chromium_page.set_viewport_size({"width": width, "height": 900})
    chromium_page.goto(page_file.as_uri())
    assert overflow(chromium_page) == 0


def test_text_can_be_twice_as_large(chromium_page: Page, page_file: Path) -> None:
    chromium_page.goto(page_file.as_uri())
    chromium_page.evaluate("document.documentElement.style.fontSize = '200%'")
    assert overflow(chromium_page) == 0


def test_the_words_read_as_the_text(chromium_page: Page, page_file: Path) -> None:
    chromium_page.goto(page_file.as_uri())
    assert " ".join(chromium_page.locator("p.text").inner_text().split()) == " ".join(TEXT.split())


def test_every_word_has_a_row_with_a_header(chromium_page: Page, page_file: Path) -> None:
    chromium_page.goto(page_file.as_uri())
    table = chromium_page.get_by_role("region", name="Parts by word").get_by_role("table")
    words = chromium_page.locator("p.text span").all_inner_texts()
    assert table.get_by_role("rowheader").all_inner_texts() == words
    columns = table.get_by_role("columnheader").all_inner_texts()
    assert columns[:3] == ["Word", "Rank", "Cosine"]
    first = table.get_by_role("row").nth(1).get_by_role("cell").all_inner_texts()
    assert first[1][0] in "+-"


def test_signs_show_without_colour(chromium_page: Page, page_file: Path) -> None:
    """Raising and lowering differ in the kind of line, not in its colour alone."""
    chromium_page.goto(page_file.as_uri())
    style = "one => getComputedStyle(one).borderBottomStyle"
    for kind, line in (("up", "solid"), ("down", "dashed")):
        words = chromium_page.locator(f"p.text .{kind}")
        assert words.count()
        assert {word.evaluate(style) for word in words.all()} == {line}


def test_the_keyboard_reaches_the_tables(chromium_page: Page, page_file: Path) -> None:
    chromium_page.goto(page_file.as_uri())
    regions = chromium_page.get_by_role("region").count()
    assert regions >= 2
    assert len(focus_order(chromium_page)) == regions


def test_pictures_have_names_and_are_drawn(chromium_page: Page, page_file: Path) -> None:
    chromium_page.goto(page_file.as_uri())
    pictures = chromium_page.get_by_role("img").all()
    assert len(pictures) >= 2
    for picture in pictures:
        box = picture.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 50
        assert picture.get_attribute("alt") or picture.get_attribute("aria-label")


def test_the_page_loads_nothing(chromium_page: Page, page_file: Path) -> None:
    seen: list[str] = []
    chromium_page.on("request", lambda request: seen.append(request.url))
    chromium_page.goto(page_file.as_uri())
    chromium_page.wait_for_load_state("networkidle")
    assert [url for url in seen if not url.startswith("data:image/jpeg")] == [page_file.as_uri()]
    assert chromium_page.locator("script").count() == 0
