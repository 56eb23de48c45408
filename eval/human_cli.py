"""``descscore eval report``. Heavy imports stand inside the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from descscore.eval.agreement import Agreement
from descscore.eval.human import Joined
from descscore.eval.options import data_option
from descscore.eval.ratings import Judgments

# ``descscore eval human``: a model, or anybody's scores, against people's ratings.


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
    from descscore.eval.human import human_result, join, read_scores, table_lines
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
    from descscore.eval.ratings import read_kreiss, read_ratings

    return read_kreiss(data) if ratings is None else read_ratings(ratings, groups)  # type: ignore[arg-type]


def _model_scores(judgments: Judgments, models: tuple[str, ...], context: bool) -> list[Joined]:
    if not models:
        return []
    from descscore.eval.model_scores import context_metrics, model_scores
    from descscore.scorer import DescScorer

    if not context:
        return [model_scores(judgments.items, model) for model in models]
    found = (context_metrics(judgments.items, DescScorer.from_pretrained(m), m) for m in models)
    return [metric for metrics in found for metric in metrics]


# ``descscore eval captions``: a model against the judgments of Flickr8k captions.


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

    from descscore.eval.captions import NOTES, PUBLISHED, read_caption_judgments, reference_tau_row, tau_rows
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


# ``descscore judgments summary``. Heavy imports stand inside the command.


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
    from descscore.eval.agreement import agreements
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


# ``descscore eval words``. Heavy imports stand inside the command.


@click.command()
@click.option("--data", required=True, help="Concadia folder, table (CSV, JSONL, Parquet), or hub data set.")
@click.option("--split", default="test", show_default=True, help="Split to look at.")
@click.option(
    "--image-root", type=click.Path(path_type=Path), help="Folder that image paths are relative to."
)
@click.option("--limit", type=click.IntRange(min=1), help="Look at the first so many pairs only.")
@click.option(
    "--model", default="default", show_default=True, help="Bundled name, folder, or open_clip model."
)
@click.option("--device", help="Torch device; by default a GPU where there is one.")
@click.option(
    "--least", type=click.IntRange(min=1), default=10, show_default=True, help="Occurrences a word needs."
)
@click.option(
    "--shown", type=click.IntRange(min=1), default=15, show_default=True, help="Words shown at most."
)
@click.option(
    "--norms",
    type=click.Path(path_type=Path),
    multiple=True,
    help="CSV of words with norms, such as concreteness. May be repeated.",
)
@click.option("--norm-column", multiple=True, help="Column of --norms to use; by default found by name.")
@click.option("--norm-word-column", help="Column of --norms with the words; by default found by name.")
@click.option(
    "--spacy",
    default="auto",
    show_default=True,
    help="spaCy model for parts of speech; 'auto': en_core_web_sm where installed; 'none'.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resampling."
)
@click.option("--resamples", type=int, default=1999, show_default=True, help="Bootstrap draws a number.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def words(
    data: str,
    split: str,
    image_root: Path | None,
    limit: int | None,
    model: str,
    device: str | None,
    least: int,
    shown: int,
    norms: tuple[Path, ...],
    norm_column: tuple[str, ...],
    norm_word_column: str | None,
    spacy: str,
    seed: int,
    resamples: int,
    as_json: bool,
) -> None:
    """Which words a model takes for marks of a description, and which for marks of a caption."""
    from descscore.eval import words as measure
    from descscore.eval.statistics.bootstrap import Resampling
    from descscore.eval.word_kinds import load_tagger, read_norms
    from descscore.eval.words import lines_of
    from descscore.scorer import DescScorer
    from descscore.tables.open import DataOptions, load_pairs
    from descscore.tables.rows import some_lines

    known = {k: v for path in norms for k, v in read_norms(path, norm_column, norm_word_column).items()}
    options = measure.WordOptions(least, known, load_tagger(spacy), Resampling(resamples, seed))
    pairs = load_pairs(data, DataOptions(image_root=image_root, keep_equal=True)).split(split)[:limit]
    scorer = DescScorer.from_pretrained(model, device=device)
    explained = measure.explain_pairs(scorer, pairs)
    reports = measure.report(measure.occurrences(explained, options.tagger), options)
    if as_json:
        click.echo(json.dumps(measure.to_json(reports, explained, scorer.signature), indent=2))
        return
    for found in reports:
        click.echo("\n".join([*lines_of(found, shown), ""]))
    speech = "parts of speech by spaCy" if options.tagger else "no parts of speech (no spaCy model)"
    click.echo(
        f"{len(explained.pairs)} pairs of split {split!r}, {len(explained.dropped)} not usable; {speech}"
    )
    for line in some_lines(explained.dropped):
        click.echo(line)
    click.echo(f"{100 * explained.converged:.1f} % of texts converged")
    click.echo(scorer.signature)


@click.command()
@data_option("The data folder")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for report.json, report.md and report.html; made where it is missing.",
)
@click.option(
    "--model", "models", multiple=True, help="Model to measure, by default 'default'. May be repeated."
)
@click.option("--device", help="Torch device; by default a GPU where there is one.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resampling."
)
@click.option(
    "--resamples",
    type=int,
    default=1999,
    show_default=True,
    help="Bootstrap draws a correlation with people's ratings.",
)
@click.option(
    "--from-json",
    "saved",
    type=click.Path(path_type=Path),
    help="Measure nothing; make the pages of this saved report.json again.",
)
def report(
    data: Path,
    output: Path,
    models: tuple[str, ...],
    device: str | None,
    seed: int,
    resamples: int,
    saved: Path | None,
) -> None:
    """All evaluations of one or several models, side by side: JSON, Markdown and one HTML page."""
    from descscore.eval.report.report import make_folder, read_report, write_report
    from descscore.eval.statistics.bootstrap import Resampling

    resampling = Resampling(resamples, seed)
    make_folder(output)
    if saved is not None:
        found = read_report(saved)
    else:
        from descscore.eval.report.report import measure_report

        found = measure_report(data, models or ("default",), device, resampling, _say)
    for path in write_report(found, output):
        click.echo(path)
    for entry in found["not_measured"]:
        _say(f"not measured: {entry['section']} on {entry['data']}: {', '.join(entry['missing'])} missing")


def _say(text: str) -> None:
    click.echo(text, err=True)
