"""All that crosses the wire in a study: in the condition without the image, not a byte of or about it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page
from tee import Tee

from descscore.page.study_page import image_address
from descscore.study.items import StudyItem
from descscore.study.judgments import JudgmentStore
from pages import Site, answer, press, register, tab_to, wait_for_heading

NEEDED = {"/", "/assets", "/static", "/theme.css", "/act"}
MORE = {"/config", "/config/", "/favicon.ico", "/gradio_api/theme.css", "/gradio_api/app_id"}
"""What Gradio's script asks for in some versions, or when it has lost the server."""


@pytest.fixture
def tee(study_site: Site) -> Iterator[Tee]:
    with Tee(study_site.port) as wire:
        yield wire


@pytest.fixture
def items(study_folder: Path, study_site: Site) -> tuple[StudyItem, ...]:
    return JudgmentStore(study_folder / "study.db").items()


def pixels(item: StudyItem) -> list[bytes]:
    """What the image as it is shown would look like on the wire, from its middle: headers are alike."""
    shown = image_address(item).partition(",")[2]
    middle = len(shown) // 2 // 4 * 4
    return [shown[middle : middle + 60].encode(), base64.b64decode(shown[middle : middle + 60])]


def words(item: StudyItem) -> list[bytes]:
    """What tells about the image besides its description: names, contents of the file, in any writing."""
    data = item.image.read_bytes()
    middle = len(data) // 2
    written = [base64.b64encode(data[middle + shift : middle + 60])[:40] for shift in range(3)]
    names = [item.item, item.image.name, item.image.stem, item.image_hash, str(item.image.parent)]
    return [*map(str.encode, names), data[middle : middle + 40], *written]


def found(wire: Tee, secrets: list[bytes]) -> list[bytes]:
    return [secret for secret in secrets if secret in wire.down or secret in wire.up]


def test_nothing_about_the_image_crosses_in_the_condition_without_it(
    chromium_page: Page, tee: Tee, items: tuple[StudyItem, ...]
) -> None:
    page = chromium_page
    page.goto(tee.address)
    wait_for_heading(page, "Judging image descriptions")
    register(page, "Wire", 0)
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2")
    press(page, "save")
    page.wait_for_selector(".ds-problems li")
    answer(page, "none", 4)
    wait_for_heading(page, "Description 2 of 2")
    press(page, "back")
    wait_for_heading(page, "Description 1 of 2")
    page.reload()
    wait_for_heading(page, "Description 2 of 2")
    answer(page, "none", 2)
    wait_for_heading(page, "All done")
    press(page, "ask-delete")
    wait_for_heading(page, "Delete all my answers")
    tab_to(page, "#sure")
    page.keyboard.press("Space")
    press(page, "delete")
    wait_for_heading(page, "Deleted")
    for item in items:
        assert item.description.encode() in tee.down  # what should come can be read here
        assert found(tee, [*words(item), *pixels(item)]) == []
    assert b"The image that is described above" not in tee.down
    assert tee.paths() - MORE <= NEEDED  # all that the guard lets through has its use


def test_the_image_crosses_once_it_may_and_its_name_never(
    chromium_page: Page, tee: Tee, items: tuple[StudyItem, ...]
) -> None:
    page = chromium_page
    page.goto(tee.address)
    wait_for_heading(page, "Judging image descriptions")
    register(page, "Wired", 2)
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2: before the image")
    assert [one for item in items for one in found(tee, pixels(item))] == []
    answer(page, "before", 2)
    wait_for_heading(page, "Description 1 of 2: with the image")
    seen = [item for item in items if found(tee, pixels(item))]
    (description,) = page.locator(".ds-description").all_inner_texts()
    assert [item.description for item in seen] == [description]
    assert [one for item in items for one in found(tee, words(item))] == []
