"""Look up the installed packages in the database of known vulnerabilities, with pip-audit.

``python .ci/audit.py`` fails if a package has a known vulnerability. Without a network it says "not reached"
and does not fail, because then nothing is known.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

OPTIONS = ["--format", "json", "--progress-spinner", "off", "--timeout", "15", "--skip-editable"]
LONGEST = 600
"""Seconds that all look-ups together may take."""

UNREACHABLE = re.compile(r"requests\.exceptions|urllib3\.|ConnectionError|ServiceError|[Tt]imed out")
"""What pip-audit's errors have in common when there is no network, or no database at the other end."""


def main() -> int:
    """Print the vulnerabilities; the exit status."""
    command = [sys.executable, "-m", "pip_audit", *OPTIONS]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return _not_reached(f"no answer in {LONGEST} seconds")
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        lines = done.stderr.strip().splitlines() or ["pip-audit said nothing"]
        if UNREACHABLE.search(done.stderr):
            return _not_reached(lines[-1])
        print("\n".join(lines), file=sys.stderr)
        return 1
    skipped = [package for package in packages if "skip_reason" in package]
    if packages and len(skipped) == len(packages):  # a mirror without the database answers, but knows nothing
        return _not_reached(skipped[0]["skip_reason"])
    known = [(package, found) for package in packages for found in package.get("vulns", ())]
    for package, found in known:
        fixed = ", ".join(found["fix_versions"]) or "no version yet"
        names = ", ".join([found["id"], *found.get("aliases", ())])
        print(f"{package['name']} {package['version']}: {names}; fixed in {fixed}")
    if skipped:
        print(f"not looked up: {', '.join(package['name'] for package in skipped)}")
    print(f"known vulnerabilities: {len(known)} in {len(packages) - len(skipped)} packages")
    return 1 if known else 0


def _not_reached(reason: str) -> int:
    print(f"known vulnerabilities: the database was not reached ({reason[:300]})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
