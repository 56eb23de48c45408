"""Measure all that the pages on performance and scaling show, and write it into them.

``python -m descscore.eval.speed.performance --photos FOLDER --data DATASET`` takes a quarter of
an hour on two idle cores. ``--only`` measures one part and keeps what the file has of the others.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from descscore.batch.stream import cores
from descscore.eval.speed.machine import machine
from descscore.eval.speed.memory import watch_runs
from descscore.eval.speed.memory_plot import memory_plot
from descscore.eval.speed.performance_page import DATA_FILE, PLOT_FILE, billion, measured, put_in
from descscore.eval.speed.photos import as_many, find_photos

CPU = torch.device("cpu")
PARTS = ("throughput", "precision", "memory")


@click.command()
@click.option("--photos", required=True, type=click.Path(path_type=Path), help="Folder of full-size photos.")
@click.option("--data", required=True, help="Data set of pairs for the check of precision.")
@click.option("--pairs", multiple=True, type=int, default=(1000, 10_000, 100_000), show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--only", type=click.Choice(PARTS), help="Measure this part alone.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("docs"), show_default=True)
def main(
    photos: Path, data: str, pairs: tuple[int, ...], rounds: int, only: str | None, output: Path
) -> None:
    """Measure and write DOCS/performance.json, the plot, and the marked parts of two pages."""
    file = output / DATA_FILE
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if only else {}
    found |= {"machine": machine(CPU), "cores": cores()}
    if only in (None, "throughput"):
        found["throughput"] = [_throughput(photos, name, rounds) for name in ("float32", "bf16")]
    if only in (None, "precision"):
        found["precision"] = _precision(data)
    if only in (None, "memory"):
        runs = [run.to_json() for run in watch_runs(pairs, "default")]
        found["memory"] = {"model": "default", "runs": runs}
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write_pages(found, output)


def write_pages(found: dict[str, Any], output: Path) -> None:
    """The plot, and the marked parts of the pages in ``output``, from what was measured."""
    memory_plot(found["memory"]["runs"], output / PLOT_FILE)
    for page, name, made in (
        ("performance.md", "measured", measured(found)),
        ("scaling.md", "billion", billion(found)),
    ):
        text = (output / page).read_text(encoding="utf-8")
        (output / page).write_text(put_in(text, name, made), encoding="utf-8")


def _throughput(photos: Path, precision: str, rounds: int) -> dict[str, Any]:
    from descscore.eval.speed.throughput import FEW, Plan, measure

    some = find_photos(photos)
    with tempfile.TemporaryDirectory() as folder:
        many = as_many(some, Path(folder), 100)
        plan = Plan(many, 5, rounds, CPU, precision, few=min(len(some), FEW))
        figures = measure(plan).figures(plan.texts)
    about = {"photos": len(many), "different": len(some), "texts": plan.texts, "rounds": rounds}
    return {"precision": precision, **about, "figures": figures}


def _precision(data: str) -> dict[str, Any]:
    from descscore.data.datasets import load_pairs
    from descscore.eval.speed.precision_check import compare_precisions, published_material
    from descscore.models import load_model

    material = published_material(load_pairs(data).split("test"), 1000)
    rows = compare_precisions(load_model("default", "cpu"), material)
    return {"model": "default", "rows": [asdict(row) | {"close": row.close} for row in rows]}


if __name__ == "__main__":
    main()
