"""``descscore eval``: measure models and metrics. Each command imports what it needs, so help comes at once.

:func:`summary` is ``descscore judgments summary``: the agreement of annotators is measured here too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click

from descscore.errors import DataError, UsageError
from descscore.options import (
    PATH,
    data_option,
    device_option,
    echo,
    json_option,
    model_option,
    models_option,
    pairs_options,
    print_result,
    resampling_options,
    speed_options,
)


@click.group("eval")
def evaluate() -> None:
    """Measure a model, or a table of scores, against data and people."""


# Pairs of a description and a caption


@evaluate.command(short_help="How often the description wins over the caption.")
@pairs_options
@click.option("--baseline-train", help="Data set whose split train teaches the text-only n-gram classifier.")
@models_option
@device_option
@json_option
def preference(baseline_train: str | None, **options: Any) -> None:
    """How often the description wins over the caption, and over other images' descriptions."""
    from descscore.eval import preference as measure
    from descscore.eval.features import image_owner

    train = _read_split(baseline_train, "train") if baseline_train else None

    def measured(scorers: Sequence[tuple[str, Any]], pairs: Sequence[Any]) -> dict[str, list[Any]]:
        owner = image_owner(pairs)
        scores = [measure.model_pair_scores(scorer, pairs, owner, name) for name, scorer in scorers]
        scores.append(measure.length_pair_scores(pairs))
        if train is not None:
            scores.append(measure.ngram_pair_scores(train.pairs, pairs))
        return {"rows": [row for item in scores for row in measure.preference_rows(item, pairs, owner)]}

    _on_pairs(measured, measure.preference_lines, train=train, **options)


@evaluate.command(short_help="Can the score be gamed? What hostile texts score.")
@pairs_options
@models_option
@device_option
@json_option
def sanity(**options: Any) -> None:
    """Can the score be gamed? How often hostile texts score higher than the real description.

    Also: what a final full stop changes, how likely empty phrases are descriptions, and grounding.
    """
    from descscore.eval import sanity as measure

    def measured(scorers: Sequence[tuple[str, Any]], pairs: Sequence[Any]) -> dict[str, list[Any]]:
        found = [measure.sanity(scorer, pairs, name) for name, scorer in scorers]
        return {name: [row for one in found for row in getattr(one, name)] for name in ("rows", "figures")}

    _on_pairs(measured, measure.sanity_lines, **options)


@dataclass(frozen=True)
class _Split:
    """The pairs of one split, and what was left out of it."""

    pairs: tuple[Any, ...]
    dropped: list[str]
    """For each row that cannot be used, its place and the reason."""
    lines: list[str]
    """How many pairs there are, how many rows cannot be used, and why."""


def _read_split(data: str, split: str, image_root: Path | None = None, keep_equal: bool = False) -> _Split:
    """Read one split of a data set. keep_equal: whether pairs with equal texts stay in."""
    from descscore.tables.open import DataOptions, load_pairs
    from descscore.tables.rows import normal_split

    loaded = load_pairs(data, DataOptions(image_root=image_root, keep_equal=keep_equal))
    pairs, (counts, *rows) = loaded.split(split), loaded.unusable_lines()
    dropped = [str(row) for row in loaded.unusable if row.split == normal_split(split)]
    return _Split(pairs, dropped, [f"{len(pairs)} pairs of split {split!r}; {counts}", *rows])


def _on_pairs(
    measure: Callable[[Sequence[tuple[str, Any]], Sequence[Any]], dict[str, list[Any]]],
    lines: Callable[..., list[str]],
    *,
    data: str,
    split: str,
    image_root: Path | None,
    models: tuple[str, ...],
    device: str | None,
    as_json: bool,
    train: _Split | None = None,
) -> None:
    """Print what ``measure`` returns for all models on one split of a data set of pairs: lists by name.

    train: the pairs that a baseline learns from.
    """
    from descscore.scorer import DescScorer

    # Pairs with equal texts stay in: no metric can win them, and they count against all.
    tested = _read_split(data, split, image_root, keep_equal=True)
    scorers = [(name, DescScorer.from_pretrained(name, device=device)) for name in models or ("default",)]
    measured = measure(scorers, tested.pairs)
    signatures = [scorer.signature for _, scorer in scorers]
    read = [tested] if train is None else [tested, train]
    dropped = [row for part in read for row in part.dropped]
    plain = {name: [asdict(row) for row in rows] for name, rows in measured.items()}
    result = {**plain, "signatures": signatures, "dropped": dropped}
    counts = [line for part in read for line in part.lines]
    print_result(as_json, result, [*lines(**measured), *signatures, *counts])


