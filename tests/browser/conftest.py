"""A real browser without a network. Not part of the default run: ``make test-browser`` sets one up.

Tests here take ``chromium_page`` and the helpers of ``accessibility``; whatever they open,
a request that leaves this machine is stopped and fails the test.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

from pages import TIMEOUT, TRY_HEADING, Site, wait_for_heading, write_study

ARGUMENTS = [
    "--no-sandbox",  # continuous integration runs as root
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
LOCAL_SCHEMES = {"file", "data", "blob", "about"}
LOCAL_HOSTS = {"127.0.0.1", "localhost", "::1"}


def chromium_path() -> str:
    """``DESCSCORE_CHROMIUM``, or the Chromium on the path."""
    path = os.environ.get("DESCSCORE_CHROMIUM") or shutil.which("chromium")
    if path is None:
        raise FileNotFoundError("no Chromium: install Debian's package chromium, or set DESCSCORE_CHROMIUM")
    return path


def is_local(address: str) -> bool:
    """Whether a request for ``address`` stays on this machine."""
    parts = urlsplit(address)
    return parts.scheme in LOCAL_SCHEMES or parts.hostname in LOCAL_HOSTS


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One browser for all tests."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=ARGUMENTS, timeout=TIMEOUT)
        yield browser
        browser.close()


@pytest.fixture
def outside() -> list[str]:
    """Requests that tried to leave this machine; each is stopped. Must be empty when the test ends."""
    return []


@pytest.fixture
def chromium_page(chromium: Browser, outside: list[str]) -> Iterator[Page]:
    """A fresh page, 1280 pixels wide. Fails the test on a request to the outside or an error in a script."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(TIMEOUT)

    def gate(route: Route) -> None:
        if is_local(route.request.url):
            route.continue_()
        else:
            outside.append(route.request.url)
            route.abort()

    context.route("**/*", gate)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert outside == []
    assert errors == []


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``study_site`` has its table, images and ``study.db``."""
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def study_site(study_folder: Path) -> Iterator[Site]:
    """A study of two descriptions, served; each test takes a pseudonym of its own."""
    study = ["--study", write_study(study_folder), "--database", study_folder / "study.db"]
    served = Site([*study, "--without-try"], study_folder / "log").start()
    yield served
    served.kill()


@pytest.fixture
def study_page(chromium_page: Page, study_site: Site) -> Page:
    """The first page of ``study_site`` in a browser that has not been there."""
    chromium_page.goto(study_site.address)
    wait_for_heading(chromium_page, "Judging image descriptions")
    return chromium_page


@pytest.fixture(scope="session")
def try_site(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The page to try texts on, with a model of random weights."""
    log = tmp_path_factory.mktemp("try") / "log"
    served = Site(["--model", tiny_folder, "--device", "cpu"], log).start()
    yield served
    served.kill()


@pytest.fixture
def try_page(chromium_page: Page, try_site: Site) -> Page:
    """The page of ``try_site``, just opened."""
    chromium_page.goto(try_site.address)
    wait_for_heading(chromium_page, TRY_HEADING)
    return chromium_page
