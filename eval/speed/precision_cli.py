"""``descscore eval precision``. Heavy imports stand inside the command."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from descscore.eval.speed.precision_check import Closeness, Material


@click.command()
@click.option("--data", help="Concadia folder, table or hub data set of pairs; by default made-up pictures.")
@click.option("--split", default="test", show_default=True, help="Split of the data.")
@click.option("--image-root", type=click.Path(path_type=Path), help="Folder that image paths begin at.")
@click.option("--pairs", type=click.IntRange(2), default=1000, show_default=True, help="Pairs to score.")
@click.option("--model", default="default", show_default=True, help="As for 'descscore score'.")
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["bf16", "fp16"]),
    multiple=True,
    help="Number format to check, by default both. May be repeated.",
)
@click.option("--device", help="Torch device; by default a GPU where there is one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def precision(
    data: str | None,
    split: str,
    image_root: Path | None,
    pairs: int,
    model: str,
    precisions: tuple[str, ...],
    device: str | None,
    as_json: bool,
) -> None:
    """How far bf16 and fp16 move the cosines of the same pairs from float32."""
    from descscore.eval.speed import precision_check as check
    from descscore.models import load_model

    material = _material(data, split, image_root, pairs)
    rows = check.compare_precisions(load_model(model, device), material, precisions or ("bf16", "fp16"))
    if as_json:
        listed = [asdict(row) | {"close": row.close} for row in rows]
        click.echo(json.dumps({"model": model, "data": data, "rows": listed}, indent=2))
        return
    click.echo(_table(rows))
    click.echo(f"goals: mean at most {check.MEAN_GOAL:g}, Spearman at least {check.RANK_GOAL:g}")


def _material(data: str | None, split: str, image_root: Path | None, count: int) -> Material:
    from descscore.eval.speed.precision_check import made_material, published_material

    if data is None:
        return made_material(count)
    from descscore.data.datasets import DataOptions, load_pairs

    return published_material(load_pairs(data, DataOptions(image_root=image_root)).split(split), count)


def _table(rows: list[Closeness]) -> str:
    lines = ["precision    pairs   mean |difference|   largest     Spearman   goals"]
    for row in rows:
        rank = "not defined" if row.spearman is None else f"{row.spearman:.6f}"
        told = "met" if row.close else "missed"
        lines.append(
            f"{row.precision:<9} {row.pairs:>8,} {row.mean:>19.2e} {row.largest:>9.2e} {rank:>12}   {told}"
        )
    return "\n".join(lines)
