"""Correlations, reliability, bootstrap and proportions: against scipy, by hand, and by simulation."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from descscore.errors import DataError, UsageError
from descscore.eval.statistics.bootstrap import (
    MIN_CLUSTERS,
    Resampling,
    cluster_difference,
    cluster_index,
    cluster_partial,
    cluster_pearson,
    cluster_sums,
    jackknife_error,
    studentised,
)
from descscore.eval.statistics.correlation import kendall, pearson, spearman, split_half
from descscore.eval.statistics.proportions import cluster_mean, proportion, wilson

QUICK = Resampling(resamples=199)
WAYS = list(itertools.product((True, False), repeat=4))


def sample(n: int = 60, clusters: int = 15, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two related columns and a cluster of each item, sizes as even as they come."""
    rng = np.random.default_rng(seed)
    index = np.arange(n) % clusters
    x = rng.standard_normal(clusters)[index] + rng.standard_normal(n)
    return x, 0.5 * x + rng.standard_normal(clusters)[index] + rng.standard_normal(n), index


# Correlations


def test_correlations_are_scipys() -> None:
    x, y, _ = sample()
    y = np.round(y)  # ties
    expected = (
        (pearson(x, y), stats.pearsonr(x, y)),
        (spearman(x, y), stats.spearmanr(x, y)),
        (kendall(x, y), stats.kendalltau(x, y)),
        (kendall(x, y, "c"), stats.kendalltau(x, y, variant="c")),
    )
    for ours, theirs in expected:
        assert (ours.value, ours.p, ours.n, ours.reason) == (theirs.statistic, theirs.pvalue, len(x), None)


def test_pearson_by_hand() -> None:
    # Deviations (-1.5, -.5, .5, 1.5) and (-1, -1, 0, 2): products 5, squares 5 and 6.
    assert pearson([1, 2, 3, 4], [1, 1, 2, 4]).value == pytest.approx(5 / 30**0.5)


def test_kendall_by_hand() -> None:
    # Of six pairs five agree and one does not, without ties: (5 - 1) / 6.
    assert kendall([1, 2, 3, 4], [1, 2, 4, 3]).value == pytest.approx(4 / 6)
    # tau-c: the three pairs with a tie in y count zero, three agree; 2 * 3 / (n² (m - 1) / m), m = 2.
    assert kendall([1, 2, 3, 4], [0, 1, 1, 1], "c").value == pytest.approx(2 * 3 / (16 * 0.5))


def test_partial_correlation_is_that_of_residuals() -> None:
    x, y, index = sample()
    z = x + np.random.default_rng(5).standard_normal(len(x))
    rest = [values - np.polyval(np.polyfit(z, values, 1), z) for values in (x, y)]
    found = cluster_partial(x, y, z, index, QUICK)
    assert found.value == pytest.approx(stats.pearsonr(*rest).statistic)


def test_partial_correlation_given_itself_is_not_defined() -> None:
    x, y, index = sample()
    found = cluster_partial(x, y, 3 - 2 * x, index, QUICK)
    assert found.value is None
    assert found.p is None
    assert found.reason == "one of the two is a straight line of the control"


@pytest.mark.parametrize("function", [pearson, spearman, kendall])
def test_constant_and_few_values_have_a_reason(function) -> None:
    flat = function([0.1 + 0.2, 0.3, 0.3, 0.3, 0.3], range(5))
    assert (flat.value, flat.p, flat.n, flat.reason) == (None, None, 5, "constant values (x)")
    assert function([1, 2, 3], [3, 1, 2]).reason == "too few items (3, at least 4 are needed)"
    assert function([], []).reason == "too few items (0, at least 4 are needed)"


@pytest.mark.parametrize("function", [pearson, spearman, kendall])
@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([1, 2, np.nan, 4], "x: row 2 is nan"),
        ([1, 2, 3, -np.inf], "x: row 3 is -inf"),
        ([1, 2, 3], "x has 3, y has 4"),
        ([[1, 2, 3, 4]], r"shape \(1, 4\)"),
        (["a", "b", "c", "d"], "expected numbers"),
    ],
)
def test_bad_columns_are_named(function, x, words: str) -> None:
    with pytest.raises(DataError, match=words):
        function(x, [1, 2, 3, 4])


