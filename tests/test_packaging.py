"""What the project files say of versions, dependencies and types is true and says the same everywhere."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from importlib.metadata import files, version
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from descscore import __version__

ROOT = Path(__file__).parents[1]


def script(name: str) -> ModuleType:
    """One of the scripts of continuous integration as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lowest_versions = script("lowest_versions")
typecheck = script("typecheck")


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    found: dict[str, Any] = lowest_versions.tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def project(pyproject: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = pyproject["project"]
    return found


def test_every_dependency_is_pinned_to_its_lowest_version(project: dict[str, Any]) -> None:
    """Names found by another way than the script's, so that it cannot leave one out."""
    lines = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    names = {re.split(r"[\[>=<;, ]", line)[0].lower().replace("_", "-") for line in lines} - {"descscore"}
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci/lowest_versions.py")], capture_output=True, text=True, check=True
    )
    pins = dict(line.split("==") for line in done.stdout.splitlines())
    assert set(pins) == names
    assert pins["torch"] in next(line for line in lines if line.startswith("torch>="))


def test_lowest_versions_by_hand() -> None:
    project = {
        "name": "own",
        "dependencies": ["Big_Name >=2.10, <4", "small>=1"],
        "optional-dependencies": {
            "a": ["big-name>=2.9", "data[x]>=3.0; python_version<'3.11'"],
            "b": ["own[a]"],
        },
    }
    assert lowest_versions.constraints(project) == ["big-name==2.10", "data==3.0", "small==1"]


@pytest.mark.parametrize("line", ["unbounded", "capped<2", "pinned==1.0", "twice>=1,>=2"])
def test_a_dependency_without_one_lowest_version_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=line.partition(",")[0]):
        lowest_versions.constraints({"name": "own", "dependencies": [line], "optional-dependencies": {}})


def test_this_environment_is_within_the_stated_range(project: dict[str, Any]) -> None:
    """The tests prove nothing of the range if they run outside of it."""
    for line in project["dependencies"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(version(requirement.name), prereleases=True), line


def test_the_page_on_installing_states_the_range(project: dict[str, Any]) -> None:
    page = (ROOT / "docs/getting_started.md").read_text(encoding="utf-8")
    install = page.partition("## Install\n")[2].partition("\n## ")[0]
    stated = dict(re.findall(r"(\w+) (?:from )?(\d+(?:\.\d+)+)", install))
    lowest = {
        requirement.name: lowest_versions.lowest(requirement)
        for requirement in map(Requirement, project["dependencies"])
    }
    assert "torch" in stated
    for name in lowest.keys() & stated.keys():
        assert Version(stated[name]) == Version(lowest[name]), name
    versions = [
        line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r"Python :: 3\.\d+$", line)
    ]
    assert f"Python {versions[0]} to {versions[-1]}" in install
    assert project["requires-python"] == f">={versions[0]}"
    assert versions == [f"3.{minor}" for minor in range(10, 10 + len(versions))]


def test_the_linters_hold_the_lowest_python(pyproject: dict[str, Any]) -> None:
    lowest = pyproject["project"]["requires-python"].removeprefix(">=")
    assert pyproject["tool"]["mypy"]["python_version"] == lowest
    assert pyproject["tool"]["ruff"]["target-version"] == f"py{lowest.replace('.', '')}"


def test_hooks_before_a_commit_fetch_nothing_lint_as_make_does_and_keep_data_out() -> None:
    found = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (local,) = found["repos"]
    assert local["repo"] == "local"
    hooks = {hook["id"]: hook for hook in local["hooks"]}
    run = {" ".join(h["entry"].split()[:2]) for h in hooks.values() if h["language"] == "system"}
    lint = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    made = [line.split()[:2] for line in lint.replace("$(BIN)", ".venv/bin").splitlines()[1:]]
    assert run == {" ".join(words) for words in made}

    def refused(path: str) -> bool:
        barred = [hook for hook in hooks.values() if hook["language"] == "fail"]
        return any(
            re.search(h["files"], path) and not re.search(h.get("exclude", "$^"), path) for h in barred
        )

    for path in ("photo.jpg", "docs/a.jpeg", "data/pairs.parquet", "runs/x.safetensors", "study.db", "a.pt"):
        assert refused(path), path
    folders = ("descscore", "docs", "eval", "tests", "training")
    kept = [str(p.relative_to(ROOT)) for name in folders for p in (ROOT / name).rglob("*") if p.is_file()]
    assert len(kept) > 300
    assert not [path for path in kept if refused(path)]


UNDECLARED = {
    "evaluate",  # loads our module itself
    "spacy",  # asked for by an option, and the error says how to get it
}


