"""Commands of the documentation that a test cannot run as they stand, what is run in their place, and why."""

from __future__ import annotations

from dataclasses import dataclass

NETWORK = "needs a network"
MAKE = "makes an environment; here make only says what it would do"
LARGE = "takes long; here in small"
TYPED = "asks at the keyboard"

SERVE = """
{command} --port 0 > log & server=$!
until grep -q 'listens on http' log; do kill -0 $server; sleep 0.05; done
kill $server
"""
"""For every ``descscore serve``, which goes on until it is stopped: here it is stopped when it listens."""


@dataclass(frozen=True)
class Instead:
    """page, command: as they stand in the documentation. run: what is run in its place."""

    page: str
    command: str
    run: str
    reason: str


def _make(page: str, targets: str) -> Instead:
    run = f'make --dry-run --directory "$REPOSITORY" {targets}'
    return Instead(page, f"make {targets}", run, MAKE)


def _install(page: str, command: str, package: str) -> Instead:
    return Instead(page, command, _is_installed(package), NETWORK)


def _is_installed(packages: str) -> str:
    """A command that fails unless all these packages are installed; pip would take seconds to say so."""
    code = f"from importlib.metadata import version; [version(name) for name in '{packages}'.split()]"
    return f'python -c "{code}"'


_SMALL_RUN = "--epochs 1 --batch-size 4 --validation-pairs 4"

INSTEAD = (
    _make("docs/getting_started.md", "demo"),
    _make("CONTRIBUTING.md", "lint test"),
    Instead(
        "CONTRIBUTING.md",
        "DESCSCORE_UPDATE_DOCS=1 .venv/bin/python -m pytest tests/docs/test_documentation.py",
        'test -f "$REPOSITORY/tests/docs/test_documentation.py"',
        "would run this very test",
    ),
    _install("README.md", 'pip install ".[demo]"', "descscore scikit-image"),
    _install("docs/getting_started.md", 'pip install ".[demo,report]"', "descscore matplotlib scikit-image"),
    _install("docs/scaling.md", "pip install 'descscore[ray]'", "ray"),
    Instead(
        "README.md",
        "descscore train --base ViT-B-32/openai --data CONCADIA --preset das-lora --output OUT",
        "descscore train --base TINY --data CONCADIA --preset das-lora --output OUT --calibration-folds 0 "
        f"{_SMALL_RUN}",
        f"{NETWORK}; {LARGE}",
    ),
    Instead(
        "docs/training.md",
        "descscore train --data DATA --preset das-lora --base base --output OUT",
        f"descscore train --data CONCADIA --preset das-lora --base TINY --output OUT {_SMALL_RUN}",
        LARGE,
    ),
    Instead(
        "docs/training.md",
        "descscore train --base ViT-B-32/openai --data CONCADIA --preset das-lora --seed 0 "
        "--output runs/das-lora-0",
        "descscore train --base TINY --data CONCADIA --preset das-lora --seed 0 "
        f"--output runs/das-lora-0 {_SMALL_RUN}",
        f"{NETWORK}; {LARGE}",
    ),
    Instead(
        "docs/training.md",
        "descscore eval preference --data CONCADIA --model ViT-B-32/openai --model runs/das-lora-0",
        "descscore eval preference --data CONCADIA --model TINY --model runs/das-lora-0",
        NETWORK,
    ),
    Instead(
        "docs/models.md",
        'descscore score photo.jpg "A brown dog runs over wet sand." --model hf-hub:ORG/NAME',
        'descscore score photo.jpg "A brown dog runs over wet sand." --model TINY',
        NETWORK,
    ),
    Instead(
        "docs/models.md",
        'hf upload ORG/NAME OUT --exclude "checkpoints/*" "features/*" "folds/*" run.json',
        _is_installed("huggingface_hub"),
        NETWORK,
    ),
    Instead(
        "docs/measuring.md",
        "descscore eval report --data DATA --output OUT",
        "descscore eval report --data DATA --output OUT --model TINY --resamples 99",
        LARGE,
    ),
    Instead(
        "docs/measuring.md",
        "descscore eval words --data DATA/concadia",
        "descscore eval words --data DATA/concadia --limit 4 --least 1 --resamples 99",
        LARGE,
    ),
    Instead(
        "docs/scaling.md",
        "descscore batch pairs.parquet --output out/3 --shard 3/8 --batch-size 256     # job 3 of 8",
        "for i in 1 2 3 4 5 6 7 8; do descscore batch pairs.parquet --output out/$i --shard $i/8 "
        "--shard-size 1 --workers 0 --model TINY; done",
        "all eight jobs, on eight rows, for the merge behind them",
    ),
    Instead(
        "docs/scaling.md",
        "descscore batch pairs.parquet --output scores --engine ray",
        "descscore batch pairs.parquet --output scores --engine local",
        "tests/batch/test_ray_engine.py runs it on Ray, which takes long to start",
    ),
    Instead(
        "docs/annotating.md",
        "descscore judgments account accounts.txt ann",
        "descscore judgments account accounts.txt ann --password 'a long one, typed'",
        TYPED,
    ),
    Instead(
        "docs/annotating.md",
        "descscore judgments delete --database study.db PSEUDONYM",
        "descscore judgments delete --database study.db PSEUDONYM --yes",
        TYPED,
    ),
    Instead(
        "docs/metrics.md",
        "python -m lmms_eval --model MODEL --tasks my_descriptions --include_path FOLDER --batch_size 1 "
        "--output_path OUT",
        "true",
        "lmms-eval is no dependency; tests/metrics/test_metrics_docs.py calls the recipe as it does",
    ),
)

ELSEWHERE = {
    "docs/annotating.md": "tests/page/test_endpoint.py runs its Python against a server",
    "docs/metrics.md": "tests/metrics/test_metrics_docs.py runs its Python and checks the output",
}
"""Pages whose Python blocks another test runs."""


def in_place_of(page: str, command: str) -> str:
    """What is run for a command of a page: the command itself, or what stands above."""
    if command.startswith("descscore serve"):
        return SERVE.format(command=command.partition("#")[0].replace("--host 0.0.0.0", "--host 127.0.0.1"))
    words = command.split()
    found = (i.run for i in INSTEAD if i.page == page and i.command.split() == words)
    return next(found, command)