# Reliability


def test_split_half_of_raters_who_agree_is_one() -> None:
    same = split_half([(1, 1), (2, 2), (3, 3), (5, 5)], splits=10)
    assert (same.value, same.ceiling, same.items) == (pytest.approx(1), pytest.approx(1), 4)


def test_split_half_is_the_mean_over_all_splits_corrected() -> None:
    # With two ratings an item there are two ways to halve each, so 16 splits of four items.
    ratings = [(1, 3), (2, 1), (4, 5), (5, 4)]
    splits = [[pair[:: 1 if keep else -1] for pair, keep in zip(ratings, way, strict=True)] for way in WAYS]
    mean = np.mean([np.corrcoef(np.transpose(split))[0, 1] for split in splits])
    assert split_half(ratings).value == pytest.approx(2 * mean / (1 + mean), abs=0.003)


def test_split_half_finds_the_true_reliability() -> None:
    # Variance 1 of the items and 4 of the raters' noise, four ratings: 1 / (1 + 4 / 4).
    rng = np.random.default_rng(0)
    ratings = rng.standard_normal((2000, 1)) + 2 * rng.standard_normal((2000, 4))
    found = split_half(list(ratings), splits=50)
    assert found.value == pytest.approx(0.5, abs=0.03)
    assert found.ceiling == pytest.approx(found.value**0.5)


def test_split_half_takes_ragged_ratings_and_a_seed() -> None:
    rng = np.random.default_rng(1)
    ratings = [rng.normal(i % 5, 1, 1 + i % 7) for i in range(40)]
    found = split_half(ratings, splits=300)
    assert found == split_half(ratings, splits=300)
    assert found != split_half(ratings, splits=300, seed=1)
    assert found.items == sum(len(values) > 1 for values in ratings)


def test_split_half_leaves_empty_cells_out() -> None:
    # Far from zero, a cell that is not there but counted would pull that item's mean down.
    ratings = [[100.0 + i] * (2 + i % 3) for i in range(12)]
    assert split_half(ratings, splits=20).value == pytest.approx(1)


def test_split_half_not_defined() -> None:
    assert split_half([(1, 2), (3,), (4,), (5,)]).reason == "too few items with two ratings or more (1)"
    assert split_half([(3, 3)] * 6, splits=5).reason == "constant ratings in one half"
    opposed = split_half([(1, 5), (2, 4), (5, 1), (4, 2), (1, 5), (5, 1)], splits=200)
    assert opposed.ceiling is None
    assert opposed.reason == "negative: raters do not agree"
    with pytest.raises(DataError, match="row 1 is nan"):
        split_half([(1, np.nan)] * 5)


# Bootstrap


def test_jackknife_of_a_mean_is_the_textbook_standard_error() -> None:
    values = np.random.default_rng(0).standard_normal(30)
    sums = np.stack([np.ones(30), values], 1)
    assert jackknife_error(sums, lambda s: s[..., 1] / s[..., 0]) == pytest.approx(stats.sem(values))


def test_cluster_sums_by_hand() -> None:
    index = cluster_index(["b", "a", "b"], 3)
    assert index.tolist() == [0, 1, 0]
    assert cluster_sums(np.array([[1.0], [2.0], [3.0]]), index).tolist() == [[4.0], [2.0]]


