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
