"""Krippendorff's alpha of judgments: against another library, where it is not defined, and its intervals."""

from __future__ import annotations

import krippendorff
import numpy as np
import pytest

from descscore.eval.agreement import alpha_of_sums, coincidences, ordinal_alpha
from descscore.eval.statistics.bootstrap import Resampling


def test_alpha_equals_the_library_and_a_worked_example() -> None:
    # Krippendorff's own example with missing values; ordinal alpha 0.815.
    nan = float("nan")
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
        [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
    ]
    counts = np.array(
        [[column.count(v) for v in range(1, 6)] for column in map(list, zip(*table, strict=True))]
    )
    alpha = ordinal_alpha(counts.astype(float), [str(n) for n in range(12)])[0]
    assert alpha == pytest.approx(0.815, abs=5e-4)
    rng = np.random.default_rng(0)
    for raters in (2, 3, 9):
        values = rng.integers(1, 6, (raters, 20)).astype(float)
        values[rng.random(values.shape) < 0.2] = nan
        counts = np.array([[(values[:, i] == v).sum() for v in range(1, 6)] for i in range(20)]).astype(float)
        shared = counts[counts.sum(1) > 1]
        expected = krippendorff.alpha(values, value_domain=[1, 2, 3, 4, 5], level_of_measurement="ordinal")
        assert float(alpha_of_sums(coincidences(shared).sum(0))) == pytest.approx(expected, abs=1e-12)
        assert ordinal_alpha(counts, [str(i) for i in range(20)])[0] == pytest.approx(expected, abs=1e-12)


def test_alpha_that_is_not_defined_says_why() -> None:
    one = np.zeros((6, 5))
    one[:, 2] = 1
    assert ordinal_alpha(one, list("abcdef"))[3] == "no item has two ratings or more"
    same = one * 3
    assert ordinal_alpha(same, list("abcdef"))[3] == "all ratings are the same"
    few = np.array([[2.0, 0, 0, 0, 0], [0, 0, 2, 0, 0]])
    alpha, low, high, reason = ordinal_alpha(few, list("ab"))
    assert alpha == pytest.approx(1.0)
    assert low is high is None
    assert "too few clusters" in reason


def test_intervals_of_alpha_hold_as_often_as_they_say() -> None:
    """Simulated raters whose true alpha is known from a very large panel."""
    rng = np.random.default_rng(1)

    def panel(images: int) -> tuple[np.ndarray, list[str]]:
        truth = np.repeat(rng.normal(3, 1, images), 2)
        rated = np.clip(np.round(truth[:, None] + rng.normal(0, 1, (len(truth), 4))), 1, 5)
        counts = np.stack([(rated == value).sum(1) for value in range(1, 6)], 1).astype(float)
        return counts, [str(n // 2) for n in range(len(truth))]

    counts, _ = panel(50_000)
    true = float(alpha_of_sums(coincidences(counts).sum(0)))
    intervals = [ordinal_alpha(*panel(18), Resampling(199, seed)) for seed in range(200)]
    held = np.mean([low <= true <= high for _, low, high, _ in intervals])
    assert 0.90 <= held <= 0.99
