"""The parts of a report: what each needs, and how it is measured, as plain JSON types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from scipy import stats

from descscore.eval import preference as published_pairs
from descscore.eval import quality
from descscore.eval.captions import NOTES as CAPTION_NOTES
from descscore.eval.captions import PUBLISHED, read_caption_judgments, tau_rows
from descscore.eval.human import Joined, human_result, join, read_scores
from descscore.eval.model_scores import scorer_scores
from descscore.eval.preference import (
    OTHERS,
    image_owner,
    length_pair_scores,
    model_pair_scores,
    ngram_pair_scores,
    preference_rows,
    probability_row,
)
from descscore.eval.ratings import Judgments, read_kreiss
from descscore.eval.report.bench import Bench
from descscore.eval.sanity import sanity_rows
from descscore.eval.statistics.correlation import MIN_ITEMS, Array, is_constant
from descscore.eval.zero_shot import read_labelled, zero_shot
from descscore.scorer import DescScorer

# Measure a report's models against the ratings of blind, low-vision and sighted readers.


Json: TypeAlias = dict[str, Any]

CLIPSCORE = "kreiss2022/published_clipscore_cosid.csv"
SPURTS = "kreiss2022/published_spurts_cosid.csv"


def measure_human(bench: Bench) -> Json:
    """The human evaluation as JSON, with the points and fitted lines of the BLV readers' questions.

    critical_r: the |r| under which a correlation of so many independent items is not
    significant at 5 %. No text of a description is in it.
    """
    judgments = read_kreiss(bench.data)
    models = [scorer_scores(judgments.items, subject.scorer, subject.name) for subject in bench.subjects]
    published = [
        join(judgments.items, read_scores(bench.data / file))
        for file in (CLIPSCORE, SPURTS)
        if (bench.data / file).exists()
    ]
    result = human_result(judgments, [*models, *published], bench.resampling).to_dict()
    images = len({item.cluster for item in judgments.items})
    return result | {
        "images": images,
        "critical_r": critical_r(len(judgments.items)),
        "published": [metric.metric for metric in published],
        "scatter": [_scatter(judgments, model) for model in models],
    }


def critical_r(n: int, level: float = 0.05) -> float | None:
    """The |r| that ``n`` independent items must reach to be significant (two-sided t test)."""
    if n < MIN_ITEMS:
        return None
    t = float(stats.t.ppf(1 - level / 2, n - 2))
    return float(t / np.sqrt(n - 2 + t * t))


def _scatter(judgments: Judgments, model: Joined) -> Json:
    """Each item's cosine with its mean rating by BLV readers on each question, and a line a question."""
    means = {
        panel.question: [float(np.mean(values)) if values else None for values in panel.ratings]
        for panel in judgments.panels
        if panel.raters == "BLV"
    }
    points = [
        {"item": i + 1, "image": item.cluster, "cosine": float(cosine)}
        | {question: values[i] for question, values in means.items()}
        for i, (item, cosine) in enumerate(zip(judgments.items, model.values, strict=True))
    ]
    lines = {question: _line(model.values, values) for question, values in means.items()}
    return {"model": model.metric, "questions": list(means), "points": points, "lines": lines}


def _line(scores: Array, ratings: list[float | None]) -> Json | None:
    """Least-squares line of ratings on scores; None where scores do not vary."""
    kept = np.array([value is not None for value in ratings])
    x, y = scores[kept], np.array([value for value in ratings if value is not None])
    if len(x) < MIN_ITEMS or is_constant(x):
        return None
    found: Any = stats.linregress(x, y)
    return {"slope": float(found.slope), "intercept": float(found.intercept)}


CONCADIA = ("concadia/wiki_split.json", "concadia/resized")
TRAIN = "openstax/train.parquet"
CLIPSCORE_PAIRS = tuple(f"kreiss2022/{name}" for name in published_pairs.FILES.values())


@dataclass(frozen=True)
class Part:
    """One measurement. section: its place in the report. data: what it is measured on.

    files: what it needs below the data folder. optional: what it can do without, with a
    word for what is then left out.
    """

    section: str
    data: str
    files: tuple[str, ...]
    measure: Callable[[Bench], Json]
    optional: tuple[tuple[str, tuple[str, ...]], ...] = ()


def _quality(figures: Callable[[DescScorer, Path], list[quality.Figure]], bench: Bench) -> Json:
    rows = [
        {"model": subject.name} | asdict(figure)
        for subject in bench.subjects
        for figure in figures(subject.scorer, bench.data)
    ]
    return {"rows": rows}


