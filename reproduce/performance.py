"""Measure the figures of the pages on performance and scaling, and write them into the pages.

``python -m reproduce.performance --photos FOLDER --data DATASET`` takes half
an hour on two idle cores. ``--only`` measures some parts and keeps what the file has of the others.
``--device cuda`` writes a file of its own; ``--pages`` makes the pages of both files again,
wherever they were measured.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from descscore.errors import UsageError
from descscore.eval.precision import compare_precisions, made_sample, published_sample
from descscore.eval.sample_inputs import as_many, find_photos, make_photos
from descscore.eval.throughput import FEW, Plan, machine, measure
from descscore.models import check_device, load_model
from descscore.stream.pairs import cores
from descscore.tables.open import load_pairs
from reproduce.memory import watch_runs
from reproduce.performance_page import (
    DATA_FILE,
    GPU_DATA_FILE,
    PLOT_FILE,
    billion,
    measured,
    measured_gpu,
    memory_plot,
    put_in,
)

PARTS = ("throughput", "precision", "memory")


@click.command()
@click.option("--photos", type=click.Path(path_type=Path), help="Folder of full-size photos; not on a GPU.")
@click.option("--data", help="Data set of pairs for the check of precision; by default made-up ones.")
@click.option("--pairs", multiple=True, type=int, default=(1000, 10_000, 100_000), show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--at-least", type=click.IntRange(1), help="Photos of a run: 100, on a GPU 60,000.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Measure this part. May be repeated.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("docs"), show_default=True)
@click.option("--pages", is_flag=True, help="Measure nothing; write the pages of what was measured.")
def main(output: Path, device: str, only: tuple[str, ...], pages: bool, **given: Any) -> None:
    """Measure into OUTPUT/performance.json or, on a GPU, performance_gpu.json, and write the pages there."""
    target = check_device(device)
    if not pages:
        output.mkdir(parents=True, exist_ok=True)  # before minutes of measuring, not after
        file = output / (GPU_DATA_FILE if target.type == "cuda" else DATA_FILE)
        figures = _read(file)
        where = {"machine": machine(target), "cores": cores()}
        for part in only or PARTS:
            figures[part] = _MEASURES[part](target, given)
            figures.setdefault("machines", {})[part] = where
            file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if (output / DATA_FILE).is_file() and (output / "performance.md").is_file():
        write_pages(_read(output / DATA_FILE), _read(output / GPU_DATA_FILE), output)


def _read(file: Path) -> dict[str, Any]:
    """What was measured before; nothing where the file is not there."""
    figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return figures


def write_pages(figures: dict[str, Any], gpu: dict[str, Any], output: Path) -> None:
    """The plots, and the marked parts of the pages in ``output``, from what was measured."""
    memory_plot(figures["memory"]["runs"], output / PLOT_FILE)
    for page, name, made in (
        ("performance.md", "measured", measured(figures)),
        ("performance.md", "gpu", measured_gpu(gpu)),
        ("scaling.md", "billion", billion(figures, gpu)),
    ):
        text = (output / page).read_text(encoding="utf-8")
        (output / page).write_text(put_in(text, name, made), encoding="utf-8")


def _throughputs(device: torch.device, given: dict[str, Any]) -> list[dict[str, Any]]:
    rounds = given["rounds"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if device.type == "cuda":  # as the command that the page shows
            made = make_photos(folder / "made", 64, (500, 375))
            photos = as_many(made, folder / "more", given["at_least"] or 60_000)
            plan = Plan(photos, 1, rounds, device, "bf16", few=FEW, compiled=True)
            run = _throughput(plan, len(made), {"size": "500 x 375"})
            return [{"name": "bf16, compiled"} | run]
        if not given["photos"]:
            raise UsageError("--photos: needed, to measure throughput on a CPU")
        own = find_photos(given["photos"])
        photos = as_many(own, folder, given["at_least"] or 100)
        few = min(len(own), FEW)
        plans = (Plan(photos, 5, rounds, device, precision, few=few) for precision in ("float32", "bf16"))
        return [_throughput(plan, len(own), {}) for plan in plans]


def _throughput(plan: Plan, different: int, more: dict[str, Any]) -> dict[str, Any]:
    about = {"photos": len(plan.photos), "different": different, **more, "texts": plan.texts}
    figures = measure(plan).figures(plan.texts)
    return {"precision": plan.precision, **about, "rounds": plan.rounds, "figures": figures}


def _precision(device: torch.device, given: dict[str, Any]) -> dict[str, Any]:
    data = given["data"]
    sample = published_sample(load_pairs(data).split("test"), 1000) if data else made_sample(1000)
    rows = compare_precisions(load_model("default", str(device)), sample)
    return {"model": "default", "rows": [asdict(row) | {"close": row.close} for row in rows]}


def _memory(device: torch.device, given: dict[str, Any]) -> dict[str, Any]:
    runs = watch_runs(given["pairs"], "default", device=str(device))
    return {"model": "default", "runs": [run.to_json() for run in runs]}


_MEASURES = {"throughput": _throughputs, "precision": _precision, "memory": _memory}


if __name__ == "__main__":
    main()
