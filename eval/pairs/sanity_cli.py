"""``descscore eval sanity``. Heavy imports stand inside the command."""

from __future__ import annotations

import json
from pathlib import Path

import click

from descscore.eval.options import pairs_options


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
    from descscore.data.datasets import DataOptions, load_pairs
    from descscore.eval.pairs import sanity as measure
    from descscore.scorer import DescScorer

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
    click.echo(
        f"{len(pairs)} pairs of split {split!r}; {len(found.unusable)} rows of the data set not usable"
    )