@evaluate.command(short_help="Which words a model takes for marks of a description.")
@pairs_options
@click.option("--limit", type=click.IntRange(min=1), help="Use only this many pairs, from the first on.")
@model_option()
@device_option
@click.option(
    "--least", type=click.IntRange(min=1), default=10, show_default=True, help="Occurrences a word needs."
)
@click.option(
    "--shown", type=click.IntRange(min=1), default=15, show_default=True, help="Words shown at most."
)
@click.option(
    "--norms",
    type=PATH,
    multiple=True,
    help="CSV of words with norms, such as concreteness. May be repeated.",
)
@click.option("--norm-column", multiple=True, help="Column of --norms to use; by default found by name.")
@click.option("--norm-word-column", help="Column of --norms with the words; by default found by name.")
@click.option(
    "--spacy",
    default="auto",
    show_default=True,
    help="spaCy model for parts of speech; 'auto' is en_core_web_sm if it is installed; 'none' is none.",
)
@resampling_options
@json_option
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
    from descscore.eval.word_kinds import load_tagger, read_all_norms
    from descscore.scorer import DescScorer

    known = read_all_norms(norms, norm_column, norm_word_column)
    options = measure.WordOptions(least, known, load_tagger(spacy), Resampling(resamples, seed))
    read = _read_split(data, split, image_root, keep_equal=True)
    scorer = DescScorer.from_pretrained(model, device=device)
    explained = measure.explain_pairs(scorer, read.pairs[:limit])
    reports = measure.report(measure.occurrences(explained, options.tagger), options)
    lines = [line for report in reports for line in (*measure.lines_of(report, shown), "")]
    lines += [*read.lines, *measure.explained_lines(explained, options), scorer.signature]
    result = measure.to_json(reports, explained, read.dropped, scorer.signature)
    print_result(as_json, result, lines)


# Scores and people


