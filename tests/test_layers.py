"""The layers of the package: imports go downwards only, form no circle, and stay shallow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import descscore

ROOT = Path(__file__).parents[1]

LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "attention", "clip", "appearance", "formats", "metadata", "model_card"),
    (
        "files",
        "options",
        "hub",
        "cleaning",
        "library_tokenizer",
        "texts",
        "tokenizer",
        "images",
        "model_config",
        "tokenizer_config",
    ),
    ("towers",),
    ("context", "purpose", "interchange", "adapters", "lora", "records", "image_lists"),
    ("tables", "models", "frames", "templates"),
    ("cache", "encoder", "stream"),
    ("screen", "explanations"),
    ("scorer",),
    ("shared_scorers", "explanations.explainer", "auditing", "batch"),
    ("metrics", "coco", "record_metric", "evaluate_module", "study", "demo"),
    ("page",),
    ("cli",),
    ("eval",),
    ("training",),
)
"""Modules and folders of the package from the bottom up. A module imports from its layer and lower ones.
Where a folder and one of its modules are both named, the module stands on its own layer."""

FOLDERS = {"descscore": "descscore", "training": "descscore.training", "eval": "descscore.eval"}
"""Folders of the repository, and the names under which they install."""


@cache
def modules() -> dict[str, Path]:
    """Every module of the repository by its installed name; what is not installed keeps its own."""
    found = {}
    for folder, package in {**FOLDERS, "reproduce": "reproduce"}.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found[name] = path
    return found


@cache
def imported_modules(name: str) -> set[str]:
    """Modules of the repository that ``name`` imports, wherever in the file the import stands."""
    found = set()
    for node in ast.walk(ast.parse(modules()[name].read_text(encoding="utf-8"))):
        for wanted in imported_names(node):
            wanted = handed_on(wanted)
            while wanted and wanted not in modules():
                wanted = wanted.rpartition(".")[0]
            # A package's own file is read by every import from it.
            if wanted and wanted != name and modules()[wanted].name != "__init__.py":
                found.add(wanted)
    return found


def imported_names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def handed_on(name: str) -> str:
    """The full name of what ``descscore`` itself hands on: it comes from the module that holds it."""
    package, _, short = name.rpartition(".")
    home = descscore._MODULES.get(short) if package == "descscore" else None
    return f"{home}.{short}" if home else name


def whole_package_imports(source: str) -> list[int]:
    """Lines that take the package itself: through its name a module could reach those above it."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        bound: list[str] = []
        if isinstance(node, ast.Import):
            bound = [alias.name if alias.asname else alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            bound = [node.module or ""]
        if "descscore" in bound:
            lines.append(node.lineno)
    return lines


def layer(name: str) -> int:
    """Number of the layer that holds ``name``, a module of the installed package."""
    path = name.split(".")
    numbers = {part: number for number, parts in enumerate(LAYERS) for part in parts}
    ends = (".".join(path[1:end]) for end in range(len(path), 1, -1))
    return next(numbers[part] for part in ends if part in numbers)


@cache
def depth(name: str) -> int:
    """Modules in the longest chain of imports that begins at ``name``, itself included."""
    return 1 + max((depth(below) for below in imported_modules(name)), default=0)


INSTALLED = sorted(name for name in modules() if name.count(".") and not name.startswith("reproduce"))


@pytest.mark.parametrize("name", INSTALLED)
def test_a_module_imports_only_from_its_own_layer_and_lower_ones(name: str) -> None:
    assert [below for below in sorted(imported_modules(name)) if layer(below) > layer(name)] == []


def test_no_module_takes_the_whole_package() -> None:
    lines = {name: whole_package_imports(modules()[name].read_text(encoding="utf-8")) for name in INSTALLED}
    assert {name: found for name, found in lines.items() if found} == {}


@pytest.mark.parametrize(
    ("source", "whole"),
    [
        ("import descscore", True),
        ("def f():\n    import descscore as d", True),
        ("import descscore.errors", True),
        ("from descscore import *", True),
        ("import descscore.errors as errors", False),
        ("from descscore import __version__", False),
    ],
)
def test_an_import_of_the_whole_package_is_found(source: str, whole: bool) -> None:
    assert bool(whole_package_imports(source)) == whole


def test_what_the_package_hands_on_counts_as_an_import_of_its_home() -> None:
    source = "if TYPE_CHECKING:\n    from descscore import explain"
    names = [handed_on(name) for node in ast.walk(ast.parse(source)) for name in imported_names(node)]
    assert names == ["descscore.explanations.explainer.explain"]
    assert handed_on("descscore.__version__") == "descscore.__version__"


def test_what_is_installed_imports_nothing_that_is_not() -> None:
    above = {name for name in INSTALLED if any(m.startswith("reproduce") for m in imported_modules(name))}
    assert above == set()


def test_no_imports_form_a_circle() -> None:
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        if name not in done:
            for below in sorted(imported_modules(name)):
                visit(below, (*way, name))
            done.add(name)

    for name in modules():
        visit(name, ())


def test_imports_stay_shallow() -> None:
    assert depth("descscore.scorer") <= 6
    assert {name: depth(name) for name in INSTALLED if depth(name) > 11} == {}


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert {name: length for name, length in lengths.items() if length > 500} == {}


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, descscore; print(sorted({'torch', 'numpy', 'PIL', 'gradio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
