"""``descscore judgments summary``. Heavy imports stand inside the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from descscore.eval.human.agreement import Agreement

_NOTES = (
    "alpha: Krippendorff's for ordered ratings; 1 is full agreement, 0 is chance. Interval: 95 %, by a "
    "bootstrap over whole images.",
    "5 is the good end of every question; for irrelevance it means 'not too much'.",
)


@click.command()
@click.option(
    "--database",
    type=click.Path(path_type=Path),
    required=True,
    help="The study's database, as given to 'descscore serve'.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resampling."
)
@click.option("--resamples", type=int, default=1999, show_default=True, help="Bootstrap draws a number.")
def summary(database: Path, as_json: bool, seed: int, resamples: int) -> None:
    """How many judgments a study has, and how far annotators agree."""
    from descscore.errors import DataError
    from descscore.eval.human.agreement import agreements
    from descscore.eval.statistics.bootstrap import Resampling
    from descscore.study.judgments import JudgmentStore

    store = JudgmentStore(database)
    judgments = store.judgments()
    if not judgments:
        raise DataError(f"{database}: holds no judgments yet")
    images = {item.item: item.image_hash for item in store.items()}
    rows = agreements(judgments, images, Resampling(resamples, seed))
    if as_json:
        found = {
            "rows": [row.to_dict() for row in rows],
            "notes": _NOTES,
            "seed": seed,
            "resamples": resamples,
        }
        click.echo(json.dumps(found, indent=2, allow_nan=False))
    else:
        click.echo("\n".join((*table(rows), "", *_NOTES)))


def table(rows: list[Agreement]) -> list[str]:
    """The rows as lines of a table."""
    form = "{:<26}{:<15}{:>7}{:>7}{:>8}{:>9}{:>7}{:>8}  {}"
    heads = ("group", "question", "raters", "items", "images", "ratings", "mean", "alpha", "interval")
    lines = [form.format(*heads)]
    for row in rows:
        counts = (row.raters, row.items, row.images, row.ratings)
        alpha = "-" if row.alpha is None else f"{row.alpha:+.3f}"
        interval = row.reason or f"{row.low:+.3f} to {row.high:+.3f}"
        lines.append(form.format(row.group, row.question, *counts, f"{row.mean:.2f}", alpha, interval))
    return lines