def imports(folder: Path) -> set[str]:
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"descscore"}


def test_everything_that_is_imported_is_declared(project: dict[str, Any]) -> None:
    """What another dependency happens to bring may be gone with its next version."""
    without = {"dev", "docs", "test"}
    extras = {n: lines for n, lines in project["optional-dependencies"].items() if n not in without}
    declared = lowest_versions.requirements({**project, "optional-dependencies": extras})
    brought = {file.parts[0].removesuffix(".py") for line in declared for file in files(line.name) or ()}
    names = set().union(*(imports(ROOT / folder) for folder in ("descscore", "training", "eval")))
    assert {"torch", "PIL", "sklearn", "fastapi"} <= names
    assert names - UNDECLARED <= brought


def test_every_extra_is_declared_once_and_the_tests_have_those_that_they_need(
    project: dict[str, Any],
) -> None:
    extras = project["optional-dependencies"]
    tested = next(Requirement(line) for line in extras["test"] if line.startswith("descscore"))
    assert tested.extras == set(extras) - {"dev", "test"}


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", citation, re.M)[1] == __version__  # type: ignore[index]
    assert "arXiv:2406.09458" in citation
    assert "Unreleased" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_types_are_checked_under_the_names_that_install(tmp_path: Path) -> None:
    for name in ("descscore/a.py", "descscore/page/b.py", "training/c.py", "eval/human/d.py", "tests/e.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x: int = 1\n")
    package = typecheck.link(tmp_path)
    (tmp_path / "descscore/a.py").rename(tmp_path / "descscore/renamed.py")
    assert typecheck.link(tmp_path) == package == tmp_path / "build/typecheck/descscore"
    seen = {path.relative_to(package).as_posix() for path in linked_files(package)}
    assert seen == {"renamed.py", "page/b.py", "training/c.py", "eval/human/d.py"}


def linked_files(folder: Path) -> list[Path]:
    """Python files below ``folder``, through links, which ``rglob`` does not follow."""
    found: list[Path] = []
    for path in folder.iterdir():
        found += linked_files(path) if path.is_dir() else [path] if path.suffix == ".py" else []
    return found


def test_mypy_is_told_where_the_links_are(pyproject: dict[str, Any]) -> None:
    assert (typecheck.TREE / typecheck.PACKAGE).as_posix() in pyproject["tool"]["mypy"]["files"]


def test_an_error_names_the_file_itself() -> None:
    lines = {
        "build/typecheck/descscore/training/lora.py:87: error: x": "training/lora.py:87: error: x",
        "build/typecheck/descscore/eval/human/a.py:1: error: x": "eval/human/a.py:1: error: x",
        "build/typecheck/descscore/scorer.py:3: note: y": "descscore/scorer.py:3: note: y",
        "app.py:3: error: z": "app.py:3: error: z",
    }
    assert [typecheck.in_repository(line) for line in lines] == list(lines.values())


@pytest.mark.parametrize("name", ["gradio", "starlette", "fastapi", "uvicorn"])
def test_what_the_pages_guard_relies_on_is_bounded_above(project: dict[str, Any], name: str) -> None:
    (line,) = [line for line in project["dependencies"] if Requirement(line).name == name]
    assert [clause for clause in Requirement(line).specifier if clause.operator == "<"]


FOUND = {
    "name": "small",
    "version": "1.0",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["1.1"], "description": "Bad."}],
}
SOUND = {"name": "big", "version": "2.0", "vulns": []}


@pytest.mark.parametrize(
    ("printed", "failed", "status", "said"),
    [
        ({"dependencies": [SOUND]}, "", 0, "known vulnerabilities: 0 in 1 packages"),
        ({"dependencies": [SOUND, FOUND]}, "", 1, "small 1.0: PYSEC-1, CVE-1; fixed in 1.1"),
        (None, "requests.exceptions.ConnectionError: Max retries exceeded", 0, "was not reached"),
        (None, "pip_audit._service.interface.ServiceError: 503", 0, "was not reached"),
        ({"dependencies": [{"name": "big", "skip_reason": "not on PyPI"}]}, "", 0, "was not reached"),
        (None, "No module named pip_audit", 1, "No module named pip_audit"),
    ],
)
def test_the_audit_fails_for_a_vulnerability_and_not_for_want_of_a_network(
    tmp_path: Path, printed: Any, failed: str, status: int, said: str
) -> None:
    """With a stand-in for pip-audit, because no test reaches a network."""
    report = "" if printed is None else json.dumps(printed)
    (tmp_path / "pip_audit.py").write_text(f"import sys; print({report!r}); sys.exit({failed!r} or 1)")
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci/audit.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == status
    assert said in done.stdout + done.stderr
