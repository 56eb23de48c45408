"""Do the intervals hold what they promise? Simulations with items clustered by image.

``python -m reproduce.coverage --clusters 18 --clusters 100`` prints how often
a 95 % interval covers the truth and how often a metric that has nothing to do with the
ratings is called significant. It shows the two usual shortcuts too: a percentile
interval of the same resamples, and taking every item as independent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import click
import numpy as np
from scipy import stats

from descscore.eval.statistics.bootstrap import (
    Estimate,
    Resampling,
    cluster_difference,
    cluster_pearson,
    percentile_pearson,
)
from descscore.eval.statistics.correlation import Array
from descscore.eval.statistics.proportions import proportion


@dataclass(frozen=True)
class Design:
    """Simulated ratings: images with 3 to 5 texts each, as in Kreiss et al. 2022.

    clusters: images. r: the true correlation of metric and rating. shared: the part
    of the variance of each that all texts of an image share, 0..1.
    """

    clusters: int
    r: float = 0.0
    shared: float = 0.5


@dataclass(frozen=True)
class Coverage:
    """Shares of simulations, 0..1: an interval covers the truth; p calls the truth's null false.

    percentile, independent: coverage of the shortcuts. independent_rejected: how
    often the textbook p is at most 0.05. None where a shortcut does not apply.
    """

    name: str
    clusters: int
    coverage: float
    rejected: float
    percentile: float | None = None
    independent: float | None = None
    independent_rejected: float | None = None


def draw_clusters(clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Cluster of each item, ``(n,)``: 3 to 5 items a cluster."""
    return np.repeat(np.arange(clusters), rng.integers(3, 6, clusters))


def draw_normal(index: np.ndarray, shared: float, rng: np.random.Generator) -> Array:
    """Standard normal ``(n,)``; the part ``shared`` of its variance is the cluster's."""
    common = rng.standard_normal(index.max() + 1)[index]
    return np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.standard_normal(len(index))


def draw_pair(design: Design, rng: np.random.Generator) -> tuple[Array, Array, np.ndarray]:
    """A metric and ratings that correlate by ``design.r``, ``(n,)`` each, and the clusters ``(n,)``."""
    index = draw_clusters(design.clusters, rng)
    ratings = draw_normal(index, design.shared, rng)
    noise = draw_normal(index, design.shared, rng)
    return design.r * ratings + np.sqrt(1 - design.r**2) * noise, ratings, index


def correlation_coverage(design: Design, simulations: int, resampling: Resampling, seed: int = 0) -> Coverage:
    """Coverage of the interval of Pearson's r, and how often p against 0 is at most 0.05."""
    rng = np.random.default_rng(seed)
    hits = np.zeros((simulations, 5))
    for row, draws in zip(hits, _own_seeds(resampling, simulations), strict=True):
        metric, ratings, index = draw_pair(design, rng)
        estimate = cluster_pearson(metric, ratings, index, draws)
        plain = stats.pearsonr(metric, ratings)
        interval = plain.confidence_interval()
        row[:] = (
            _covers(estimate, design.r),
            _significant(estimate),
            _covers(percentile_pearson(metric, ratings, index, draws), design.r),
            interval.low <= design.r <= interval.high,
            plain.pvalue <= 0.05,
        )
    return Coverage(f"r, truth {design.r:.1f}", design.clusters, *hits.mean(0).tolist())


def difference_coverage(
    design: Design, other: float, simulations: int, resampling: Resampling, seed: int = 0
) -> Coverage:
    """The same for the difference of two metrics' r; the second metric's true r is ``other``."""
    rng = np.random.default_rng(seed)
    hits = np.zeros((simulations, 2))
    for row, draws in zip(hits, _own_seeds(resampling, simulations), strict=True):
        metric, ratings, index = draw_pair(design, rng)
        noise = draw_normal(index, design.shared, rng)
        second = other * ratings + np.sqrt(1 - other**2) * noise
        estimate = cluster_difference(metric, second, ratings, index, draws)
        row[:] = _covers(estimate, design.r - other), _significant(estimate)
    return Coverage(f"difference, truth {design.r - other:+.1f}", design.clusters, *hits.mean(0).tolist())


def proportion_coverage(
    share: float, clusters: int, simulations: int, resampling: Resampling, seed: int = 0
) -> Coverage:
    """The same for a proportion that varies between clusters (beta, mean ``share``), p against ``share``."""
    rng = np.random.default_rng(seed)
    hits = np.zeros((simulations, 2))
    for row, draws in zip(hits, _own_seeds(resampling, simulations), strict=True):
        index = draw_clusters(clusters, rng)
        won = rng.random(len(index)) < rng.beta(3 * share, 3 * (1 - share), clusters)[index]
        estimate = proportion(won, index, draws, null=share)
        row[:] = _covers(estimate, share), _significant(estimate)
    return Coverage(f"proportion, truth {share:.2f}", clusters, *hits.mean(0).tolist())


def _own_seeds(resampling: Resampling, simulations: int) -> list[Resampling]:
    """Other draws for each simulation, so that chance in one set of draws does not mark them all."""
    return [replace(resampling, seed=resampling.seed + i) for i in range(simulations)]


def _covers(estimate: Estimate, truth: float) -> bool:
    """Whether the interval holds the truth; one that is not defined does not."""
    return estimate.low is not None and estimate.high is not None and estimate.low <= truth <= estimate.high


def _significant(estimate: Estimate) -> bool:
    return estimate.p is not None and estimate.p <= 0.05


def _line(result: Coverage) -> str:
    shortcuts = (result.percentile, result.independent, result.independent_rejected)
    cells = [result.coverage, result.rejected, *shortcuts]
    shown = "".join(f"{'-':>12s}" if cell is None else f"{100 * cell:10.1f} %" for cell in cells)
    return f"{result.clusters:8d}  {result.name:22s}{shown}"


@click.command()
@click.option(
    "--clusters",
    type=click.IntRange(min=2),
    multiple=True,
    default=(18, 100),
    show_default=True,
    help="Images.",
)
@click.option(
    "--simulations", type=click.IntRange(min=1), default=2000, show_default=True, help="Data sets a line."
)
@click.option("--resamples", type=int, default=399, show_default=True, help="Bootstrap draws a data set.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def main(clusters: tuple[int, ...], simulations: int, resamples: int, seed: int) -> None:
    """Print coverage of 95 % intervals and false positives under data clustered by image."""
    resampling = Resampling(resamples, seed)
    click.echo(f"{simulations} simulations a line, {resamples} resamples; images share half of the variance.")
    click.echo("p <= 0.05 is a false positive where the truth is 0, and power elsewhere; a proportion's p is")
    click.echo(
        "against its truth. percentile, independent: coverage of the two shortcuts, and the latter's p."
    )
    heads = ("coverage", "p<=0.05", "percentile", "independent", "p<=0.05")
    click.echo(f"{'clusters':>8s}  {'':22s}" + "".join(f"{head:>12s}" for head in heads))
    for count in clusters:
        for r in (0.0, 0.5):
            click.echo(_line(correlation_coverage(Design(count, r), simulations, resampling, seed)))
        for r, other in ((0.3, 0.3), (0.6, 0.1)):
            click.echo(_line(difference_coverage(Design(count, r), other, simulations, resampling, seed)))
        for share in (0.5, 0.8, 0.95):
            click.echo(_line(proportion_coverage(share, count, simulations, resampling, seed)))


if __name__ == "__main__":
    main()
