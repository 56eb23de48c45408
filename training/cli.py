"""``descscore train``. Heavy imports stand inside the command."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from descscore.errors import shown
from descscore.options import PATH, device_option, echo
from descscore.training.config import Tower, options, preset


def setting_options(command: Any) -> Any:
    """An option for every setting of a run; without it, the preset decides."""
    for option in reversed(options()):
        kind = click.Choice(option.choices) if option.choices else option.type
        flag = f"--{option.name.replace('_', '-')}"
        command = click.option(flag, option.name, type=kind, help=option.help)(command)
    return command


@click.command(short_help="Fine-tune a CLIP to prefer descriptions.")
@click.option("--data", required=True, help="Concadia folder, table (CSV, JSONL, Parquet), or hub:NAME.")
@click.option("-o", "--output", required=True, type=PATH, help="Folder for the adapter.")
@click.option(
    "--preset",
    "name",
    default="das-lora",
    show_default=True,
    help="das-lora, bft-lora, das-full, bft-full, joint, or small-data (for a few thousand pairs); decides "
    "settings that no option gives.",
)
@click.option("--base", default="base", show_default=True, help="The untuned model to start from.")
@device_option
@click.option("--train-split", "train", default="train", show_default=True, help="Split to train on.")
@click.option(
    "--extra-split",
    "extra",
    help="A second split to train on. The read-out of description_probability does not use it: give made-up "
    "texts here, which would make that probability too extreme.",
)
@click.option(
    "--validation-split",
    "validation",
    default="val",
    show_default=True,
    help="Split to validate on; '' for none.",
)
@click.option("--reference-split", "comparison", help="Split whose descriptions percentiles compare with.")
@click.option("--image-root", type=PATH, help="Folder that image paths are relative to.")
@click.option("--cache", type=PATH, help="Folder for image features; by default in --output.")
@click.option(
    "--calibration-folds",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="Extra towers, each trained without some groups, to calibrate description_probability; "
    "0: none, and no such probability.",
)
@click.option(
    "--weights",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Number format in which tuned weights are kept.",
)
@setting_options
def train(name: str, output: Path, validation: str, image_root: Path | None, **given: Any) -> None:
    """Fine-tune a CLIP to prefer descriptions; started again, it goes on from its last checkpoint.

    The folder --output then is a model for --model. A setting without a default takes the preset's value.
    """
    from descscore.hub import check_source
    from descscore.tables.open import DataOptions, check_exists

    check_source(given["base"])
    check_exists(given["data"])
    from descscore.training.finetune import Request, finetune  # torch only after the paths are right

    offered = {option.name: given.pop(option.name) for option in options()}
    settings = {key: value for key, value in offered.items() if value is not None}
    if "lora_rank" in settings:
        settings.setdefault("lora_alpha", settings["lora_rank"])

    def report(line: dict[str, Any]) -> None:
        echo("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()))

    request = Request(
        output=output, validation=validation or None, options=DataOptions(image_root=image_root), **given
    )

    def configure(tower: Tower) -> Any:
        return replace(preset(name, tower), **settings)

    with _shown_log():
        finetune(request, configure, report)
    history = json.loads((output / "run.json").read_text(encoding="utf-8"))["history"]
    try:
        draw_curves(history, output / "curves.png")
    except ImportError:
        echo("matplotlib is not installed: no curves.png", err=True)
    echo(f"adapter: {output}")


@contextmanager
def _shown_log() -> Iterator[None]:
    """Show this package's messages, such as the rows left out, on standard error; not every library's.

    They go no further: a library may have given the root logger a handler, which would show each once more.
    """
    logger, handler = logging.getLogger("descscore"), logging.StreamHandler()
    handler.setFormatter(_ShownFormatter("%(message)s"))
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


class _ShownFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


_PANELS = (("loss", "loss"), ("preference", "preference accuracy"), ("interchange", "interchange accuracy"))


def draw_curves(history: Sequence[dict[str, Any]], path: Path) -> None:
    """One panel each for loss, preference and interchange accuracy: training solid, validation dashed.

    Raises :class:`ImportError` where matplotlib is missing.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.5), layout="constrained")
    for axis, (name, title) in zip(figure.subplots(1, 3), _PANELS, strict=True):
        for part, style in (("train", "-o"), ("validation", "--s")):
            points = [(line["step"], line[f"{part}_{name}"]) for line in history if f"{part}_{name}" in line]
            if points:
                axis.plot(*zip(*points, strict=True), style, markersize=3, label=part)
        axis.set_title(title)
        axis.set_xlabel("step")
        if axis.lines:
            axis.legend()
    figure.savefig(path, dpi=120)
