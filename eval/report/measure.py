"""Measure everything that a report holds, as one JSON object.

:data:`PARTS` lists the measurements with the files that each needs. A :class:`Bench` holds the
models and reads each file and encodes each image and text once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from scipy import stats

from descscore import __version__
from descscore.errors import DataError, UsageError
from descscore.eval import quality
from descscore.eval.captions import NOTES as CAPTION_NOTES
from descscore.eval.captions import published_taus, read_caption_judgments, tau_rows
from descscore.eval.features import ImageMemory, RememberingEncoder, image_owner
from descscore.eval.human import human_result
from descscore.eval.metric_scores import Joined, join, read_scores, scorer_scores
from descscore.eval.preference import (
    PUBLISHED_FILES,
    length_pair_scores,
    model_pair_scores,
    ngram_pair_scores,
    preference_rows,
    probability_row,
    published_pair_scores,
)
from descscore.eval.ratings import Judgments, digest, read_kreiss
from descscore.eval.report.pages import FORMAT
from descscore.eval.sanity import sanity
from descscore.eval.statistics.bootstrap import Resampling
from descscore.eval.statistics.correlation import MIN_ITEMS, Array, is_constant
from descscore.eval.statistics.retrieval import count_others
from descscore.eval.zero_shot import PROMPTS, read_labelled, zero_shot
from descscore.scorer import DescScorer
from descscore.tables.open import DataOptions, load_pairs
from descscore.tables.rows import PreferenceSet

Json: TypeAlias = dict[str, Any]

CLIPSCORE = "kreiss2022/published_clipscore_cosid.csv"
SPURTS = "kreiss2022/published_spurts_cosid.csv"


def measure_report(
    data: Path,
    models: Sequence[str],
    device: str | None = None,
    resampling: Resampling | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Json:
    """Measure all models on everything in the data folder.

    Each section is a list with one object per data set; ``not_measured`` names the missing files.
    Raises :class:`DataError` for a folder that holds nothing to measure on
    and for damaged files, :class:`descscore.errors.ModelError` and
    :class:`descscore.errors.UsageError` for models.
    """
    check_data(data)
    bench = Bench(data, load_subjects(models, device), resampling or Resampling())
    report: Json = {
        "format": FORMAT,
        "descscore": __version__,
        "models": [subject.to_dict() for subject in bench.subjects],
        "resampling": {"resamples": bench.resampling.resamples, "seed": bench.resampling.seed},
        **{part.section: [] for part in PARTS},
    }
    for part in PARTS:
        if missing(data, part.files):
            continue
        progress(f"{part.section} on {part.data}")
        measured = {"data": part.data, "files": _digests(data, part.files)} | part.measure(bench)
        report[part.section].append(measured)
    return report | {"not_measured": [entry for part in PARTS for entry in _left_out(data, part)]}


def check_data(data: Path) -> None:
    """Raise :class:`DataError` unless ``data`` holds what at least one part needs."""
    if not data.is_dir():
        raise DataError(f"{data}: no such folder; --data or DESCSCORE_DATA must name the data folder")
    if all(missing(data, part.files) for part in PARTS):
        wanted = ", ".join(dict.fromkeys(part.files[0] for part in PARTS))
        raise DataError(f"{data}: holds nothing to measure on (looked for {wanted})")


def missing(data: Path, files: Sequence[str]) -> list[str]:
    """The ``files`` that do not exist below ``data``."""
    return [file for file in files if not (data / file).exists()]


def _left_out(data: Path, part: Part) -> list[Json]:
    """One entry for the whole part if it was not measured, otherwise one for each thing left out."""
    whole = missing(data, part.files)
    place = {"section": part.section, "data": part.data}
    if whole:
        return [place | {"what": "all", "missing": whole}]
    lacking = [(what, missing(data, files)) for what, files in part.optional]
    return [place | {"what": what, "missing": files} for what, files in lacking if files]


def _digests(data: Path, files: Sequence[str]) -> dict[str, str]:
    """First eight hex digits of the SHA-256 of each file; folders are left out."""
    return {file: digest(data / file) for file in files if (data / file).is_file()}


# The models


@dataclass(frozen=True)
class Subject:
    """A model under the name it was asked for."""

    name: str
    scorer: DescScorer

    def to_dict(self) -> dict[str, Any]:
        """The report's entry for the model, in plain JSON types."""
        model = self.scorer.model
        return {
            "name": self.name,
            "signature": self.scorer.signature,
            "parameters": sum(p.numel() for p in model.clip.parameters()),
            "tuned": model.tuned,
            "readout": bool(model.purpose and model.purpose.readout),
        }


