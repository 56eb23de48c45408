"""What the purpose subspace of a model holds: interchange accuracy by its size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
import torch
from open_clip import CLIP
from torch import Tensor

from descscore.eval.statistics.correlation import Array
from descscore.eval.statistics.proportions import proportion
from descscore.interchange import Rotation, interchange
from descscore.purpose import Site
from descscore.towers.text import run_from_block, run_to_block
from descscore.training.data import Examples, draw_sources
from descscore.training.losses import interchange_hits, pair_logits
from descscore.training.readout import order_rotation

SEED = 0
RANDOM_ROTATIONS = 12


@dataclass(frozen=True)
class InterchangeRow:
    """Share of interchanges that move the logit the right way; leaving the text as it is counts as wrong."""

    subspace: str
    """What is swapped: ``trained``, the first k coordinates; ``beyond the first``, these without the first;
    ``complement``, all others; ``random``, k coordinates of random rotations; ``found``, the first k
    coordinates of :func:`mean_difference_rotation`; ``full swap``, the whole state, where k is the width."""
    k: int
    value: float
    """0 to 1; of random rotations the mean over :data:`RANDOM_ROTATIONS` draws."""
    n: int
    """Number of interchanges: every text once as base."""
    low: float | None = None
    """Lower end of the 95 % interval over whole images; None without one."""
    high: float | None = None
    """Its upper end."""
    spread: float | None = None
    """Standard deviation over the draws of random rotations; None for other subspaces."""


def sizes(width: int) -> tuple[int, ...]:
    """The sizes that are reported: 1, 8, width / 8, width / 2, width."""
    return tuple(sorted({1, 8, width // 8, width // 2, width}))


def interchange_table(swaps: Swaps, rotation: Tensor) -> list[InterchangeRow]:
    """All rows of a trained rotation R ``(width, width)``."""
    width = len(rotation)
    randoms = [Rotation(width, seed).matrix().detach() for seed in range(RANDOM_ROTATIONS)]
    rows = []
    for k in sizes(width):
        rows.append(swaps.row("trained", k, rotation[:k]))
        rows.append(swaps.row("beyond the first", k, rotation[1:k]))
        rows.append(swaps.row("complement", k, rotation[k:]))
        draws = [float(swaps.hits(matrix[:k]).mean()) for matrix in randoms]
        rows.append(InterchangeRow("random", k, mean(draws), len(swaps), spread=stdev(draws)))
    return rows


def fold_rows(towers: Iterable[tuple[CLIP, Tensor, Examples]], site: Site) -> list[InterchangeRow]:
    """Rows over the held-out texts of all folds, each swapped in the tower that has not seen them.

    towers: for each fold its tower, its ordered rotation, and the pairs that it has not seen.
    """
    hits: dict[tuple[str, int], list[Array]] = {}
    owners: list[Array] = []
    for clip, rotation, held in towers:
        swaps = Swaps(clip, held, site.block)
        owners.append(swaps.owner)  # image numbers of the whole split
        bases = {
            ("trained", site.k): rotation[: site.k],
            ("trained", 1): rotation[:1],
            ("beyond the first", site.k): rotation[1 : site.k],
            ("full swap", len(rotation)): torch.eye(len(rotation)),
        }
        for name, basis in bases.items():
            hits.setdefault(name, []).append(swaps.hits(basis))
    owner = np.concatenate(owners)
    return [_row(subspace, k, np.concatenate(parts), owner) for (subspace, k), parts in hits.items()]


def mean_difference_rotation(clip: CLIP, block: int, examples: Examples) -> Tensor:
    """A rotation that is found in a tower as it is, without training: R ``(width, width)``.

    The first coordinate is the mean difference between the states of an image's description and caption
    after ``block``, the others are the principal axes of what is left of the differences.
    """
    width = clip.transformer.width
    return order_rotation(clip, torch.eye(width), Site(block, width), examples)


class Swaps:
    """Every text of the examples as base, with a source of the other kind and of another image.

    A fixed seed draws the sources, the same for every subspace. All texts run to the site once; a subspace
    costs only the blocks after it.
    """

    @torch.no_grad()
    def __init__(self, clip: CLIP, examples: Examples, block: int) -> None:
        texts = torch.arange(2 * len(examples))
        self._clip, self._images = clip, examples.images
        self.owner: Array = examples.owner.repeat(2).numpy()
        self._sources = draw_sources(texts, examples.owner, "other", torch.Generator().manual_seed(SEED))
        self._runs = [run_to_block(clip, tokens, block) for tokens in torch.split(examples.tokens, 128)]
        self._states = torch.cat([run.state for run in self._runs])
        self._plain = torch.cat([run_from_block(clip, run) for run in self._runs])

    def __len__(self) -> int:
        return len(self._sources)

    def row(self, subspace: str, k: int, basis: Tensor) -> InterchangeRow:
        """Accuracy with its interval. basis: as :meth:`hits` takes it."""
        return _row(subspace, k, self.hits(basis), self.owner)

    @torch.no_grad()
    def hits(self, basis: Tensor) -> Array:
        """Which swaps move the logit the right way, ``(texts,)`` of 0 and 1.

        basis: ``(m, width)`` orthonormal rows that span the swapped part; no rows swap nothing.
        """
        new = interchange(self._states, self._states[self._sources], basis, len(basis))
        parts, lengths = [], [len(run.tokens) for run in self._runs]
        for run, state in zip(self._runs, torch.split(new, lengths), strict=True):
            rows = torch.arange(len(run.tokens))
            parts.append(run_from_block(self._clip, run.replaced(rows, state)))
        images = self._images[torch.arange(len(self._sources)) % len(self._images)]
        logits = pair_logits(images, self._plain, torch.cat(parts), self._clip.logit_scale)
        right: Array = interchange_hits(logits, self._sources < len(self._images)).double().numpy()
        return right


def _row(subspace: str, k: int, hits: Array, owner: Array) -> InterchangeRow:
    share = proportion(hits, owner)
    return InterchangeRow(subspace, k, float(hits.mean()), len(hits), share.low, share.high)
