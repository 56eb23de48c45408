"""Help of ``descscore eval`` comes without loading what only measuring needs."""

from __future__ import annotations

import subprocess
import sys

COMMANDS = (
    *("captions", "human", "precision", "preference", "quality"),
    *("report", "sanity", "throughput", "words", "zeroshot"),
)

CODE = """
import sys
from click.testing import CliRunner
from descscore.eval.cli import evaluate
for command in sys.argv[1:]:
    result = CliRunner().invoke(evaluate, [*command.split(), "--help"])
    assert result.exit_code == 0 and "Usage" in result.output, result.output
    print(result.output)
print("loaded:", sorted({"torch", "numpy", "scipy", "PIL", "pyarrow", "matplotlib"} & set(sys.modules)))
"""


def test_help_of_every_command_loads_nothing_heavy() -> None:
    run = subprocess.run(
        [sys.executable, "-c", CODE, "", *COMMANDS], capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "loaded: []"
    listed = run.stdout.partition("Commands:")[2].partition("Usage")[0].splitlines()
    assert [line.split()[0] for line in listed if line.strip()] == list(COMMANDS)
