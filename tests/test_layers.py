"""The layering that the folders promise, and what importing the package costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = {"cli.py"}  # loads training and evaluation commands by name when one runs


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", sorted((ROOT / "descscore").rglob("*.py")), ids=lambda path: path.name)
def test_the_package_imports_neither_training_nor_evaluation(path: Path) -> None:
    above = {name for name in imported(path) if name.startswith(("descscore.training", "descscore.eval"))}
    assert not above or path.name in COMMANDS


@pytest.mark.parametrize("path", sorted((ROOT / "eval").rglob("*.py")), ids=lambda path: path.name)
def test_evaluation_does_not_import_training(path: Path) -> None:
    assert not {name for name in imported(path) if name.startswith("descscore.training")}


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, descscore; print(sorted({'torch', 'numpy', 'PIL', 'gradio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_scoring_loads_no_user_interface_and_no_plots(tiny_folder: Path) -> None:
    code = (
        "import sys; from descscore import DescScorer; import numpy as np; "
        f"DescScorer.from_pretrained({str(tiny_folder)!r}, device='cpu')"
        ".score(np.zeros((4, 4, 3), np.uint8), 'a'); "
        "print(sorted({'gradio', 'ray', 'matplotlib', 'peft', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
