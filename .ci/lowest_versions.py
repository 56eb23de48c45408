"""Print pip constraints that pin every dependency in pyproject.toml to its lowest stated version.

``python .ci/lowest_versions.py > constraints.txt``, then ``pip install -c constraints.txt .[test]``.
``.ci/install-lowest`` does so whenever pyproject.toml or this file has changed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def requirements(project: dict[str, Any]) -> list[Requirement]:
    """Every requirement of the ``[project]`` table and its extras, but for the package's own extras."""
    extras: dict[str, list[str]] = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for group in extras.values() for line in group)]
    parsed = map(Requirement, lines)
    return [requirement for requirement in parsed if requirement.name != project["name"]]


def lowest(requirement: Requirement) -> str:
    """The version after ``>=``.

    Raises ``ValueError`` where a requirement states no lowest version, or several.
    """
    versions = [clause.version for clause in requirement.specifier if clause.operator == ">="]
    if len(versions) != 1:
        raise ValueError(f"pyproject.toml: '{requirement}' must state one lowest version")
    return versions[0]


def constraints(project: dict[str, Any]) -> list[str]:
    """``name==version`` by name; of several requirements on one package the highest lowest version."""
    versions: dict[str, str] = {}
    for requirement in requirements(project):
        name, version = canonicalize_name(requirement.name), lowest(requirement)
        versions[name] = max(version, versions.get(name, version), key=Version)
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


if __name__ == "__main__":
    print("\n".join(constraints(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"])))
