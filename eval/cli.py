"""``descscore eval``: measure models and metrics."""

from __future__ import annotations

import click

from descscore.lazy_group import LazyGroup

_ELSEWHERE = {
    "captions": "descscore.eval.human.captions_cli:captions",
    "human": "descscore.eval.human.cli:human",
    "precision": "descscore.eval.speed.precision_cli:precision",
    "preference": "descscore.eval.pairs.preference_cli:preference",
    "quality": "descscore.eval.transfer.quality:quality",
    "report": "descscore.eval.report.cli:report",
    "sanity": "descscore.eval.pairs.sanity_cli:sanity",
    "words": "descscore.eval.words.cli:words",
    "throughput": "descscore.eval.speed.cli:throughput",
    "zeroshot": "descscore.eval.transfer.cli:zeroshot",
}


@click.group("eval", cls=LazyGroup, lazy=_ELSEWHERE)
def evaluate() -> None:
    """Measure a model, or a table of scores, against data and people."""
