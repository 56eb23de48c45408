"""Options that several evaluation commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def data_option(text: str) -> Callable[[Any], Any]:
    """``--data``, also by DESCSCORE_DATA; text: what it names."""
    return click.option(
        "--data",
        type=click.Path(path_type=Path),
        envvar="DESCSCORE_DATA",
        default=Path("../shared/data"),
        show_default=True,
        help=f"{text} (also DESCSCORE_DATA).",
    )


def pairs_options(command: Any) -> Any:
    """What every measurement on a data set of pairs takes: the data, the models, the form of the output."""
    options = (
        click.option(
            "--data", required=True, help="Concadia folder, table (CSV, JSONL, Parquet), or hub data set."
        ),
        click.option("--split", default="test", show_default=True, help="Split to measure on."),
        click.option(
            "--image-root", type=click.Path(path_type=Path), help="Folder that image paths are relative to."
        ),
        click.option(
            "--model",
            "models",
            multiple=True,
            help="Model to measure, by default 'default'. May be repeated.",
        ),
        click.option("--device", help="Torch device; by default a GPU where there is one."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table."),
    )
    for option in reversed(options):
        command = option(command)
    return command
