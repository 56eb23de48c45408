"""Measure all that the pages on performance and scaling show, and write it into them.

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
from descscore.eval.material import as_many, find_photos, machine, make_photos
from descscore.models import check_device
from descscore.stream.pairs import cores
from reproduce.memory import watch_runs
from reproduce.performance_gpu import DATA_FILE as GPU_FILE
from reproduce.performance_gpu import measured as measured_gpu
from reproduce.performance_page import DATA_FILE, PLOT_FILE, billion, measured, memory_plot, put_in

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
        file = output / (GPU_FILE if target.type == "cuda" else DATA_FILE)
        found = _read(file)
        where = {"machine": machine(target), "cores": cores()}
        for part in only or PARTS:
            found[part] = _MEASURES[part](target, given)
            found.setdefault("machines", {})[part] = where
            file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if (output / DATA_FILE).is_file() and (output / "performance.md").is_file():
        write_pages(_read(output / DATA_FILE), _read(output / GPU_FILE), output)


def _read(file: Path) -> dict[str, Any]:
    """What was measured before; nothing where the file is not there."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found


def write_pages(found: dict[str, Any], gpu: dict[str, Any], output: Path) -> None:
    """The plots, and the marked parts of the pages in ``output``, from what was measured."""
    memory_plot(found["memory"]["runs"], output / PLOT_FILE)
    for page, name, made in (
        ("performance.md", "measured", measured(found)),
        ("performance.md", "gpu", measured_gpu(gpu)),
        ("scaling.md", "billion", billion(found, gpu)),
    ):
        text = (output / page).read_text(encoding="utf-8")
        (output / page).write_text(put_in(text, name, made), encoding="utf-8")


def _throughputs(device: torch.device, given: dict[str, Any]) -> list[dict[str, Any]]:
    if device.type == "cuda":
        return [_throughput_gpu(device, given)]
    if not given["photos"]:
        raise UsageError("--photos: needed, to measure throughput on a CPU")
    at_least = given["at_least"] or 100
    return [_throughput(given["photos"], name, given["rounds"], at_least) for name in ("float32", "bf16")]


def _throughput_gpu(device: torch.device, given: dict[str, Any]) -> dict[str, Any]:
    """As the command that the page shows."""
    from descscore.eval.throughput import FEW, Plan, measure

    size, made = (500, 375), 64
    with tempfile.TemporaryDirectory() as folder:
        some = make_photos(Path(folder) / "made", made, size)
        many = as_many(some, Path(folder) / "more", given["at_least"] or 60_000)
        plan = Plan(many, 1, given["rounds"], device, "bf16", few=FEW, compiled=True)
        figures = measure(plan).figures(plan.texts)
    about = {"photos": len(many), "different": made, "size": "500 x 375", "texts": 1, "rounds": plan.rounds}
    return {"name": "bf16, compiled", "precision": "bf16", **about, "figures": figures}


def _throughput(photos: Path, precision: str, rounds: int, at_least: int) -> dict[str, Any]:
    from descscore.eval.throughput import FEW, Plan, measure

    some = find_photos(photos)
    with tempfile.TemporaryDirectory() as folder:
        many = as_many(some, Path(folder), at_least)
        plan = Plan(many, 5, rounds, torch.device("cpu"), precision, few=min(len(some), FEW))
        figures = measure(plan).figures(plan.texts)
    about = {"photos": len(many), "different": len(some), "texts": plan.texts, "rounds": rounds}
    return {"precision": precision, **about, "figures": figures}


def _precision(device: torch.device, given: dict[str, Any]) -> dict[str, Any]:
    from descscore.eval.precision import compare_precisions, made_material, published_material
    from descscore.models import load_model
    from descscore.tables.open import load_pairs

    data = given["data"]
    material = published_material(load_pairs(data).split("test"), 1000) if data else made_material(1000)
    rows = compare_precisions(load_model("default", str(device)), material)
    return {"model": "default", "rows": [asdict(row) | {"close": row.close} for row in rows]}


def _memory(device: torch.device, given: dict[str, Any]) -> dict[str, Any]:
    runs = watch_runs(given["pairs"], "default", device=str(device))
    return {"model": "default", "runs": [run.to_json() for run in runs]}


_MEASURES = {"throughput": _throughputs, "precision": _precision, "memory": _memory}


if __name__ == "__main__":
    main()