def test_studentised_matches_a_plain_loop() -> None:
    """The same draws, one resample and one left-out cluster at a time, items repeated as drawn."""
    x, y, index = sample(30, 10)
    resampling = Resampling(resamples=99, seed=3)
    found = cluster_pearson(x, y, index, resampling)

    def z(items: np.ndarray) -> float:
        return float(np.arctanh(np.corrcoef(x[items], y[items])[0, 1]))

    def error(parts: list[np.ndarray]) -> float:
        left = [z(np.concatenate(parts[:i] + parts[i + 1 :])) for i in range(len(parts))]
        return float(np.sqrt((len(parts) - 1) * np.var(left)))

    members = [np.flatnonzero(index == g) for g in range(10)]
    whole = z(np.concatenate(members))
    draws = np.random.default_rng(3).multinomial(10, np.full(10, 0.1), 99)
    t = []
    for counts in draws:
        parts = [members[g] for g in range(10) for _ in range(counts[g])]
        t.append(abs(z(np.concatenate(parts)) - whole) / error(parts))
    reach = sorted(t)[94] * error(members)
    assert found.low == pytest.approx(np.tanh(whole - reach))
    assert found.high == pytest.approx(np.tanh(whole + reach))
    assert found.p == pytest.approx((1 + sum(v >= abs(whole) / error(members) for v in t)) / 100)


def test_values_are_those_of_the_plain_functions() -> None:
    x, y, index = sample()
    z = np.random.default_rng(2).standard_normal(len(x))
    assert cluster_pearson(x, y, index, QUICK).value == pytest.approx(pearson(x, y).value)
    difference = cluster_difference(x, z, y, index, QUICK)
    assert difference.value == pytest.approx(pearson(x, y).value - pearson(z, y).value)
    assert (difference.n, difference.clusters) == (60, 15)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), slope=st.floats(0.01, 1e6), shift=st.floats(-1e6, 1e6))
def test_scale_and_labels_change_nothing(seed: int, slope: float, shift: float) -> None:
    x, y, index = sample(seed=seed)
    plain = cluster_pearson(x, y, index, QUICK)
    other = cluster_pearson(slope * x + shift, y, [f"photo {i}" for i in index], QUICK)
    for name in ("value", "low", "high"):
        assert getattr(other, name) == pytest.approx(getattr(plain, name), abs=1e-6)
    flipped = cluster_pearson(-x, y, index, QUICK)
    assert (flipped.low, flipped.high) == (pytest.approx(-plain.high), pytest.approx(-plain.low))


