"""The documentation's site builds without a warning or a network, and its pages are accessible in form."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import click
import pytest

import descscore
from descscore.cli import main
from doc_pages import ROOT, every_command, pages, read

NO_NETWORK = """
import socket

def refuse(*args, **kwargs):
    raise AssertionError(f"the network was used: {args}")

socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = refuse
"""
EMPTY_WORDS = {"here", "click here", "this", "link", "more", "read more", "this page", "see"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Any warning of MkDocs is an error, and so is any connection."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "offline").mkdir()
    (folder / "offline/sitecustomize.py").write_text(NO_NETWORK)
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder / "site"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(folder / "offline"), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


class Page(HTMLParser):
    """What a built page holds: headings, images, loaded addresses, tables' header cells, text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.images: list[dict[str, str | None]] = []
        self.loaded: list[str] = []
        self.headers: list[list[str]] = []
        self.text = ""
        self._in_header = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        elif tag == "img":
            self.images.append(found)
        elif tag == "table":
            self.headers.append([])
        elif tag == "th":
            self.headers[-1].append("")
        self._in_header = tag == "th" or (self._in_header and tag not in ("td", "tr"))
        loads = found.get("src") or (found.get("href") if tag == "link" else None)
        if loads:
            self.loaded.append(loads)

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_header and data.strip():
            self.headers[-1][-1] += data.strip()


def built(site: Path) -> list[Path]:
    found = [path for path in sorted(site.rglob("*.html")) if path.name != "404.html"]
    assert len(found) >= 18
    return found


@pytest.mark.long
def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for path in built(site):
        assert [url for url in Page(path).loaded if "//" in url and not url.startswith("data:")] == [], path
    for path in site.rglob("*.css"):
        found = re.findall(
            r"url\(\s*[\"']?(https?:)?//|@import\s+[\"'](?:https?:)?//", path.read_text("utf-8")
        )
        assert found == [], path


@pytest.mark.long
def test_pages_have_one_first_heading_and_skip_no_level(site: Path) -> None:
    for path in built(site):
        levels = Page(path).levels
        assert levels[0] == 1, path
        assert levels.count(1) == 1, path
        assert all(b - a <= 1 for a, b in pairwise(levels)), (path, levels)


@pytest.mark.long
def test_pictures_have_text_and_tables_have_headers(site: Path) -> None:
    pictures = 0
    for path in built(site):
        page = Page(path)
        pictures += len(page.images)
        assert all(len(image.get("alt") or "") > 20 for image in page.images), path
        for cells in page.headers:
            assert cells, (path, "a table without a header")
            assert all(cells[1:]) or len(cells) == 1, (path, cells)
    assert pictures >= 5


@pytest.mark.long
def test_the_references_are_complete(site: Path) -> None:
    cli, api = (Page(site / name).text for name in ("cli.html", "api.html"))
    for path, command in every_command(main, "descscore"):
        assert path in cli, path
        for option in (o for p in command.params if isinstance(p, click.Option) for o in p.opts):
            assert option in cli, (path, option)
    for name in set(descscore.__all__) - {"__version__"}:
        assert re.search(rf"\.{name}\b", api) or name in api, name
    assert ":class:" not in api


def prose(page: str) -> str:
    """The page without its blocks of code, and with a word for each piece of code in a line."""
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.M | re.S)
    return re.sub(r"(?<!`)(`+)(?!`)(?:.(?!\n\n))+?(?<!`)\1(?!`)", "code", text, flags=re.S)


@pytest.mark.parametrize("page", pages())
def test_sources_have_headings_alternatives_and_telling_links(page: str) -> None:
    text = prose(page)
    levels = [len(marks) for marks in re.findall(r"^(#+) ", text, re.M)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    for alternative in re.findall(r"!\[(.*?)\]\(", text, re.S):
        assert len(alternative) > 20, alternative
    assert "<img" not in text
    for words in re.findall(r"(?<!!)\[([^\]]+)\]\([^)]+\)", text):
        assert words.strip().lower() not in EMPTY_WORDS, words
