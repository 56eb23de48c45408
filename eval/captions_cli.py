"""``descscore eval captions``: a model against the judgments of Flickr8k captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from descscore.eval.options import data_option

if TYPE_CHECKING:
    from descscore.eval.correlation import Correlation

NOTES = (
    "captions add to an image and descriptions stand in for it: this measures how well a model tells right "
    "captions from wrong ones, not how well descriptions serve.",
    "expert: tau-c over all three ratings of a pair, a photo's own captions left out; crowdflower: tau-b "
    "over the share of yes, own captions kept.",
    "published: as reported by the papers, x 100.",
)


@click.command()
@data_option("Folder flickr8k, or the one that holds it")
@click.option("--model", default="default", show_default=True, help="Model to measure.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def captions(data: Path, model: str, as_json: bool) -> None:
    """Compare a model with people's judgments of whether Flickr8k captions fit their photos."""
    result = caption_result(data, model)
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False))
        return
    click.echo("\n".join(_lines(result)))


def caption_result(data: Path, model: str) -> dict[str, Any]:
    """Rows ``{set, statistic, tau, reason, pairs, ratings, left_out}``, published numbers, notes, signature.

    tau lies in -1..1. Raises :class:`descscore.errors.DataError` on missing or wrong files.
    """
    from descscore.eval.caption_ratings import (
        PUBLISHED,
        crowd_tau,
        expert_tau,
        read_crowd,
        read_expert,
        read_photos,
    )
    from descscore.eval.human_ratings import find_folder
    from descscore.eval.pair_scores import pair_cosines
    from descscore.scorer import DescScorer

    folder = find_folder(data, "flickr8k", "ExpertAnnotations.txt")
    expert = read_expert(folder / "ExpertAnnotations.txt")
    crowd = read_crowd(folder / "CrowdFlowerAnnotations.txt")
    pairs = expert.pairs + crowd.pairs
    photos = read_photos(folder, pairs)
    scorer = DescScorer.from_pretrained(model)
    cosines = pair_cosines(scorer, photos.images, photos.captions, pairs)
    own, others = cosines[: len(expert.pairs)], cosines[len(expert.pairs) :]
    rows = [
        _row("expert", "tau-c", expert_tau(own, expert.ratings), len(expert.pairs), expert.left_out),
        _row("crowdflower", "tau-b", crowd_tau(others, crowd.ratings[:, 0]), len(crowd.pairs), 0),
    ]
    published = [{"metric": name, "expert": e, "crowdflower": c} for name, (e, c) in PUBLISHED.items()]
    signature = f"{expert.source}|{crowd.source}|{scorer.signature}"
    return {
        "model": model,
        "rows": rows,
        "published": published,
        "notes": list(NOTES),
        "signature": signature,
    }


def _row(name: str, statistic: str, found: Correlation, pairs: int, left_out: int) -> dict[str, Any]:
    # No p-value: the ratings of one pair, and the pairs of one photo, are not independent.
    return {
        "set": name,
        "statistic": statistic,
        "tau": found.value,
        "reason": found.reason,
        "pairs": pairs,
        "ratings": found.n,
        "left_out": left_out,
    }


def _lines(result: dict[str, Any]) -> list[str]:
    width = max(len(result["model"]), 12)
    lines = [f"{'':{width}s} {'expert tau-c':>14s} {'crowd tau-b':>14s}   (x 100)"]
    own = [f"{'-':>14s}" if row["tau"] is None else f"{100 * row['tau']:+14.1f}" for row in result["rows"]]
    lines.append(f"{result['model']:{width}s} {own[0]} {own[1]}")
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
