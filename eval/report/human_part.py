"""Measure a report's models against the ratings of blind, low-vision and sighted readers."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from scipy import stats

from descscore.eval.human.model_scores import scorer_scores
from descscore.eval.human.ratings import Judgments, read_kreiss
from descscore.eval.human.rows import human_result
from descscore.eval.report.bench import Bench
from descscore.eval.score_tables import Joined, join, read_scores
from descscore.eval.statistics.correlation import MIN_ITEMS, Array, is_constant

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
