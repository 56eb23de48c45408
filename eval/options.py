"""Options that several evaluation commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import click

from descscore.options import echo

Decorator: TypeAlias = Callable[[Any], Any]

PATH = click.Path(path_type=Path)

models_option = click.option(
    "--model", "models", multiple=True, help="Model to measure, by default 'default'. May be repeated."
)


def data_option(text: str) -> Decorator:
    """``--data``, also by DESCSCORE_DATA; text: what it names."""
    return click.option(
        "--data",
        type=PATH,
        envvar="DESCSCORE_DATA",
        default=Path("../shared/data"),
        show_default=True,
        help=f"{text} (also DESCSCORE_DATA).",
    )


def model_option(default: str = "default") -> Decorator:
    """``--model``, one."""
    return click.option(
        "--model", default=default, show_default=True, help="Bundled name, folder, or open_clip model."
    )


def pairs_options(command: Any) -> Any:
    """``--data``, ``--split`` and ``--image-root`` of a data set of pairs."""
    return _together(
        click.option(
            "--data", required=True, help="Concadia folder, table (CSV, JSONL, Parquet), or hub data set."
        ),
        click.option(
            "--split",
            default="test",
            show_default=True,
            help="Split to measure on; '' for data without splits.",
        ),
        click.option("--image-root", type=PATH, help="Folder that image paths are relative to."),
    )(command)


def resampling_options(command: Any) -> Any:
    """``--seed`` and ``--resamples`` of the bootstrap."""
    return _together(
        click.option(
            "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resampling."
        ),
        click.option(
            "--resamples",
            type=int,
            default=1999,
            show_default=True,
            help="Random resamples from which each 95 % interval is computed.",
        ),
    )(command)


def _together(*options: Decorator) -> Decorator:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def print_result(as_json: bool, result: Any, lines: Sequence[str]) -> None:
    """Print ``result`` as JSON, or the ``lines``."""
    if as_json:
        echo(json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False))
    else:
        echo("\n".join(lines))