@evaluate.command(short_help="Compare scores with the judgments of readers.")
@data_option("Folder kreiss2022, or the one that holds it")
@click.option(
    "--ratings",
    type=PATH,
    help="Other ratings instead: a CSV with columns item, rater, question, value, group.",
)
@click.option(
    "--groups",
    type=click.Choice(["auto", "raters", "items"]),
    default="auto",
    show_default=True,
    help="What the column group of --ratings groups: raters, or items of one image.",
)
@click.option("--scores", type=PATH, multiple=True, help="CSV file with one score per text. May be repeated.")
@click.option("--text-column", help="Column of --scores with the texts; by default found by name.")
@click.option("--score-column", help="Column of --scores with the scores; by default found by name.")
@click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    help="Model that scores the descriptions; without --scores, by default 'default'. May be repeated.",
)
@click.option(
    "--context", is_flag=True, help="Also measure each model's contextual score, and both with a prefix."
)
@json_option
@resampling_options
def human(
    data: Path,
    ratings: Path | None,
    groups: Literal["auto", "raters", "items"],
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
    from descscore.eval.ratings import read_kreiss, read_ratings
    from descscore.hub import check_source
    from descscore.tables.reader import check_readable

    # Wrong paths are said before torch is imported.
    judgments = read_kreiss(data) if ratings is None else read_ratings(ratings, groups)
    check_readable(scores)
    for model in models:
        check_source(model)
    from descscore.eval.human import human_result, table_lines
    from descscore.eval.metric_scores import join, model_metrics, read_scores
    from descscore.eval.statistics.bootstrap import Resampling

    resampling = Resampling(resamples, seed)
    metrics = [join(judgments.items, read_scores(path, text_column, score_column)) for path in scores]
    for model in models or (() if scores else ("default",)):
        metrics += model_metrics(judgments.items, model, context)
    result = human_result(judgments, metrics, resampling)
    print_result(as_json, result.to_dict(), table_lines(result))


@evaluate.command(short_help="Compare a model with people's judgments of captions.")
@data_option("Folder flickr8k, or the one that holds it")
@model_option()
@click.option("--references", is_flag=True, help="Also measure the reference score (RefCLIP-S).")
@json_option
def captions(data: Path, model: str, references: bool, as_json: bool) -> None:
    """Compare a model with people's judgments of whether Flickr8k captions fit their photos."""
    from descscore.eval.captions import caption_lines, caption_result

    result = caption_result(data, model, references)
    print_result(as_json, result, caption_lines(result))


@click.command()
@click.option(
    "--database", type=PATH, required=True, help="The study's database, as given to 'descscore serve'."
)
@json_option
@resampling_options
def summary(database: Path, as_json: bool, seed: int, resamples: int) -> None:
    """How many judgments a study has, and how far annotators agree."""
    from descscore.eval.agreement import NOTES, agreement_lines, agreements
    from descscore.eval.statistics.bootstrap import Resampling
    from descscore.study.judgments import JudgmentStore

    store = JudgmentStore(database)
    judgments = store.judgments()
    if not judgments:
        raise DataError(f"{database}: holds no judgments yet")
    images = {item.item: item.image_hash for item in store.items()}
    rows = agreements(judgments, images, Resampling(resamples, seed), store.questions())
    plain = [asdict(row) for row in rows]
    result = {"rows": plain, "notes": NOTES, "seed": seed, "resamples": resamples}
    print_result(as_json, result, agreement_lines(rows))


# What a model can do at all


@evaluate.command(short_help="Retrieval, zero-shot classes and grounding.")
@data_option("The data folder")
@model_option("base")
@device_option
@json_option
def quality(data: Path, model: str, device: str | None, as_json: bool) -> None:
    """Retrieval, zero-shot classes and grounding: the figures of a model card."""
    from descscore.eval.quality import NOTES, measure, to_markdown
    from descscore.scorer import DescScorer

    scorer = DescScorer.from_pretrained(model, device=device)
    figures = measure(scorer, data)
    result = {"signature": scorer.signature, "figures": [asdict(figure) for figure in figures]}
    print_result(as_json, result, [to_markdown(figures), "", *NOTES, scorer.signature])


@evaluate.command(short_help="Accuracy and macro-F1 of zero-shot classes.")
@click.option(
    "--data",
    required=True,
    help="Folder with one subfolder per class, Parquet table with image and label, or cifar100, food101, "
    "imagenet, country211 or rendered-sst2 (by the hub, through datasets).",
)
@click.option("--prompt", "prompts", multiple=True, help="Template with one {}; may be repeated.")
@model_option()
@device_option
@json_option
def zeroshot(data: str, prompts: tuple[str, ...], model: str, device: str | None, as_json: bool) -> None:
    """Accuracy and macro-F1 of picking each image's class by its prompt."""
    from descscore.eval.zero_shot import read_labelled_source, zero_shot, zero_shot_lines
    from descscore.scorer import DescScorer

    images = read_labelled_source(data)
    scorer = DescScorer.from_pretrained(model, device=device)
    rows = zero_shot(scorer, images, prompts or (images.prompt,))
    result = {"rows": [asdict(row) for row in rows], "signature": scorer.signature}
    print_result(as_json, result, [*zero_shot_lines(rows), scorer.signature])


# Speed and precision


@evaluate.command(short_help="How far cosines in bf16 and fp16 are from float32.")
@click.option("--data", help="Concadia folder, table or hub:NAME with pairs; by default made-up pictures.")
@click.option("--split", default="test", show_default=True, help="Split of the data.")
@click.option("--image-root", type=PATH, help="Folder that image paths begin at.")
@click.option("--pairs", type=click.IntRange(2), default=1000, show_default=True, help="Pairs to score.")
@model_option()
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["bf16", "fp16"]),
    multiple=True,
    help="Number format to check, by default both. May be repeated.",
)
@device_option
@json_option
def precision(
    data: str | None,
    split: str,
    image_root: Path | None,
    pairs: int,
    model: str,
    precisions: tuple[str, ...],
    device: str | None,
    as_json: bool,
) -> None:
    """How far cosines in bf16 and fp16 are from those in float32, on the same pairs."""
    from descscore.eval import precision as check
    from descscore.models import load_model

    read = _Split((), [], []) if data is None else _read_split(data, split, image_root)
    sample = check.made_sample(pairs) if data is None else check.published_sample(read.pairs, pairs)
    rows = check.compare_precisions(load_model(model, device), sample, precisions or ("bf16", "fp16"))
    measured = [asdict(row) | {"close": row.close} for row in rows]
    result = {"model": model, "data": data, "rows": measured, "dropped": read.dropped}
    print_result(as_json, result, [*check.precision_lines(rows), *read.lines])