@dataclass(frozen=True)
class Bench:
    """What a report measures with."""

    data: Path
    subjects: tuple[Subject, ...]
    resampling: Resampling = field(default_factory=Resampling)
    """Of the correlations with people's ratings."""
    _pairs: dict[str, PreferenceSet] = field(default_factory=dict, repr=False)

    def pairs(self, source: str) -> PreferenceSet:
        """The pairs of a file or folder below the data folder.

        Pairs with equal texts stay in. No metric can win them, so they count against every metric.
        Raises :class:`descscore.errors.DataError` for damaged files.
        """
        if source not in self._pairs:
            self._pairs[source] = load_pairs(self.data / source, DataOptions(keep_equal=True))
        return self._pairs[source]


def load_subjects(names: Sequence[str], device: str | None = None) -> tuple[Subject, ...]:
    """Load each model once. Models with the same image tower share its features.

    Raises :class:`UsageError` for a name given twice, :class:`descscore.errors.ModelError`
    for a model that cannot be loaded.
    """
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UsageError(f"model {repeated[0]!r} is given more than once")
    memory: ImageMemory = {}
    return tuple(Subject(name, _scorer(name, device, memory)) for name in names)


def _scorer(name: str, device: str | None, memory: ImageMemory) -> DescScorer:
    scorer = DescScorer.from_pretrained(name, device=device)
    scorer.encoder = RememberingEncoder(scorer.model, scorer.encoder.batch_size, memory)
    return scorer


# Agreement with readers


def measure_human(bench: Bench) -> Json:
    """The human evaluation as JSON, with the points and fitted lines of the BLV readers' questions.

    ``critical_r`` is the |r| from which on a correlation of as many independent items is significant
    at 5 %. The result holds no text of a description.
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


def critical_r(n: int) -> float | None:
    """The |r| that ``n`` independent items must reach to be significant at 5 % (two-sided t test)."""
    if n < MIN_ITEMS:
        return None
    t = float(stats.t.ppf(0.975, n - 2))
    return float(t / np.sqrt(n - 2 + t * t))


def _scatter(judgments: Judgments, model: Joined) -> Json:
    """Each item's cosine and mean rating by BLV readers on each question, and a line for each question."""
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
    """Least-squares line of ratings on scores; None if scores do not vary."""
    kept = np.array([value is not None for value in ratings])
    x, y = scores[kept], np.array([value for value in ratings if value is not None])
    if len(x) < MIN_ITEMS or is_constant(x):
        return None
    fit: Any = stats.linregress(x, y)
    return {"slope": float(fit.slope), "intercept": float(fit.intercept)}


# The parts


CONCADIA = ("concadia/wiki_split.json", "concadia/resized")
TRAIN = "openstax/train.parquet"
CLIPSCORE_PAIRS = tuple(f"kreiss2022/{name}" for name in PUBLISHED_FILES.values())


@dataclass(frozen=True)
class Part:
    """One measurement."""

    section: str
    """Its place in the report."""
    data: str
    """The data set's name."""
    files: tuple[str, ...]
    """Files and folders that it needs, below the data folder."""
    measure: Callable[[Bench], Json]
    optional: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Files that it can do without. Each group has a name for what is left out if they are missing."""


def _rows(bench: Bench, measure: Callable[[DescScorer], Sequence[Any]]) -> list[Json]:
    """The rows that ``measure`` returns for each model, with the model's name."""
    return [
        {"model": subject.name} | asdict(row) for subject in bench.subjects for row in measure(subject.scorer)
    ]


def _quality(figures: Callable[[DescScorer, Path], list[quality.Figure]], bench: Bench) -> Json:
    return {"rows": _rows(bench, lambda scorer: figures(scorer, bench.data))}


