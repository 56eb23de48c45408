"""``descscore eval``: measure models and metrics."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from descscore.eval.options import pairs_options
from descscore.eval.precision import Closeness, Material
from descscore.eval.throughput import Plan
from descscore.options import LazyGroup

# ``descscore eval preference``. Heavy imports stand inside the command.


@click.command()
@pairs_options
@click.option(
    "--baseline-train", help="Data set whose train split the text-only n-gram classifier learns from."
)
def preference(
    data: str,
    split: str,
    image_root: Path | None,
    baseline_train: str | None,
    models: tuple[str, ...],
    device: str | None,
    as_json: bool,
) -> None:
    """How often the description wins over the caption, and over other images' descriptions."""
    from descscore.eval import preference as measure
    from descscore.scorer import DescScorer
    from descscore.tables.open import DataOptions, load_pairs

    # Pairs with equal texts stay in: no metric can win them, and they count against all.
    found = load_pairs(data, DataOptions(image_root=image_root, keep_equal=True))
    pairs = found.split(split)
    scorers = [(name, DescScorer.from_pretrained(name, device=device)) for name in models or ("default",)]
    scores = [measure.model_pair_scores(scorer, pairs, name) for name, scorer in scorers]
    scores.append(measure.length_pair_scores(pairs))
    if baseline_train:
        scores.append(measure.ngram_pair_scores(load_pairs(baseline_train).split("train"), pairs))
    owner = measure.image_owner(pairs)
    rows = [row for item in scores for row in measure.preference_rows(item, pairs, owner)]
    signatures = [scorer.signature for _, scorer in scorers]
    if as_json:
        dropped = [str(row) for row in found.unusable if row.split == split]
        click.echo(json.dumps(measure.to_json(rows, signatures) | {"dropped": dropped}, indent=2))
        return
    click.echo("\n".join([*measure.preference_lines(rows), *signatures]))
    click.echo(f"{len(pairs)} pairs of split {split!r}; " + "\n".join(found.unusable_lines()))


# ``descscore eval sanity``. Heavy imports stand inside the command.


@click.command()
@pairs_options
def sanity(
    data: str,
    split: str,
    image_root: Path | None,
    models: tuple[str, ...],
    device: str | None,
    as_json: bool,
) -> None:
    """Can the score be gamed? How often hostile texts score over the real description."""
    from descscore.eval import sanity as measure
    from descscore.scorer import DescScorer
    from descscore.tables.open import DataOptions, load_pairs

    # Captions play no part here, so pairs with equal texts are as good as others.
    found = load_pairs(data, DataOptions(image_root=image_root, keep_equal=True))
    pairs = found.split(split)
    scorers = [(name, DescScorer.from_pretrained(name, device=device)) for name in models or ("default",)]
    rows = [row for name, scorer in scorers for row in measure.sanity_rows(scorer, pairs, name)]
    signatures = [scorer.signature for _, scorer in scorers]
    if as_json:
        dropped = [str(row) for row in found.unusable if row.split == split]
        click.echo(json.dumps(measure.to_json(rows, signatures) | {"dropped": dropped}, indent=2))
        return
    click.echo("\n".join([*measure.sanity_lines(rows), *signatures]))
    click.echo(f"{len(pairs)} pairs of split {split!r}; " + "\n".join(found.unusable_lines()))


# ``descscore eval precision``. Heavy imports stand inside the command.


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
    from descscore.eval import precision as check
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
    from descscore.eval.precision import made_material, published_material

    if data is None:
        return made_material(count)
    from descscore.tables.open import DataOptions, load_pairs

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


# ``descscore eval throughput``. Heavy imports stand inside the command.


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

    from descscore.eval.material import as_many, find_photos, machine, make_photos
    from descscore.eval.throughput import measure

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
    from descscore.eval.throughput import FEW, Plan
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


# ``descscore eval zeroshot``. Heavy imports stand inside the command.


@click.command()
@click.option(
    "--data",
    required=True,
    help="Folder with a folder a class, Parquet table with image and label, or cifar100, food101, "
    "imagenet, country211 or rendered-sst2 (by the hub, through datasets).",
)
@click.option("--prompt", "prompts", multiple=True, help="Template with one {}; may be repeated.")
@click.option(
    "--model", default="default", show_default=True, help="Bundled name, folder, or open_clip model."
)
@click.option("--device", help="Torch device; by default a GPU where there is one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def zeroshot(data: str, prompts: tuple[str, ...], model: str, device: str | None, as_json: bool) -> None:
    """Accuracy and macro-F1 of picking each image's class by its prompt."""
    from dataclasses import asdict

    from descscore.eval.zero_shot import read_labelled_source, zero_shot
    from descscore.scorer import DescScorer

    source = read_labelled_source(data)
    scorer = DescScorer.from_pretrained(model, device=device)
    rows = [zero_shot(scorer, source.images, prompt) for prompt in prompts or (source.prompt,)]
    if as_json:
        click.echo(
            json.dumps({"rows": [asdict(row) for row in rows], "signature": scorer.signature}, indent=2)
        )
        return
    for row in rows:
        between = "" if row.low is None else f" ({100 * row.low:.1f} to {100 * (row.high or 0):.1f})"
        click.echo(
            f"accuracy {100 * row.accuracy:.1f}%{between}  macro-F1 {100 * row.macro_f1:.1f}%  "
            f"{row.n} images, {row.classes} classes, prompt {row.prompt!r}"
        )
    click.echo(scorer.signature)


_ELSEWHERE = {
    "captions": "descscore.eval.human_cli:captions",
    "human": "descscore.eval.human_cli:human",
    "precision": "descscore.eval.cli:precision",
    "preference": "descscore.eval.cli:preference",
    "quality": "descscore.eval.quality:quality",
    "report": "descscore.eval.human_cli:report",
    "sanity": "descscore.eval.cli:sanity",
    "words": "descscore.eval.human_cli:words",
    "throughput": "descscore.eval.cli:throughput",
    "zeroshot": "descscore.eval.cli:zeroshot",
}


@click.group("eval", cls=LazyGroup, lazy=_ELSEWHERE)
def evaluate() -> None:
    """Measure a model, or a table of scores, against data and people."""
