"""Every block of code in the documentation runs, and shows what it prints.

Blocks of a page run in their order, in a folder that :mod:`doc_sandbox` lays out; its Python blocks share
their names, as for a reader who types them in. What cannot be run as it stands is in :mod:`doc_commands`.
With ``DESCSCORE_UPDATE_DOCS=1`` the outputs shown are replaced by what is printed.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

from doc_commands import ELSEWHERE, INSTEAD, in_place_of
from doc_forkserver import ForkServer
from doc_pages import (
    DATA,
    ROOT,
    SHELL,
    Command,
    check_options,
    commands,
    fences,
    inline_commands,
    pages,
    read,
    simple_commands,
)
from doc_sandbox import make_sandbox

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

UPDATE = "DESCSCORE_UPDATE_DOCS"
NUMBER = re.compile(r"(?<![\w.])[+-]?\d+(?:\.\d+)?(?!\w)")
LIMIT = 300
"""Seconds that one command may take."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    running = ForkServer(tmp_path_factory.mktemp("server"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    return make_sandbox(tmp_path_factory.mktemp("docs") / "sandbox", tiny_folder)


@pytest.fixture
def sandbox(laid_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh copy of the folder, entered."""
    folder = shutil.copytree(laid_out, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(folder)
    return folder


class Runner:
    """Runs one page's blocks. shown: outputs to replace, as (old block, new block)."""

    def __init__(self, page: str, server: ForkServer) -> None:
        self.page, self.server = page, server
        self.shown: list[tuple[str, str]] = []

    def shell(self, example: Example) -> None:
        """Evaluate a shell block: raises :class:`AssertionError` for the first command that goes wrong."""
        language = example.region.lexemes["arguments"]
        source = example.parsed
        printed = ""
        for command in commands(language, source, example.line + 1):
            done = self.run(command)
            text = f"$ {command.text}\n{done.stdout}"
            printed += text
            said = f"{self.page}:{command.line}: {command.text}\n{done.stdout}\n{done.stderr}"
            assert done.returncode == command.code, said
            if command.output is not None and UPDATE not in os.environ:
                assert_shown(command.output, done.stdout, said)
        if language == "console":
            self.shown.append((source, printed))

    def run(self, command: Command) -> subprocess.CompletedProcess[str]:
        path = f"{self.server.bin}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", in_place_of(self.page, command.text)],
            env={**os.environ, "PATH": path, "REPOSITORY": str(ROOT), "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )

    def examples(self) -> list[Example]:
        """What runs on the page."""
        parsers = [CodeBlockParser(language, self.shell) for language in SHELL]
        python = [] if self.page in ELSEWHERE else [PythonCodeBlockParser()]
        return list(Sybil([*parsers, *python]).parse(ROOT / self.page).examples())

    def write(self) -> None:
        """Put what was printed in the place of what the page shows."""
        text = read(self.page)
        for old, new in self.shown:
            text = text.replace(f"```console\n{old}", f"```console\n{new}")
        (ROOT / self.page).write_text(text, encoding="utf-8")


def assert_shown(shown: str, printed: str, said: str) -> None:
    """The same text, and numbers that differ by at most one in their last digit, or the fifth."""
    assert NUMBER.sub("#", shown).split() == NUMBER.sub("#", printed).split(), f"{said}\nshown:\n{shown}"
    for one, other in zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True):
        digits = len(one.partition(".")[2])
        least = 1.01 * 10 ** -min(digits, 5) if digits else 0
        assert abs(float(one) - float(other)) <= least, f"{one} shown: {said}"


RUN = [page for page in pages() if any(language not in DATA for _, language in fences(read(page)))]


@pytest.mark.long
@pytest.mark.parametrize("page", RUN)
def test_every_block_of_a_page_runs(page: str, server: ForkServer, sandbox: Path) -> None:
    runner = Runner(page, server)
    for example in runner.examples():
        example.evaluate()
    if UPDATE in os.environ:
        runner.write()


