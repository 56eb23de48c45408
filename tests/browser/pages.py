"""A served site for the browser tests, and what people do on it with the keyboard."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, TimeoutError

from descscore.page.try_page import EXAMPLES
from descscore.study.questions import questions_of
from study_tools import write_table

SCREENSHOTS = os.environ.get("DESCSCORE_SCREENSHOTS")

START_SECONDS = 240
TIMEOUT = 120_000
"""Milliseconds. Both are long: continuous integration may share its processors."""


class Site:
    """``descscore serve`` in a process of its own, which can be killed and started again.

    program: what to run in its place, with the same arguments.
    """

    def __init__(
        self, arguments: Sequence[object], log: Path, program: Sequence[object] = ("-m", "descscore.cli")
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}/"
        self._command = [sys.executable, *map(str, program), "serve", "--port", str(self.port)]
        self._command += map(str, arguments)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Site:
        """Start, and wait until the page is served."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self._process.poll() is not None:
                break
            if self._answers():
                return self
        self.kill()
        raise AssertionError(f"not served: {self._log.read_text()}")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.address, timeout=START_SECONDS):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            time.sleep(0.2)
            return False

    @property
    def pid(self) -> int:
        """Of the process that serves."""
        assert self._process
        return self._process.pid

    def kill(self) -> None:
        """Stop at once, as a power cut would."""
        assert self._process
        if self._process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self._process.wait()


TRY_HEADING = "How well would this text replace the image?"
MARKUP = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script> {{7*7}}"


def write_study(folder: Path) -> Path:
    """A study of the two drawings, with markup in an article and names of files and items that tell."""
    rows = []
    for name, example in EXAMPLES.items():
        example.draw().save(folder / f"secret_{name}.png")
        cells = {"item": f"item_{name}", "image": f"secret_{name}.png", "description": example.description}
        more = {"article title": f"On {name}", "article text": f"{example.caption}.\n\n{MARKUP}"}
        rows.append(cells | more)
    return write_table(folder / "items.csv", rows)


def picture(page: Page, name: str, whole: bool = False) -> None:
    """A small picture of what the window shows, where ``DESCSCORE_SCREENSHOTS`` names a folder.

    whole: the whole page, also what one has to scroll to.
    """
    if SCREENSHOTS is None:
        return
    shown = Image.open(io.BytesIO(page.screenshot(full_page=whole))).convert("RGB")
    shown.quantize(64, dither=Image.Dither.NONE).save(Path(SCREENSHOTS) / name, optimize=True)


def tab_to(page: Page, selector: str, limit: int = 80) -> None:
    """Press Tab until what matches ``selector`` has the focus."""
    for _ in range(limit):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the keyboard does not reach {selector}")


def press(page: Page, action: str) -> None:
    """Go to the button of that action and press it."""
    tab_to(page, f'button[value="{action}"]')
    page.keyboard.press("Enter")


def choose(page: Page, name: str, place: int) -> None:
    """Choose the ``place``-th (from 0) of a group of radio buttons, as somebody without a mouse does."""
    tab_to(page, f'input[name="{name}"]')
    page.keyboard.press("Space")
    chosen = f"[...document.querySelectorAll('input[name=\"{name}\"]')].findIndex(one => one.checked)"
    for _ in range(10):  # the arrow keys go round
        if page.evaluate(chosen) == place:
            return
        page.keyboard.press("ArrowDown")
    raise AssertionError(f"the keyboard cannot choose number {place} of {name}")


def wait_for_heading(page: Page, text: str) -> None:
    """Wait for the page with that heading, which must have got the focus, and whose title says so."""
    page.wait_for_function("text => document.querySelector('.ds-page h1')?.textContent === text", arg=text)
    assert page.evaluate("document.activeElement.tagName") == "H1"
    assert page.title() == f"{text} - descscore"


def wait_for_status(page: Page, text: str) -> None:
    """Wait until the live region says ``text`` among other things."""
    said = "text => document.querySelector('.ds-status')?.textContent.includes(text)"
    try:
        page.wait_for_function(said, arg=text)
    except TimeoutError as error:
        raise AssertionError(f"{text!r} is not said; the page shows: {page.inner_text('body')}") from error


def answer(page: Page, phase: str, value: int) -> None:
    """Answer all questions of a phase with ``value`` and save."""
    for question in questions_of(phase):
        choose(page, question.name, value - 1)
    press(page, "save")


def register(page: Page, name: str, vision: int) -> str:
    """From the first page through consent and profile; the resume code, if there is one.

    vision: place among the groups.
    """
    tab_to(page, "#consent")
    page.keyboard.press("Space")
    press(page, "consent")
    wait_for_heading(page, "About you")
    tab_to(page, "#pseudonym")
    page.keyboard.type(name)
    choose(page, "vision", vision)
    choose(page, "screen_reader", 0)
    press(page, "register")
    wait_for_heading(page, "How it works")
    return page.inner_text("#code") if page.locator("#code").count() else ""
