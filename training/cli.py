"""``descscore train``. Heavy imports stand inside the command."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

# Training curves as a PNG, drawn from a run's history.


PANELS = (("loss", "loss"), ("preference", "preference accuracy"), ("interchange", "interchange accuracy"))


def draw_curves(history: Sequence[dict[str, Any]], path: Path) -> None:
    """One panel for loss, preference and interchange accuracy: training solid, validation dashed.

    Raises :class:`ImportError` where matplotlib is missing.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.5), layout="constrained")
    for axis, (name, title) in zip(figure.subplots(1, 3), PANELS, strict=True):
        for part, style in (("train", "-o"), ("validation", "--s")):
            points = [(line["step"], line[f"{part}_{name}"]) for line in history if f"{part}_{name}" in line]
            if points:
                axis.plot(*zip(*points, strict=True), style, markersize=3, label=part)
        axis.set_title(title)
        axis.set_xlabel("step")
        if axis.lines:
            axis.legend()
    figure.savefig(path, dpi=120)


_SETTINGS = (
    ("learning_rate", float, "Adam's rate."),
    ("lora_rank", int, "Rank of the low-rank updates."),
    ("lora_alpha", int, "Their scale times the rank; by default the rank."),
    ("block", int, "Text block after which purpose is interchanged, 0-based."),
    ("k", int, "Dimensions of the purpose subspace."),
    ("joint_weight", float, "Share of the interchange loss in the joint one, 0 to 1."),
    ("contrastive_weight", float, "Factor on the contrastive loss against other images' descriptions."),
    ("hold_weight", float, "Factor on how differently tuning moves a text's logits with different images."),
    ("spread_weight", float, "Factor on how differently tuning moves the logits of different descriptions."),
    ("epochs", int, "Passes through the training split."),
    ("batch_size", int, "Texts a step: interchanges, and half as many image pairs."),
    ("accumulation", int, "Parts that a step is cut into."),
    ("examples_per_epoch", int, "Interchanges an epoch, drawn with replacement."),
    ("text_window", int, "Tokens that longer training texts are cut to, anew each epoch."),
    ("token_dropout", float, "Chance of a token of a training text to be left out, 0 to 1."),
    ("word_swap", float, "Chance of a word to be replaced by one like it, in half of the training texts."),
    ("validation_pairs", int, "Most pairs that a validation looks at."),
    ("validate_every", int, "Steps between validations."),
    ("save_every", int, "Steps between checkpoints."),
    ("patience", int, "Validations without a better one before stopping."),
    ("interpolation", float, "Share of the weights' change that is kept at the end, 0 to 1."),
    ("seed", int, "Seed of everything that is drawn."),
)


def setting_options(command: Any) -> Any:
    """An option for every number of :class:`FinetuneConfig`; unset ones are the preset's."""
    for name, kind, text in reversed(_SETTINGS):
        command = click.option(f"--{name.replace('_', '-')}", name, type=kind, help=text)(command)
    return command


@click.command()
@click.option("--data", required=True, help="Concadia folder, table (CSV, JSONL, Parquet), or hub data set.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder for the adapter.")
@click.option(
    "--preset", default="das-lora", show_default=True, help="das-lora, bft-lora, das-full, bft-full or joint."
)
@click.option("--base", default="base", show_default=True, help="The untuned model to start from.")
@click.option("--device", help="Torch device; by default a GPU where there is one.")
@click.option("--train-split", default="train", show_default=True, help="Split to train on.")
@click.option(
    "--validation-split", default="val", show_default=True, help="Split to validate on; '' for none."
)
@click.option("--reference-split", help="Split whose descriptions percentiles refer to.")
@click.option(
    "--image-root", type=click.Path(path_type=Path), help="Folder that image paths are relative to."
)
@click.option(
    "--cache", type=click.Path(path_type=Path), help="Folder for image features; by default in --output."
)
@click.option(
    "--source-image", type=click.Choice(["other", "same"]), help="Where an interchange's source comes from."
)
@click.option("--lora-targets", type=click.Choice(["attention", "tower"]), help="What the updates are on.")
@click.option("--schedule", type=click.Choice(["constant", "linear"]), help="Course of the learning rate.")
@click.option(
    "--calibration-folds",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Towers trained besides, each without some groups, to calibrate the purpose read-out; 0: none.",
)
@click.option(
    "--weights",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Number format in which fully tuned weights are kept.",
)
@click.option("--precision", type=click.Choice(["no", "bf16", "fp16"]), help="Mixed precision.")
@setting_options
def train(
    data: str,
    output: Path,
    preset: str,
    base: str,
    device: str | None,
    train_split: str,
    validation_split: str,
    reference_split: str | None,
    image_root: Path | None,
    cache: Path | None,
    calibration_folds: int,
    weights: Any,
    **settings: Any,
) -> None:
    """Fine-tune a CLIP to prefer descriptions; started again, it goes on from its last checkpoint."""
    from descscore.models import LoadedModel
    from descscore.tables.open import DataOptions
    from descscore.training import config as configs

    pass  # import of own
    from descscore.training.finetune import Request, finetune

    _show_log()

    def configure(model: LoadedModel) -> configs.FinetuneConfig:
        chosen = configs.preset(preset, configs.Tower.of(model.clip))
        given = {name: value for name, value in settings.items() if value is not None}
        if "lora_rank" in given:
            given.setdefault("lora_alpha", given["lora_rank"])
        return replace(chosen, **given)

    def report(line: dict[str, Any]) -> None:
        click.echo("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()))

    request = Request(
        data,
        output,
        base,
        device,
        train_split,
        validation_split or None,
        reference_split,
        DataOptions(image_root=image_root),
        cache,
        calibration_folds,
        weights,
    )
    finetune(request, configure, report)
    history = json.loads((output / "run.json").read_text(encoding="utf-8"))["history"]
    try:
        draw_curves(history, output / "curves.png")
    except ImportError:
        click.echo("matplotlib is not installed: no curves.png", err=True)
    click.echo(f"adapter: {output}")


def _show_log() -> None:
    """This package's messages, such as the rows left out, on standard error; not every library's."""
    logger = logging.getLogger("descscore")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