def _preference(source: str, bench: Bench) -> Json:
    found = bench.pairs(source)
    pairs = found.split("test")
    scores = [model_pair_scores(subject.scorer, pairs, subject.name) for subject in bench.subjects]
    if source == "concadia" and _there(bench, CLIPSCORE_PAIRS):
        scores.append(published_pairs.published_pair_scores(bench.data / "kreiss2022", pairs))
    scores.append(length_pair_scores(pairs))
    if _there(bench, (TRAIN,)):
        scores.append(ngram_pair_scores(bench.pairs(TRAIN).split("train"), pairs))
    owner = image_owner(pairs)
    rows = [asdict(row) for item in scores for row in preference_rows(item, pairs, owner)]
    return {"rows": rows, "others": OTHERS, **_counts(bench, source)}


def _sanity(source: str, bench: Bench) -> Json:
    pairs = bench.pairs(source).split("test")
    rows = [
        asdict(row) for subject in bench.subjects for row in sanity_rows(subject.scorer, pairs, subject.name)
    ]
    return {"rows": rows, **_counts(bench, source)}


def _probability(source: str, bench: Bench) -> Json:
    pairs = bench.pairs(source).split("test")
    found = {subject.name: probability_row(subject.scorer, pairs, subject.name) for subject in bench.subjects}
    return {
        "rows": [asdict(row) for row in found.values() if row is not None],
        "without_readout": [name for name, row in found.items() if row is None],
        **_counts(bench, source),
    }


def _captions(bench: Bench) -> Json:
    judgments = read_caption_judgments(bench.data)
    rows = [
        {"model": subject.name} | asdict(row)
        for subject in bench.subjects
        for row in tau_rows(subject.scorer, judgments)
    ]
    published = [{"metric": name, "expert": e, "crowdflower": c} for name, (e, c) in PUBLISHED.items()]
    return {"rows": rows, "published": published, "notes": list(CAPTION_NOTES), "source": judgments.source}


def _zero_shot(file: str, bench: Bench) -> Json:
    images = read_labelled(bench.data / file)
    rows = [{"model": subject.name} | asdict(zero_shot(subject.scorer, images)) for subject in bench.subjects]
    return {"rows": rows}


def _counts(bench: Bench, source: str) -> Json:
    """Pairs of the test split, and its rows that cannot be used, by reason."""
    found = bench.pairs(source)
    unusable = Counter(row.reason for row in found.unusable if row.split == "test")
    return {"pairs": len(found.split("test")), "unusable": dict(unusable)}


def _there(bench: Bench, files: tuple[str, ...]) -> bool:
    return all((bench.data / file).exists() for file in files)


def _on_pairs(section: str, measure: Callable[[str, Bench], Json]) -> tuple[Part, Part]:
    openstax = "openstax/test.parquet"
    ngrams = ("text-only n-grams", (TRAIN,)) if section == "preference" else None
    more = () if ngrams is None else (ngrams,)
    published = (("published CLIPScore", CLIPSCORE_PAIRS), *more) if more else ()
    return (
        Part(section, "concadia", CONCADIA, partial(measure, "concadia"), published),
        Part(section, "openstax", (openstax,), partial(measure, openstax), more),
    )


_KREISS = ("kreiss2022/blv_ratings.csv", "kreiss2022/images")
_FLICKR = "flickr8k/test.parquet"
_JUDGMENTS = ("flickr8k/ExpertAnnotations.txt", "flickr8k/CrowdFlowerAnnotations.txt")

PARTS = (
    Part(
        "human",
        "kreiss2022",
        (*_KREISS, "kreiss2022/sighted_ratings.csv"),
        measure_human,
        (("published CLIPScore", (CLIPSCORE,)), ("published SPURTS", (SPURTS,))),
    ),
    *_on_pairs("preference", _preference),
    *_on_pairs("sanity", _sanity),
    *_on_pairs("probability", _probability),
    Part("quality", "flickr8k", (_FLICKR,), partial(_quality, quality.retrieval_figures)),
    Part("quality", "concadia", CONCADIA, partial(_quality, quality.concadia_figures)),
    Part(
        "quality",
        "kreiss2022",
        (*_KREISS, "kreiss2022/descriptions.csv"),
        partial(_quality, quality.kreiss_figures),
    ),
    Part("captions", "flickr8k", (_FLICKR, *_JUDGMENTS), _captions),
    Part(
        "zeroshot", "caltech101", ("caltech101/test.parquet",), partial(_zero_shot, "caltech101/test.parquet")
    ),
    Part(
        "zeroshot",
        "tiny_imagenet",
        ("tiny_imagenet/val.parquet",),
        partial(_zero_shot, "tiny_imagenet/val.parquet"),
    ),
)
"""In the report's order. Quality's zero-shot figures are those of section zeroshot."""