@pytest.mark.parametrize("page", pages())
def test_no_block_is_left_out(page: str) -> None:
    """Every fence says a language that is run, or one that is known not to be code."""
    languages = [language for _, language in fences(read(page))]
    assert set(languages) <= {"python", *SHELL, *DATA}
    ran = [language for language in languages if language not in DATA]
    if page in ELSEWHERE:
        ran = [language for language in ran if language != "python"]
    assert len(Runner(page, None).examples()) == len(ran)  # type: ignore[arg-type]


@pytest.mark.parametrize("page", pages())
def test_every_command_and_option_exists(page: str) -> None:
    examples = [e for e in Runner(page, None).examples() if "arguments" in e.region.lexemes]  # type: ignore[arg-type]
    shown = [
        command.text
        for example in examples
        if example.region.lexemes["arguments"] in SHELL
        for command in commands(example.region.lexemes["arguments"], example.parsed, 0)
    ]
    for text in [*shown, *inline_commands(read(page))]:
        for words in simple_commands(text):
            if words[0] == "descscore":
                try:
                    check_options(words)
                except click.BadOptionUsage:
                    assert text not in shown, text  # in the running text a value may be left out
                except click.UsageError as error:
                    pytest.fail(f"{page}: {text}: {error.format_message()}")


def test_modules_that_are_run_exist_and_have_the_options() -> None:
    asked: dict[str, set[str]] = {}
    for page in pages():
        for text in re.findall(r"python -m (?:descscore|reproduce)[^`\n]*", read(page)):
            words = text.split()
            asked.setdefault(words[2], set()).update(re.findall(r"(?<=\s)--[a-z-]+", text))
    assert len(asked) >= 4
    for module, options in asked.items():
        spec = find_spec(module)
        assert spec is not None, module
        if options:
            run = f"{module}.__main__" if spec.submodule_search_locations else module
            command = importlib.import_module(run).main
            assert options <= {name for option in command.params for name in option.opts}, module


def test_what_is_run_in_another_s_place_stands_in_the_documentation() -> None:
    for instead in INSTEAD:
        assert instead.reason
        flat = " ".join(read(instead.page).split())
        assert " ".join(instead.command.split()) in flat, instead.command


def test_extras_that_are_installed_exist() -> None:
    known = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    for page in pages():
        for extras in re.findall(r"(?:descscore|\.)\[([a-z,]+)\]", read(page)):
            assert set(extras.split(",")) <= set(known), (page, extras)
        for extra in re.findall(r"extra `(\w+)`", read(page)):
            assert extra in known, (page, extra)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("descscore batch x.csv --output y --nonesuch", "--nonesuch"),
        ("descscore nonesuch", "nonesuch"),
        ("descscore eval nonesuch --data DATA", "nonesuch"),
        ("descscore score a.jpg text --text-policy shorten", "shorten"),
    ],
)
def test_a_wrong_command_is_found(text: str, what: str) -> None:
    with pytest.raises(click.UsageError, match=what):
        check_options(simple_commands(text)[0])


@pytest.mark.long
def test_a_block_that_fails_and_one_that_shows_something_else_are_found(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(UPDATE, raising=False)
    monkeypatch.chdir(tmp_path)
    for body in ("```bash\nfalse\n```", "```console\n$ echo 0.25\n0.27\n```", "```python\n1 / 0\n```"):
        page = tmp_path / "page.md"
        page.write_text(f"# A\n\n{body}\n", encoding="utf-8")
        runner = Runner(str(page), server)
        [example] = runner.examples()
        with pytest.raises((AssertionError, ZeroDivisionError)):
            example.evaluate()
    page.write_text("```console\n$ echo a 0.251 # exit code 0\na 0.250\n```\n", encoding="utf-8")
    for example in Runner(str(page), server).examples():
        example.evaluate()
