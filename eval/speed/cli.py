"""``descscore eval throughput``. Heavy imports stand inside the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from descscore.eval.speed.throughput import Plan


@click.command()
@click.option("--photos", type=click.Path(path_type=Path), help="Folder of photos; by default made up.")
@click.option("--count", type=click.IntRange(1), default=16, show_default=True, help="Photos made up.")
@click.option("--size", default="1600x1200", show_default=True, help="Their width and height.")
@click.option(
    "--at-least",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Photos of a run; fewer are used again, as files of their own.",
)
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
@click.option("--compile", "compiled", is_flag=True, help="Use torch.compile for the image tower.")
@click.option("--no-torchmetrics", is_flag=True, help="Leave out the comparison with torchmetrics.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def throughput(
    photos: Path | None, count: int, size: str, at_least: int, as_json: bool, **given: Any
) -> None:
    """Rate of scoring with ViT-B-32 (random weights), its ceilings, and torchmetrics' rate."""
    import tempfile

    from descscore.eval.speed.machine import machine
    from descscore.eval.speed.photos import as_many, find_photos, make_photos
    from descscore.eval.speed.throughput import measure

    with tempfile.TemporaryDirectory() as name:
        folder, area = Path(name), _size(size)
        some = find_photos(photos) if photos else make_photos(folder / "made", count, area)
        plan = _plan(as_many(some, folder / "more", at_least), len(some), given)
        figures = measure(plan).figures(plan.texts)
    about = machine(plan.device)
    if as_json:
        click.echo(json.dumps({"machine": about, **figures}, indent=2))
        return
    click.echo(about)
    click.echo(
        f"{len(plan.photos)} photos ({len(some)} different) with {plan.texts} texts each, "
        f"{plan.precision}, {plan.device}, {plan.rounds} rounds"
    )
    for figure, value in figures.items():
        click.echo(f"{figure:<52} {'not measured' if value is None else f'{value:.4g}':>12}")
    if plan.device.type != "cuda":
        click.echo("GPU rows: not measured; run this command with --device cuda on a machine that has one")


def _plan(photos: list[Path], different: int, given: dict[str, Any]) -> Plan:
    from descscore.eval.speed.throughput import FEW, Plan
    from descscore.models import check_device

    return Plan(
        photos,
        given["texts"],
        given["rounds"],
        check_device(given["device"]),
        given["precision"],
        given["batch_size"],
        few=0 if given["no_torchmetrics"] else min(different, FEW),
        compiled=given["compiled"],
    )


def _size(text: str) -> tuple[int, int]:
    from descscore.errors import UsageError

    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise UsageError(f"--size {text!r}: expected WIDTHxHEIGHT, such as 1600x1200")
    return int(width), int(height)
