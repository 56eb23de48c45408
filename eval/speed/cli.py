"""``descscore eval throughput``. Heavy imports stand inside the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from descscore.eval.speed.throughput import Plan, Rates


@click.command()
@click.option("--photos", type=click.Path(path_type=Path), help="Folder of photos; by default made up.")
@click.option("--count", type=click.IntRange(1), default=16, show_default=True, help="Photos made up.")
@click.option("--size", default="1600x1200", show_default=True, help="Their width and height.")
@click.option("--texts", type=click.IntRange(1), default=5, show_default=True, help="Texts a photo.")
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="Rounds, for the median."
)
@click.option("--device", help="Torch device; by default a GPU where there is one.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bf16", "fp16"]),
    default="float32",
    show_default=True,
    help="Number format of the model.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Rows per pass; by default found by itself.")
@click.option("--no-torchmetrics", is_flag=True, help="Leave out the comparison with torchmetrics.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def throughput(
    photos: Path | None,
    count: int,
    size: str,
    texts: int,
    rounds: int,
    device: str | None,
    precision: str,
    batch_size: int | None,
    no_torchmetrics: bool,
    as_json: bool,
) -> None:
    """Rate of scoring with ViT-B-32 (random weights), its ceilings, and torchmetrics' rate."""
    import tempfile

    from descscore.eval.speed import throughput as speed
    from descscore.models import check_device

    with tempfile.TemporaryDirectory() as folder:
        files = speed.find_photos(photos) if photos else speed.make_photos(Path(folder), count, _size(size))
        plan = speed.Plan(files, texts, rounds, check_device(device), precision, batch_size)
        rates = speed.measure(plan)
        other = None if no_torchmetrics else speed.torchmetrics_rate(plan, 8 * texts)
    figures = _figures(plan, rates, other)
    if as_json:
        click.echo(json.dumps({"machine": speed.machine(plan.device), **figures}, indent=2))
        return
    click.echo(speed.machine(plan.device))
    click.echo(f"{len(files)} photos with {texts} texts each, {precision}, {plan.device}, {rounds} rounds")
    for name, value in figures.items():
        click.echo(f"{name:<52} {'not measured' if value is None else f'{value:.4g}':>12}")
    if plan.device.type != "cuda":
        click.echo("GPU rows: not measured; run: descscore eval throughput --device cuda --precision bf16")


def _figures(plan: Plan, rates: Rates, other: float | None) -> dict[str, float | None]:
    forward = rates.image * rates.image_flops
    return {
        "decoding alone, images a second": rates.decode,
        "image tower alone, images a second": rates.image,
        "text tower alone, texts a second": rates.text,
        "end to end, pairs a second": rates.pairs,
        "share of decoding and forward passes added up": rates.pairs / rates.summed(plan.texts),
        "share of the lower ceiling": rates.pairs / rates.ceiling(plan.texts),
        "image tower, share of the bf16 matrix rate": forward / rates.matrix_flops,
        "torchmetrics CLIPScore, pairs a second": other,
        "times torchmetrics": rates.pairs / other if other else None,
    }


def _size(text: str) -> tuple[int, int]:
    from descscore.errors import UsageError

    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise UsageError(f"--size {text!r}: expected WIDTHxHEIGHT, such as 1600x1200")
    return int(width), int(height)
