"""The parts of a report: what each needs, and how it is measured, as plain JSON types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from descscore.eval.human.caption_ratings import NOTES as CAPTION_NOTES
from descscore.eval.human.caption_ratings import PUBLISHED
from descscore.eval.human.caption_taus import read_caption_judgments, tau_rows
from descscore.eval.pairs import published_pairs
from descscore.eval.pairs.description_probability import probability_row
from descscore.eval.pairs.preference import (
    OTHERS,
    image_owner,
    length_pair_scores,
    model_pair_scores,
    ngram_pair_scores,
    preference_rows,
)
from descscore.eval.pairs.sanity import sanity_rows
from descscore.eval.report.bench import Bench
from descscore.eval.report.human_part import CLIPSCORE, SPURTS, measure_human
from descscore.eval.transfer import quality
from descscore.eval.transfer.benchmarks import read_labelled
from descscore.eval.transfer.zero_shot import zero_shot
from descscore.scorer import DescScorer

Json: TypeAlias = dict[str, Any]

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
