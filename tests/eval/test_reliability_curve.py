"""Reliability curve, log-loss and Brier score against scikit-learn, and the probability rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from descscore.errors import DataError, UsageError
from descscore.eval.statistics.proportions import brier_score, log_losses, reliability_curve

EDGES = [0.0, 1.0, 0.1, 0.5, 0.30000000000000004, 1e-300, 1 - 1e-16]
pairs = st.lists(
    st.tuples(st.booleans(), st.one_of(st.sampled_from(EDGES), st.floats(0, 1))), min_size=1, max_size=60
)


@settings(max_examples=150, deadline=None)
@given(pairs, st.integers(1, 15))
@example([(False, 0.8)] * 3, 5)  # whose mean numpy rounds to 0.8000000000000002
def test_bins_are_scikit_learns(items: list[tuple[bool, float]], bins: int) -> None:
    labels, chance = (np.array(column, dtype=float) for column in zip(*items, strict=True))
    found = reliability_curve(labels, chance, bins=bins)
    observed, predicted = calibration_curve(np.append(labels, [0, 1]), np.append(chance, [0, 1]), n_bins=bins)
    # Two more items keep scikit-learn from refusing data of one class; they lie in the outer bins.
    own = reliability_curve(np.append(labels, [0, 1]), np.append(chance, [0, 1]), bins=bins)
    assert [one.observed for one in own] == pytest.approx(list(observed))
    assert [one.predicted for one in own] == pytest.approx(list(predicted))
    assert sum(one.n for one in found) == len(labels)
    assert sum(one.n * one.observed for one in found) == pytest.approx(labels.sum())
    for one in found:
        assert one.start <= one.predicted <= one.stop
        assert one.low is not None
        assert one.high is not None
        assert 0 <= one.low <= one.observed + 1e-12
        assert one.observed - 1e-12 <= one.high <= 1


@settings(max_examples=150, deadline=None)
@given(pairs)
def test_losses_are_scikit_learns(items: list[tuple[bool, float]]) -> None:
    labels, chance = (np.array(column, dtype=float) for column in zip(*items, strict=True))
    expected = log_loss(labels, chance, labels=[0, 1])
    assert log_losses(labels, chance).mean() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert brier_score(labels, chance) == pytest.approx(np.mean((labels - chance) ** 2))
    if len(set(labels)) == 2:
        assert brier_score(labels, chance) == pytest.approx(brier_score_loss(labels, chance))


def test_by_hand() -> None:
    found = reliability_curve([1, 0, 1, 1], [0.1, 0.2, 0.9, 0.8], bins=2)
    assert [(one.n, one.observed) for one in found] == [(2, 0.5), (2, 1.0)]
    assert [one.predicted for one in found] == pytest.approx([0.15, 0.85])
    assert log_losses([1, 0], [0.5, 0.75]).tolist() == pytest.approx([np.log(2), np.log(4)])


def test_an_interval_over_clusters_is_wider_than_over_items() -> None:
    """Ten copies of each text say no more than one."""
    rng = np.random.default_rng(0)
    labels, owner = np.repeat(rng.integers(0, 2, 30), 10), np.repeat(np.arange(30), 10)
    chance = np.full(300, 0.5)
    (alone,), (shared,) = reliability_curve(labels, chance), reliability_curve(labels, chance, owner)
    (one_each,) = reliability_curve(labels[::10], chance[::10])
    widths = [one.high - one.low for one in (alone, shared, one_each)]  # type: ignore[operator]
    assert widths[1] > 2 * widths[0]
    assert widths[1] == pytest.approx(widths[2], rel=0.25)


def test_few_clusters_have_no_interval() -> None:
    (found,) = reliability_curve([0, 1, 1], [0.5, 0.5, 0.5], ["a", "a", "b"])
    assert (found.low, found.high) == (None, None)


@pytest.mark.parametrize(
    ("labels", "chance", "words"),
    [
        ([0, 2], [0.5, 0.5], "labels: must be 0 or 1, got 2"),
        ([0, 1], [0.5, 1.5], "probabilities: must lie in 0..1, got 1.5"),
        ([0, 1], [0.5, float("nan")], "probabilities: row 1"),
        ([0, 1], [0.5], "unequal length"),
        ([], [], "no items"),
    ],
)
def test_wrong_values_are_named(labels: list[float], chance: list[float], words: str) -> None:
    for measure in (reliability_curve, log_losses, brier_score):
        with pytest.raises(DataError, match=words):
            measure(labels, chance)  # type: ignore[operator]
    with pytest.raises(UsageError, match="0 bins"):
        reliability_curve([0, 1], [0.5, 0.5], bins=0)
