"""Everything public says what it is, and no docstring speaks of a parameter that is not there."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import griffe
import pytest

import descscore
from descscore.cli import main
from doc_pages import ROOT, every_command, read

SHOWN = re.findall(r"^::: (descscore[\w.]+)$", read("docs/api.md"), re.M)
"""What the Python reference shows."""
MODULES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for path in (ROOT / "descscore").rglob("*.py")
    if path.name != "__init__.py"
)


def shown_objects() -> Iterator[tuple[str, Any]]:
    for path in SHOWN:
        module, _, name = path.rpartition(".")
        if module == "descscore":
            yield path, importlib.import_module(path)
        else:
            yield path, getattr(importlib.import_module(module), name)


def test_the_reference_shows_every_public_name() -> None:
    shown = [found for _, found in shown_objects()]
    for name in set(descscore.__all__) - {"__version__", "DescscoreError"}:
        assert any(getattr(descscore, name) is found for found in shown), name
    assert "descscore.errors" in SHOWN  # holds DescscoreError


@pytest.mark.parametrize("path", SHOWN)
def test_what_the_reference_shows_has_a_docstring(path: str) -> None:
    """Parsed from the source, since a constant's docstring exists there alone."""
    found = loaded()[path.removeprefix("descscore.")]
    if found.is_alias:
        found = found.final_target
    members = [] if found.is_attribute or found.is_function else found.members.values()
    public = (m for m in members if not m.is_alias and not m.name.startswith("_"))
    for one in [found, *(m for m in public if m.is_function or m.is_class)]:
        inherited = any(one.name in base.members for base in getattr(found, "mro", list)())
        assert one.docstring is not None or inherited, one.path


_LOADED: list[Any] = []


def loaded() -> Any:
    """The package as griffe reads it, with lists of members resolved."""
    if not _LOADED:
        _LOADED.append(griffe.load("descscore", search_paths=[str(ROOT)], resolve_aliases=True))
    return _LOADED[0]


def documented(docstring: str) -> set[str]:
    """Names that a docstring explains: ``name: what`` or ``one, two: what`` at the start of a sentence."""
    text = " ".join(re.split(r"\n\s*\n\s*>>>", docstring)[0].split())
    found = re.findall(r"(?:(?<=[.;)] )|^)((?:\w+, )*[a-z]\w*): (?!:)", text)
    return {name for names in found for name in names.split(", ")}


def signature(found: Any) -> set[str]:
    """Parameters of a function; of a class also those of its making, and its attributes."""
    if found.is_function:
        return {p.name for p in found.parameters}
    own = set(found.members) | {p.name for p in found.parameters}
    for base in found.mro():
        own |= set(base.members)
    methods = [member for member in found.members.values() if member.is_function]
    return own | {name for method in methods for name in signature(method)}


def every_object(found: Any) -> Iterator[Any]:
    for member in found.members.values():
        if member.is_alias or member.name.startswith("_"):
            continue
        if member.is_function or member.is_class:
            yield member
        if member.is_class or member.is_module:
            yield from every_object(member)


def test_documented_parameters_are_those_of_the_signature() -> None:
    wrong = {}
    count = 0
    for found in every_object(loaded()):
        if found.docstring is not None:
            names = documented(found.docstring.value)
            count += len(names)
            if extra := names - signature(found) - {"ok"}:
                wrong[found.path] = extra
    assert count > 100
    assert wrong == {}


def test_a_wrong_parameter_is_found(tmp_path: Path) -> None:
    (tmp_path / "sample.py").write_text('def f(a, b):\n    """Add.\n\n    a: one. c: other.\n    """\n')
    [found] = every_object(griffe.load("sample", search_paths=[str(tmp_path)]))
    assert documented(found.docstring.value) - signature(found) == {"c"}


@pytest.mark.parametrize(("path", "command"), every_command(main, "descscore"))
def test_every_command_and_option_has_help(path: str, command: click.Command) -> None:
    assert command.help, path
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, (path, parameter.opts)
            assert len(parameter.help) > 5
    for parameter in (p for p in command.params if isinstance(p, click.Argument)):
        names = (parameter.metavar or parameter.make_metavar(click.Context(command))).split()
        for name in (one.strip("[].") for one in names):
            assert name in command.help, (path, name)
