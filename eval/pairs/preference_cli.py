"""``descscore eval preference``. Heavy imports stand inside the command."""

from __future__ import annotations

import json
from pathlib import Path

import click

from descscore.eval.options import pairs_options


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
    from descscore.data.datasets import DataOptions, load_pairs
    from descscore.eval.pairs import preference as measure
    from descscore.scorer import DescScorer

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
    click.echo(
        f"{len(pairs)} pairs of split {split!r}; {len(found.unusable)} rows of the data set not usable"
    )
