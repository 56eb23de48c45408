"""Which texts meet at each step of an epoch, drawn from the seed, the epoch and nothing else.

Every epoch has an order of its own, and no state is carried from step to step, so a
run that goes on from a checkpoint sees what an undisturbed one would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from descscore.errors import DataError
from descscore.training.config import FinetuneConfig
from descscore.training.examples import Examples


@dataclass(frozen=True)
class Batch:
    """Row numbers into :class:`Examples`.

    pairs: ``(p,)`` image rows, for the losses on whole pairs. base, source:
    ``(m,)`` text rows each, of opposite kinds, for the interchanges.
    """

    pairs: Tensor
    base: Tensor
    source: Tensor

    def part(self, index: int, count: int) -> Batch:
        """The ``index``-th of ``count`` equal parts, for accumulation or for one of several processes."""
        return Batch(*(rows.chunk(count)[index] for rows in (self.pairs, self.base, self.source)))


class EpochPlan:
    """The batches of one epoch."""

    def __init__(self, examples: Examples, config: FinetuneConfig, epoch: int) -> None:
        rng = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
        n, owner = len(examples), examples.owner.cpu()
        self._interchanges = config.loss != "preference"
        self._pairs = config.loss != "interchange" or bool(config.contrastive_weight or config.hold_weight)
        self._sizes = (config.pairs_per_batch, config.batch_size)
        if self._interchanges:
            drawn = config.examples_per_epoch
            base = (
                torch.randint(2 * n, (drawn,), generator=rng)
                if drawn
                else torch.randperm(2 * n, generator=rng)
            )
            source = draw_sources(base, owner, config.source_image, rng)
            self.steps = -(-len(base) // config.batch_size)
            self._base, self._source = (
                _repeat(rows, self.steps * config.batch_size) for rows in (base, source)
            )
        else:
            self.steps = -(-n // config.pairs_per_batch)
        order = torch.randperm(n, generator=rng)
        self._order = _repeat(order, self.steps * config.pairs_per_batch)

    def batch(self, step: int) -> Batch:
        """The batch of ``step``, 0-based within the epoch; the last is filled up from the epoch's start."""
        pairs, texts = self._sizes
        none = torch.empty(0, dtype=torch.int64)
        return Batch(
            self._order[step * pairs : (step + 1) * pairs] if self._pairs else none,
            self._base[step * texts : (step + 1) * texts] if self._interchanges else none,
            self._source[step * texts : (step + 1) * texts] if self._interchanges else none,
        )


def draw_sources(base: Tensor, owner: Tensor, which: str, rng: torch.Generator) -> Tensor:
    """A source text of the opposite kind for each base text: ``(m,)`` text rows -> ``(m,)``.

    which: ``same`` takes the base's own image (as published), ``other`` draws among
    all texts of other images. Raises :class:`DataError` where there is no other image.
    """
    n = len(owner)
    if which == "same":
        return (base + n) % (2 * n)
    if len(owner.unique()) < 2:
        raise DataError("sources from other images need at least two different images")
    mine = owner[base % n]
    image = torch.randint(n, (len(base),), generator=rng)
    while (clash := owner[image] == mine).any():
        image[clash] = torch.randint(n, (int(clash.sum()),), generator=rng)
    return torch.where(base < n, image + n, image)


def _repeat(rows: Tensor, length: int) -> Tensor:
    return rows.repeat(-(-length // len(rows)))[:length]
