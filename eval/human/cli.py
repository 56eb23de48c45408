"""``descscore eval human``: a model, or anybody's scores, against people's ratings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from descscore.eval.options import data_option

if TYPE_CHECKING:
    from descscore.eval.human.ratings import Judgments
    from descscore.eval.score_tables import Joined


@click.command()
@data_option("Folder kreiss2022, or the one that holds it")
@click.option(
    "--ratings",
    type=click.Path(path_type=Path),
    help="Other ratings instead: a CSV with columns item, rater, question, value, group.",
)
@click.option(
    "--groups",
    type=click.Choice(["auto", "raters", "items"]),
    default="auto",
    show_default=True,
    help="What the column group of --ratings groups: raters, or items of one image.",
)
@click.option(
    "--scores",
    type=click.Path(path_type=Path),
    multiple=True,
    help="CSV with a score a text; may be given more than once.",
)
@click.option("--text-column", help="Column of --scores with the texts; by default found by name.")
@click.option("--score-column", help="Column of --scores with the scores; by default found by name.")
@click.option(
    "--model",
    "models",
    multiple=True,
    help="Model that scores the descriptions; 'default' where no --scores are given. May be repeated.",
)
@click.option(
    "--context", is_flag=True, help="Also measure each model's contextual score, and both with a prefix."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resampling."
)
@click.option("--resamples", type=int, default=1999, show_default=True, help="Bootstrap draws a number.")
def human(
    data: Path,
    ratings: Path | None,
    groups: str,
    scores: tuple[Path, ...],
    text_column: str | None,
    score_column: str | None,
    models: tuple[str, ...],
    context: bool,
    as_json: bool,
    seed: int,
    resamples: int,
) -> None:
    """Compare scores with the judgments of blind, low-vision and sighted readers."""
    from descscore.eval.human.rows import human_result
    from descscore.eval.human.table import table_lines
    from descscore.eval.score_tables import join, read_scores
    from descscore.eval.statistics.bootstrap import Resampling

    resampling = Resampling(resamples, seed)
    judgments = _judgments(data, ratings, groups)
    metrics = [join(judgments.items, read_scores(path, text_column, score_column)) for path in scores]
    metrics += _model_scores(judgments, models or (() if scores else ("default",)), context)
    result = human_result(judgments, metrics, resampling)
    if as_json:
        click.echo(json.dumps(result.to_dict(), ensure_ascii=False, indent=2, allow_nan=False))
    else:
        click.echo("\n".join(table_lines(result)))


def _judgments(data: Path, ratings: Path | None, groups: str) -> Judgments:
    from descscore.eval.human.rating_tables import read_ratings
    from descscore.eval.human.ratings import read_kreiss

    return read_kreiss(data) if ratings is None else read_ratings(ratings, groups)  # type: ignore[arg-type]


def _model_scores(judgments: Judgments, models: tuple[str, ...], context: bool) -> list[Joined]:
    if not models:
        return []
    from descscore.eval.human.context_scores import context_metrics
    from descscore.eval.human.model_scores import model_scores
    from descscore.scorer import DescScorer

    if not context:
        return [model_scores(judgments.items, model) for model in models]
    found = (context_metrics(judgments.items, DescScorer.from_pretrained(m), m) for m in models)
    return [metric for metrics in found for metric in metrics]
