"""Do the intervals hold what they promise? Simulated ratings of images with 3 to 5 texts each.

The textbook interval, which takes the texts of one image as independent, is compared beside ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from descscore.eval.statistics.bootstrap import Estimate, Resampling, cluster_difference, cluster_pearson
from descscore.eval.statistics.proportions import proportion


@dataclass(frozen=True)
class Simulated:
    """Shares of simulations, 0..1.

    Attributes:
        covered: the 95 % interval holds the truth.
        rejected: p is at most 0.05.
        independent_covered: as ``covered``, of the textbook interval.
        independent_rejected: as ``rejected``, of the textbook p.
    """

    covered: float
    rejected: float
    independent_covered: float = 0.0
    independent_rejected: float = 0.0


def draw_images(count: int, rng: np.random.Generator) -> np.ndarray:
    """The image of each text, ``(n,)``: 3 to 5 texts an image."""
    return np.repeat(np.arange(count), rng.integers(3, 6, count))


def draw_normal(image: np.ndarray, shared: float, rng: np.random.Generator) -> np.ndarray:
    """Standard normal ``(n,)``; all texts of an image share the part ``shared`` of its variance."""
    common = rng.standard_normal(image.max() + 1)[image]
    return np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.standard_normal(len(image))


def related(ratings: np.ndarray, r: float, noise: np.ndarray) -> np.ndarray:
    """A metric whose true correlation with the ratings is ``r``."""
    return r * ratings + np.sqrt(1 - r**2) * noise


def holds(estimate: Estimate, truth: float) -> bool:
    return estimate.low is not None and estimate.high is not None and estimate.low <= truth <= estimate.high


def significant(estimate: Estimate) -> bool:
    return estimate.p is not None and estimate.p <= 0.05


def simulate_correlation(
    images: int, r: float, times: int, resamples: int, shared: float = 0.5, seed: int = 0
) -> Simulated:
    rng, hits = np.random.default_rng(seed), np.zeros((times, 4))
    for i, row in enumerate(hits):
        image = draw_images(images, rng)
        ratings = draw_normal(image, shared, rng)
        metric = related(ratings, r, draw_normal(image, shared, rng))
        # Other draws each time, so that chance in one set of draws does not mark them all.
        ours = cluster_pearson(metric, ratings, image, Resampling(resamples, seed=i))
        textbook = stats.pearsonr(metric, ratings)
        interval = textbook.confidence_interval()
        row[:] = (
            holds(ours, r),
            significant(ours),
            interval.low <= r <= interval.high,
            textbook.pvalue <= 0.05,
        )
    return Simulated(*hits.mean(0).tolist())


def test_few_simulations_already_show_what_independent_items_would_hide() -> None:
    simulated = simulate_correlation(18, 0.0, 200, 99, shared=0.9)
    assert 0.9 <= simulated.covered <= 0.99, simulated
    assert simulated.independent_covered < simulated.covered
    assert simulated.independent_rejected > 0.2


@pytest.mark.long
def test_correlations_with_100_images() -> None:
    for r in (0.0, 0.5):
        simulated = simulate_correlation(100, r, 600, 199)
        assert 0.93 <= simulated.covered <= 0.97, simulated
    unrelated = simulate_correlation(100, 0.0, 600, 199, seed=1)
    assert 0.03 <= unrelated.rejected <= 0.07, unrelated
    # Texts taken as independent: the error that this bootstrap is there to avoid.
    assert unrelated.independent_rejected > 0.1


@pytest.mark.long
def test_correlations_with_18_images_as_in_the_published_ratings() -> None:
    for r in (0.0, 0.5):
        simulated = simulate_correlation(18, r, 1500, 199)
        assert 0.925 <= simulated.covered <= 0.975, simulated
        assert simulated.independent_covered < simulated.covered
    # A metric that is the same for all texts of an image: the hardest case of clustering.
    by_image = simulate_correlation(18, 0.0, 1000, 199, shared=0.9)
    assert 0.025 <= by_image.rejected <= 0.08, by_image
    assert by_image.independent_rejected > 0.2


@pytest.mark.long
def test_two_metrics_that_are_equally_good_seldom_differ_significantly() -> None:
    rng, rejected = np.random.default_rng(0), []
    for i in range(300):
        image = draw_images(100, rng)
        ratings = draw_normal(image, 0.5, rng)
        first, second = (related(ratings, 0.4, draw_normal(image, 0.5, rng)) for _ in range(2))
        rejected.append(
            significant(cluster_difference(first, second, ratings, image, Resampling(199, seed=i)))
        )
    assert 0.02 <= np.mean(rejected) <= 0.08


@pytest.mark.long
def test_a_share_that_varies_between_images_is_covered() -> None:
    rng, share, covered = np.random.default_rng(0), 0.7, []
    for i in range(400):
        image = draw_images(100, rng)
        won = rng.random(len(image)) < rng.beta(3 * share, 3 * (1 - share), 100)[image]
        estimate = proportion(won, image, Resampling(199, seed=i))
        covered.append(holds(estimate, share))
    assert 0.92 <= np.mean(covered) <= 0.98
