"""``descscore eval zeroshot``. Heavy imports stand inside the command."""

from __future__ import annotations

import json

import click


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

    from descscore.eval.transfer.labelled_images import read_labelled_source
    from descscore.eval.transfer.zero_shot import zero_shot
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