def _preference(source: str, bench: Bench) -> Json:
    loaded = bench.pairs(source)
    pairs = loaded.split("test")
    owner = image_owner(pairs)
    scores = [model_pair_scores(subject.scorer, pairs, owner, subject.name) for subject in bench.subjects]
    if source == "concadia" and not missing(bench.data, CLIPSCORE_PAIRS):
        scores.append(published_pair_scores(bench.data / "kreiss2022", pairs))
    scores.append(length_pair_scores(pairs))
    if not missing(bench.data, (TRAIN,)):
        scores.append(ngram_pair_scores(bench.pairs(TRAIN).split("train"), pairs))
    rows = [asdict(row) for item in scores for row in preference_rows(item, pairs, owner)]
    return {"rows": rows, "others": count_others(owner), **_counts(bench, source)}


def _sanity(source: str, bench: Bench) -> Json:
    pairs = bench.pairs(source).split("test")
    found = [sanity(subject.scorer, pairs, subject.name) for subject in bench.subjects]
    rows, figures = (
        [asdict(row) for one in found for row in getattr(one, name)] for name in ("rows", "figures")
    )
    return {"rows": rows, "figures": figures, **_counts(bench, source)}


def _probability(source: str, bench: Bench) -> Json:
    pairs = bench.pairs(source).split("test")
    by_model = {
        subject.name: probability_row(subject.scorer, pairs, subject.name) for subject in bench.subjects
    }
    return {
        "rows": [asdict(row) for row in by_model.values() if row is not None],
        "without_readout": [name for name, row in by_model.items() if row is None],
        **_counts(bench, source),
    }


def _captions(bench: Bench) -> Json:
    judgments = read_caption_judgments(bench.data)
    return {
        "rows": _rows(bench, lambda scorer: tau_rows(scorer, judgments)),
        "published": published_taus(),
        "notes": list(CAPTION_NOTES),
        "source": judgments.source,
    }


def _zero_shot(file: str, bench: Bench) -> Json:
    images = read_labelled(bench.data / file)
    return {"rows": _rows(bench, lambda scorer: zero_shot(scorer, images, PROMPTS))}


def _counts(bench: Bench, source: str) -> Json:
    """Pairs of the test split, and its rows that cannot be used, by reason."""
    loaded = bench.pairs(source)
    unusable = Counter(row.reason for row in loaded.unusable if row.split == "test")
    return {"pairs": len(loaded.split("test")), "unusable": dict(unusable)}


_KREISS = ("kreiss2022/blv_ratings.csv", "kreiss2022/images")
_FLICKR = "flickr8k/test.parquet"
_OPENSTAX = "openstax/test.parquet"
_NGRAMS = ("text-only n-grams", (TRAIN,))
_CALTECH, _TINY = "caltech101/test.parquet", "tiny_imagenet/val.parquet"
_JUDGMENTS = ("flickr8k/ExpertAnnotations.txt", "flickr8k/CrowdFlowerAnnotations.txt")

PARTS = (
    Part(
        "human",
        "kreiss2022",
        (*_KREISS, "kreiss2022/sighted_ratings.csv"),
        measure_human,
        (("published CLIPScore", (CLIPSCORE,)), ("published SPURTS", (SPURTS,))),
    ),
    Part(
        "preference",
        "concadia",
        CONCADIA,
        partial(_preference, "concadia"),
        (("published CLIPScore", CLIPSCORE_PAIRS), _NGRAMS),
    ),
    Part("preference", "openstax", (_OPENSTAX,), partial(_preference, _OPENSTAX), (_NGRAMS,)),
    Part("sanity", "concadia", CONCADIA, partial(_sanity, "concadia")),
    Part("sanity", "openstax", (_OPENSTAX,), partial(_sanity, _OPENSTAX)),
    Part("probability", "concadia", CONCADIA, partial(_probability, "concadia")),
    Part("probability", "openstax", (_OPENSTAX,), partial(_probability, _OPENSTAX)),
    Part("quality", "flickr8k", (_FLICKR,), partial(_quality, quality.retrieval_figures)),
    Part("quality", "concadia", CONCADIA, partial(_quality, quality.concadia_figures)),
    Part(
        "quality",
        "kreiss2022",
        (*_KREISS, "kreiss2022/descriptions.csv"),
        partial(_quality, quality.kreiss_figures),
    ),
    Part("captions", "flickr8k", (_FLICKR, *_JUDGMENTS), _captions),
    Part("zeroshot", "caltech101", (_CALTECH,), partial(_zero_shot, _CALTECH)),
    Part("zeroshot", "tiny_imagenet", (_TINY,), partial(_zero_shot, _TINY)),
)
"""In the report's order. Section zeroshot has the zero-shot figures, so section quality leaves them out."""
