"""The documentation's main pages in a browser: axe-core, reflow, and that they load nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page

from accessibility import NARROW, WIDE, overflow, violations

ROOT = Path(__file__).parents[2]
PAGES = (
    "index",
    "getting_started",
    "concepts",
    "formats",
    "cli",
    "api",
    "results",
    "notebooks/tour",
    "explanations",
)
ALL_COLOURS = ("index", "notebooks/tour", "explanations")
"""Pages that together have every kind of part: headings, tables, pictures, notes, code with its output."""


@pytest.fixture(scope="module")
def docs_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs_site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    return folder


def severe(page: Page) -> list[str]:
    """Findings of axe-core that keep somebody from reading; lesser ones are the theme's."""
    return [found for found in violations(page) if "(serious)" in found or "(critical)" in found]


@pytest.mark.parametrize(
    ("name", "scheme"),
    [*((name, "light") for name in PAGES), *((name, "dark") for name in ALL_COLOURS)],
)
def test_axe_finds_nothing_serious(chromium_page: Page, docs_site: Path, name: str, scheme: str) -> None:
    chromium_page.set_viewport_size({"width": WIDE, "height": 900})
    chromium_page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    chromium_page.goto((docs_site / f"{name}.html").as_uri())
    assert severe(chromium_page) == []


@pytest.mark.parametrize("name", PAGES)
def test_pages_fit_a_narrow_window(chromium_page: Page, docs_site: Path, name: str) -> None:
    chromium_page.set_viewport_size({"width": NARROW, "height": 900})
    chromium_page.goto((docs_site / f"{name}.html").as_uri())
    assert overflow(chromium_page) == 0
    if name == "index":  # the others have the same bars and menus
        assert severe(chromium_page) == []