def test_interval_excludes_zero_exactly_where_p_is_small() -> None:
    decided = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x, y = rng.standard_normal((2, 40)) + 0.35 * rng.standard_normal(40)
        found = cluster_pearson(x, y, np.arange(40) // 4, Resampling(resamples=199, seed=seed))
        assert (found.low > 0 or found.high < 0) == (found.p <= 0.05)
        decided.add(found.p <= 0.05)
    assert decided == {True, False}


def test_same_seed_same_numbers() -> None:
    x, y, index = sample()
    assert cluster_pearson(x, y, index, QUICK) == cluster_pearson(x, y, index, QUICK)
    assert cluster_pearson(x, y, index, QUICK) != cluster_pearson(x, y, index, replace(QUICK, seed=1))


def test_large_data_is_cut_into_parts_without_changing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, index = sample()
    whole = cluster_pearson(x, y, index, QUICK)
    monkeypatch.setattr("descscore.eval.statistics.bootstrap._NUMBERS_AT_ONCE", 1000)
    assert cluster_pearson(x, y, index, QUICK).low == pytest.approx(whole.low)


def test_whole_copies_of_items_make_nothing_surer() -> None:
    x, y, index = sample()
    once = cluster_pearson(x, y, index, QUICK)
    thrice = cluster_pearson(np.tile(x, 3), np.tile(y, 3), np.tile(index, 3), QUICK)
    assert (thrice.low, thrice.high) == (pytest.approx(once.low), pytest.approx(once.high))
    assert thrice.n == 3 * once.n


def test_intervals_that_are_not_defined_say_why() -> None:
    x, y, index = sample()
    few = cluster_pearson(x, y, index % (MIN_CLUSTERS - 1), QUICK)
    assert few.value == pytest.approx(pearson(x, y).value)
    assert (few.low, few.high, few.p) == (None, None, None)
    assert few.reason == "too few clusters (4, at least 5 are needed)"
    perfect = cluster_pearson(x, 2 * x + 1, index, QUICK)
    assert perfect.value == pytest.approx(1)
    assert perfect.reason == "no spread between the clusters"
    constant = cluster_difference(x, np.ones(60), y, index, QUICK)
    assert (constant.value, constant.reason) == (None, "constant values (second)")
    lone = np.where(index == 0, x, 0.0)
    assert cluster_pearson(lone, y, index, QUICK).reason == "too few clusters hold any information"


def test_bad_calls_are_named() -> None:
    x, y, index = sample()
    with pytest.raises(DataError, match="60 items but 59 cluster labels"):
        cluster_pearson(x, y, index[1:], QUICK)
    with pytest.raises(DataError, match="first has 60, second has 59"):
        cluster_difference(x, x[1:], y, index, QUICK)
    with pytest.raises(UsageError, match="resamples 5"):
        Resampling(resamples=5)


# Proportions


def test_wilson_by_hand_and_by_scipy() -> None:
    for hits, n in ((0, 10), (7, 10), (10, 10), (157, 300)):
        theirs = stats.binomtest(hits, n).proportion_ci(method="wilson")
        assert wilson(hits / n, n) == (pytest.approx(theirs.low), pytest.approx(theirs.high))
    assert wilson(0.5, 10, freedom=5)[0] < wilson(0.5, 10)[0]
    with pytest.raises(DataError, match="is not a share"):
        wilson(1.2, 10)


def test_proportion_of_independent_items() -> None:
    found = proportion([1] * 157 + [0] * 143)
    assert (found.value, found.n, found.method) == (157 / 300, 300, "Wilson")
    assert (found.low, found.high) == wilson(157 / 300, 300)


def test_clusters_widen_a_proportion() -> None:
    rng = np.random.default_rng(0)
    index = np.repeat(np.arange(40), 5)
    hits = (rng.random(40) < 0.6)[index]  # all items of a cluster alike
    plain, clustered = proportion(hits), proportion(hits, index, QUICK)
    assert clustered.method == "bootstrap-t over clusters"
    assert clustered.high - clustered.low > 1.8 * (plain.high - plain.low)


def test_rare_outcomes_get_wilsons_interval() -> None:
    index = np.repeat(np.arange(20), 3)
    everything = proportion(np.ones(60), index, QUICK)
    assert (everything.low, everything.high) == wilson(1.0, 20, freedom=19)
    assert everything.method == "Wilson, effective size by clusters"
    hits = np.ones(60)
    hits[:2] = 0
    nearly = proportion(hits, index, QUICK)
    assert everything.low > nearly.low > 0.7
    assert nearly.high < 1


def test_proportion_refuses_what_is_none() -> None:
    with pytest.raises(DataError, match=r"lie in 0\.\.1"):
        proportion([0.5, 2])
    with pytest.raises(DataError, match="row 0 is nan"):
        proportion([np.nan])
    assert proportion([]).reason == "no items"
    assert cluster_mean([], []).reason == "no items"
    few = proportion([1, 0, 1], ["a", "b", "c"])
    assert few.value == pytest.approx(2 / 3)
    assert few.reason == "too few clusters (3, at least 5 are needed)"


def test_paired_differences_of_hits() -> None:
    rng = np.random.default_rng(0)
    index = np.repeat(np.arange(50), 4)
    hard = rng.random(200)  # what one method misses the other tends to miss too
    first, second = hard < 0.8, hard < 0.6
    found = cluster_mean(first.astype(float) - second, index, QUICK)
    assert found.value == pytest.approx(first.mean() - second.mean())
    assert found.p <= 0.05
    # Taken as unrelated, the two shares would leave their difference far less sure.
    alone = [proportion(hits, index, QUICK) for hits in (first, second)]
    unpaired = np.hypot(*(share.high - share.low for share in alone))
    assert found.high - found.low < 0.9 * unpaired


def test_mean_interval_on_any_statistic() -> None:
    values = np.random.default_rng(0).exponential(1, 80)
    sums = np.stack([np.ones(80), values], 1)
    found = studentised(sums, lambda s: s[..., 1] / s[..., 0] - 1.0, QUICK)
    assert found.low < values.mean() - 1.0 < found.high
    assert found.p > 0.05
