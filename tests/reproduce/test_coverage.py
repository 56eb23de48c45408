"""Do the intervals hold what they promise? Simulations with items clustered by image."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from descscore.eval.statistics.bootstrap import Resampling
from reproduce import coverage
from reproduce.coverage import Design


def test_few_simulations_already_show_what_independent_items_would_hide() -> None:
    found = coverage.correlation_coverage(Design(18, 0.0, shared=0.9), 200, Resampling(resamples=99))
    assert 0.9 <= found.coverage <= 0.99, found
    assert found.independent < found.coverage
    assert found.independent_rejected > 0.2


@pytest.mark.long
def test_coverage_and_false_positives_at_100_clusters() -> None:
    draws = Resampling(resamples=199)
    for r in (0.0, 0.5):
        found = coverage.correlation_coverage(Design(100, r), 600, draws)
        assert 0.93 <= found.coverage <= 0.97, found
    unrelated = coverage.correlation_coverage(Design(100, 0.0), 600, draws, seed=1)
    assert 0.03 <= unrelated.rejected <= 0.07, unrelated
    # Items taken as independent: the error that this bootstrap is there to avoid.
    assert unrelated.independent_rejected > 0.1
    same = coverage.difference_coverage(Design(100, 0.4), 0.4, 300, draws)
    assert 0.02 <= same.rejected <= 0.08, same
    share = coverage.proportion_coverage(0.7, 100, 400, draws)
    assert 0.92 <= share.coverage <= 0.98, share


@pytest.mark.long
def test_coverage_at_18_clusters_is_near_and_better_than_the_shortcuts() -> None:
    draws = Resampling(resamples=199)
    for r in (0.0, 0.5):
        found = coverage.correlation_coverage(Design(18, r), 1500, draws)
        assert 0.925 <= found.coverage <= 0.975, found
        assert found.percentile < found.coverage
        assert found.independent < found.coverage
    # A metric that is the same for all texts of an image: the hardest case of clustering.
    by_image = coverage.correlation_coverage(Design(18, 0.0, shared=0.9), 1000, draws)
    assert 0.025 <= by_image.rejected <= 0.08, by_image
    assert by_image.independent_rejected > 0.2


def test_coverage_command_prints_its_numbers() -> None:
    result = CliRunner().invoke(
        coverage.main, ["--clusters", "10", "--simulations", "20", "--resamples", "99"]
    )
    assert result.exit_code == 0
    assert "r, truth 0.5" in result.output
    assert "proportion, truth 0.95" in result.output
