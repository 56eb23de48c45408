"""The documentation's pages and what can be run on them: blocks of code, commands, commands in the text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).parents[2]
ROOT_PAGES = ("README.md", "MODEL_CARD.md", "CONTRIBUTING.md", "CHANGELOG.md")
SHELL = ("bash", "console")
DATA = ("text", "yaml", "html", "json")
"""Languages of blocks that nobody runs: shown output, and files that something else reads."""


@dataclass(frozen=True)
class Command:
    """A command of a shell block. line: 1-based, of the page. output: what is shown, None where nothing is.

    code: the exit code that a comment (``# exit code 3``) announces, else 0.
    """

    line: int
    text: str
    output: str | None = None

    @property
    def code(self) -> int:
        found = re.search(r"# exit code (\d+)", self.text)
        return int(found[1]) if found else 0


def pages() -> list[str]:
    """Names of all pages, relative to the root."""
    below = (path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return [*ROOT_PAGES, *sorted(below)]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def fences(text: str) -> list[tuple[int, str]]:
    """Line (1-based) and language of every block; the demonstration's output, between its marks, is text."""
    found, inside = [], False
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        if line.lstrip().startswith("```"):
            if not inside:
                shown = number > 1 and lines[number - 2] == "<!-- demo -->"
                found.append((number, "text" if shown else line.strip()[3:]))
            inside = not inside
    assert not inside, "a block is not closed"
    return found


def commands(language: str, source: str, line: int) -> list[Command]:
    """Commands of a shell block; a backslash goes on in the next line. line: of the block's first one."""
    return list((_bash if language == "bash" else _console)(source, line))


def _bash(source: str, line: int) -> Iterator[Command]:
    start, parts = line, ""
    for number, text in enumerate(source.splitlines(), start=line):
        parts, start = (parts, start) if parts else ("", number)
        parts += text
        if parts.endswith("\\"):
            parts = parts[:-1]
        elif parts.strip() and not parts.lstrip().startswith("#"):
            yield Command(start, parts.strip())
            parts = ""
        else:
            parts = ""


def _console(source: str, line: int) -> Iterator[Command]:
    assert source.startswith("$ "), f"line {line}: a console block begins with a command"
    for part in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n?)*)", source, re.M):
        yield Command(line + source[: part.start()].count("\n"), part[1], part[2])


def inline_commands(text: str) -> list[str]:
    """Commands in the running text and in tables: ```descscore batch --strict```."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    spans = re.findall(r"`([^`]+)`", outside)
    return [" ".join(span.split()) for span in spans if re.match(r"descscore \S", span)]


def simple_commands(text: str) -> list[list[str]]:
    """The words of each command in a line of shell."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.commenters, lexer.whitespace_split = "#", True
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("();<>|&"):
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]


def check_options(words: list[str]) -> None:
    """Raise :class:`click.UsageError` for a command or an option that descscore does not have.

    Only names and choices are looked at: files need not be there, values may be placeholders.
    """
    from descscore.cli import main

    command: click.Command = main
    context = click.Context(main, info_name="descscore")
    words = words[1:]
    while isinstance(command, click.Group):
        _, words, _ = command.make_parser(context).parse_args(words)
        if not words:
            return
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, parent=context)
    values, _, _ = command.make_parser(context).parse_args(words)
    for parameter in command.params:
        if isinstance(parameter.type, click.Choice) and parameter.name in values:
            parameter.type.convert(values[parameter.name], parameter, context)


def every_command(command: click.Command, path: str) -> list[tuple[str, click.Command]]:
    """A command and all below it, each with the words that call it."""
    found = [(path, command)]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            found += every_command(below, f"{path} {name}")
    return found
