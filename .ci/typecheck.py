"""Type-check what installs, under the names that it installs under: ``python .ci/typecheck.py``.

``training/`` and ``eval/`` install as ``descscore.training`` and ``descscore.eval`` (see setup.py),
where mypy would not look for them. So the folders are linked together as installed, mypy runs on
the links, and the paths that it prints are those in the repository. Arguments go to mypy.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TREE = Path("build", "typecheck")
"""Where the links lie, below the root; ``[tool.mypy]`` in pyproject.toml names it too."""
PACKAGE = "descscore"
INSIDE = ("training", "eval")
"""Folders of the root that install inside the package."""


def link(root: Path) -> Path:
    """Lay the package out under ``root`` as it installs; gives its folder."""
    package = root / TREE / PACKAGE
    package.mkdir(parents=True, exist_ok=True)
    children = [*(root / PACKAGE).iterdir(), *(root / folder for folder in INSIDE)]
    wanted = {child.name: child.resolve() for child in children}
    for old in package.iterdir():
        if old.name not in wanted:
            old.unlink()
    for name, target in wanted.items():
        if (package / name).resolve() != target:
            (package / name).unlink(missing_ok=True)
            (package / name).symlink_to(target)
    return package


def in_repository(line: str) -> str:
    """One line of mypy's output with the path of the file itself in place of the link's."""
    for folder in INSIDE:
        line = line.replace(f"{TREE / PACKAGE / folder}/", f"{folder}/")
    return line.replace(f"{TREE}/", "")


def main(arguments: list[str]) -> int:
    link(ROOT)
    command = [sys.executable, "-m", "mypy", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print("".join(map(in_repository, done.stdout.splitlines(keepends=True))), end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
