"""``descscore eval``: measure models and metrics. Heavy imports stand inside the commands."""

from __future__ import annotations

import json
from pathlib import Path

import click

from descscore.eval.options import data_option
from descscore.lazy_group import LazyGroup

_ELSEWHERE = {
    "captions": "descscore.eval.human.captions_cli:captions",
    "human": "descscore.eval.human.cli:human",
    "precision": "descscore.eval.speed.precision_cli:precision",
    "preference": "descscore.eval.pairs.preference_cli:preference",
    "report": "descscore.eval.report.cli:report",
    "sanity": "descscore.eval.pairs.sanity_cli:sanity",
    "words": "descscore.eval.words.cli:words",
    "throughput": "descscore.eval.speed.cli:throughput",
    "zeroshot": "descscore.eval.transfer.cli:zeroshot",
}


@click.group("eval", cls=LazyGroup, lazy=_ELSEWHERE)
def evaluate() -> None:
    """Measure a model, or a table of scores, against data and people."""


@evaluate.command()
@data_option("The data folder")
@click.option("--model", default="base", show_default=True, help="Bundled name, folder, or open_clip model.")
@click.option("--device", help="Torch device; by default a GPU where there is one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def quality(data: Path, model: str, device: str | None, as_json: bool) -> None:
    """Retrieval, zero-shot classes and grounding: the figures of a model card."""
    from descscore.eval.transfer.quality import measure, to_json, to_markdown
    from descscore.scorer import DescScorer

    scorer = DescScorer.from_pretrained(model, device=device)
    figures = measure(scorer, data)
    if as_json:
        click.echo(json.dumps(to_json(figures, scorer.signature), indent=2))
        return
    click.echo(to_markdown(figures))
    click.echo(scorer.signature)
