"""Where is purpose kept? Interchange accuracy through several subspaces of several sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from open_clip import CLIP
from torch import Tensor

from descscore.interventions import Rotation, Site, interchange, run_from_block, run_to_block
from descscore.training.examples import Examples
from descscore.training.losses import interchange_hits, interchange_logits
from descscore.training.plan import draw_sources

SEED = 0
RANDOM_ROTATIONS = 3
SUBSPACES = ("trained", "complement", "random", "full swap")


@dataclass(frozen=True)
class InterchangeRow:
    """Share of interchanges that move the logit the right way, 0..1; staying put is wrong.

    subspace: ``trained``, the first k trained coordinates; ``complement``, all others;
    ``random``, k coordinates of random rotations (mean over three); ``full swap``, the
    whole state, where k is the width. n: interchanges, every text once as base.
    """

    subspace: str
    k: int
    value: float
    n: int


def sizes(width: int) -> tuple[int, ...]:
    """The sizes that are reported: 1, 8, width / 8, width / 2, width."""
    return tuple(sorted({1, 8, width // 8, width // 2, width}))


@torch.no_grad()
def interchange_table(clip: CLIP, rotation: Tensor, block: int, examples: Examples) -> list[InterchangeRow]:
    """All rows for one model. rotation: R ``(width, width)``; block: of the site.

    Every text is once the base, its source a text of the other kind and of another
    image, drawn by a fixed seed, the same for every subspace.
    """
    width, texts = len(rotation), torch.arange(2 * len(examples))
    sources = draw_sources(texts, examples.owner, "other", torch.Generator().manual_seed(SEED))
    bench = _Bench(clip, examples, block, sources)
    rows = []
    for k in sizes(width):
        randoms = [Rotation(width, seed).matrix() for seed in range(RANDOM_ROTATIONS)]
        by_random = [bench.accuracy(matrix[:k]) for matrix in randoms]
        rows.append(InterchangeRow("trained", k, bench.accuracy(rotation[:k]), len(texts)))
        rows.append(InterchangeRow("complement", k, bench.accuracy(rotation[k:]), len(texts)))
        rows.append(InterchangeRow("random", k, sum(by_random) / len(by_random), len(texts)))
    rows.append(InterchangeRow("full swap", width, bench.accuracy(torch.eye(width)), len(texts)))
    return rows


def trained_accuracy(rows: list[InterchangeRow], site: Site) -> float:
    """The row of the trained subspace at the k it was trained with."""
    return next(row.value for row in rows if (row.subspace, row.k) == ("trained", site.k))


class _Bench:
    """All texts run to the site once; every subspace costs only the blocks after it."""

    def __init__(self, clip: CLIP, examples: Examples, block: int, sources: Tensor, batch: int = 128) -> None:
        self._clip, self._images, self._sources = clip, examples.images, sources
        self._runs = [run_to_block(clip, tokens, block) for tokens in torch.split(examples.tokens, batch)]
        self._states = torch.cat([run.state for run in self._runs])
        self._plain = torch.cat([run_from_block(clip, run) for run in self._runs])

    def accuracy(self, basis: Tensor) -> float:
        """basis: ``(m, width)`` orthonormal rows that span what is swapped; none swaps nothing."""
        new = interchange(self._states, self._states[self._sources], basis, len(basis))
        parts, lengths = [], [len(run.tokens) for run in self._runs]
        for run, state in zip(self._runs, torch.split(new, lengths), strict=True):
            rows = torch.arange(len(run.tokens))
            parts.append(run_from_block(self._clip, run.replaced(rows, state)))
        images = self._images[torch.arange(len(self._sources)) % len(self._images)]
        logits = interchange_logits(images, self._plain, torch.cat(parts), self._clip.logit_scale)
        hits = interchange_hits(logits, self._sources < len(self._images))
        return float(hits.double().mean())