@evaluate.command(short_help="How many pairs a model scores a second.")
@click.option("--photos", type=PATH, help="Folder of photos; by default made up.")
@click.option("--count", type=click.IntRange(1), default=16, show_default=True, help="Photos made up.")
@click.option("--size", default="1600x1200", show_default=True, help="Width and height of made-up photos.")
@click.option(
    "--at-least",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Smallest number of photos per run; if there are fewer, copies are added.",
)
@click.option("--texts", type=click.IntRange(1), default=5, show_default=True, help="Texts per photo.")
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="Rounds, for the median."
)
@device_option
@speed_options
@click.option("--no-torchmetrics", is_flag=True, help="Leave out the comparison with torchmetrics.")
@json_option
def throughput(
    photos: Path | None,
    count: int,
    size: str,
    at_least: int,
    device: str | None,
    no_torchmetrics: bool,
    as_json: bool,
    **plan_options: Any,
) -> None:
    """How many pairs ViT-B-32 (random weights) scores a second, its ceilings, and torchmetrics' rate."""
    from descscore.eval.sample_inputs import as_many, find_photos, make_photos
    from descscore.eval.throughput import FEW, Plan, measure, throughput_lines
    from descscore.eval.timing import machine
    from descscore.models import check_device

    area = _size(size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        different = find_photos(photos) if photos else make_photos(folder / "made", count, area)
        few = 0 if no_torchmetrics else min(len(different), FEW)
        repeated = as_many(different, folder / "more", at_least)
        plan = Plan(repeated, device=check_device(device), few=few, **plan_options)
        figures = measure(plan).figures(plan.texts)
    about = machine(plan.device)
    lines = throughput_lines(plan, len(different), figures)
    print_result(as_json, {"machine": about, **figures}, [about, *lines])


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise UsageError(f"--size {text!r}: expected WIDTHxHEIGHT, such as 1600x1200")
    return int(width), int(height)


# Everything on one page


@evaluate.command(short_help="All evaluations of one or several models, side by side.")
@data_option("The data folder")
@click.option(
    "-o",
    "--output",
    type=PATH,
    required=True,
    help="Folder for report.json, report.md and report.html; made if it is missing.",
)
@models_option
@device_option
@resampling_options
@click.option(
    "--from-json", "saved", type=PATH, help="Measure nothing; make the pages of this saved report.json again."
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
    from descscore.eval.report.pages import make_folder, read_report, write_report
    from descscore.eval.statistics.bootstrap import Resampling

    progress, resampling = partial(echo, err=True), Resampling(resamples, seed)
    make_folder(output)
    if saved is not None:
        report_json = read_report(saved)
    else:
        from descscore.eval.report.measure import measure_report

        report_json = measure_report(data, models or ("default",), device, resampling, progress)
    for path in write_report(report_json, output):
        echo(path)
    for entry in report_json["not_measured"]:
        missing = ", ".join(entry["missing"])
        progress(f"not measured: {entry['section']} on {entry['data']}: {missing} missing")
