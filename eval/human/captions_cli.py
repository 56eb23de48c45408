"""``descscore eval captions``: a model against the judgments of Flickr8k captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from descscore.eval.options import data_option


@click.command()
@data_option("Folder flickr8k, or the one that holds it")
@click.option("--model", default="default", show_default=True, help="Model to measure.")
@click.option("--references", is_flag=True, help="Also measure the reference score (RefCLIP-S).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def captions(data: Path, model: str, references: bool, as_json: bool) -> None:
    """Compare a model with people's judgments of whether Flickr8k captions fit their photos."""
    result = caption_result(data, model, references)
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False))
        return
    click.echo("\n".join(_lines(result)))


def caption_result(data: Path, model: str, references: bool = False) -> dict[str, Any]:
    """Rows ``{set, statistic, tau, reason, pairs, ratings, left_out}``, published numbers, notes, signature.

    tau lies in -1..1. Raises :class:`descscore.errors.DataError` on missing or wrong files.
    """
    from dataclasses import asdict

    from descscore.eval.human.caption_ratings import NOTES, PUBLISHED
    from descscore.eval.human.caption_taus import read_caption_judgments, reference_tau_row, tau_rows
    from descscore.scorer import DescScorer

    judgments = read_caption_judgments(data, references)
    scorer = DescScorer.from_pretrained(model)
    rows = tau_rows(scorer, judgments)
    if references:
        rows.append(reference_tau_row(scorer, judgments))
    published = [{"metric": name, "expert": e, "crowdflower": c} for name, (e, c) in PUBLISHED.items()]
    return {
        "model": model,
        "rows": [asdict(row) for row in rows],
        "published": published,
        "notes": list(NOTES),
        "signature": f"{judgments.source}|{scorer.signature}",
    }


def _lines(result: dict[str, Any]) -> list[str]:
    width = max(len(result["model"]), 12)
    lines = [f"{'':{width}s} {'expert tau-c':>14s} {'crowd tau-b':>14s}   (x 100)"]
    own = [f"{'-':>14s}" if row["tau"] is None else f"{100 * row['tau']:+14.1f}" for row in result["rows"]]
    lines.append(f"{result['model']:{width}s} {own[0]} {own[1]}")
    lines += [f"{'+ references':{width}s} {found}" for found in own[2:]]
    for row in result["published"]:
        lines.append(
            f"{row['metric']:{width}s} {row['expert']:+14.1f} {row['crowdflower']:+14.1f}   published"
        )
    for row in result["rows"]:
        reason = f"; not defined: {row['reason']}" if row["reason"] else ""
        lines.append(
            f"{row['set']}: {row['pairs']} pairs, {row['ratings']} ratings, "
            f"{row['left_out']} own captions left out{reason}"
        )
    return [*lines, *(f"note: {note}" for note in result["notes"]), result["signature"]]
