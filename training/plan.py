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
from descscore.training.windows import draw_windows, drop_tokens
from descscore.training.word_swap import WordSwap


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

    def to(self, device: torch.device) -> Batch:
        return Batch(self.pairs.to(device), self.base.to(device), self.source.to(device))


class EpochPlan:
    """The batches of one epoch.

    Published runs draw every interchange's two texts with replacement from the whole
    split. One pass through the split (``examples_per_epoch`` None) instead takes the
    sources from the batch's own texts: a step then runs no text that it does not
    train on, which halves its cost, and the other losses use the same texts.
    words: what to draw other words from, None to swap none.
    """

    def __init__(
        self, examples: Examples, config: FinetuneConfig, epoch: int, words: WordSwap | None = None
    ) -> None:
        rng = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
        n, owner, drawn = len(examples), examples.owner.cpu(), config.examples_per_epoch
        swaps = config.loss != "preference"
        self._with_pairs = config.loss != "interchange" or bool(
            config.contrastive_weight or config.hold_weight or config.spread_weight
        )
        self._sizes = (config.pairs_per_batch, config.batch_size)
        count = drawn if swaps and drawn else 2 * n
        self.steps = -(-count // config.batch_size)
        order = _repeat(torch.randperm(n, generator=rng), self.steps * config.pairs_per_batch)
        self._order, self._base, self._source = order, None, None
        if swaps and drawn:
            base = _repeat(torch.randint(2 * n, (drawn,), generator=rng), self.steps * config.batch_size)
            self._base, self._source = base, draw_sources(base, owner, config.source_image, rng)
        elif swaps:
            pairs = torch.split(order, config.pairs_per_batch)
            self._base = torch.cat([_both_texts(rows, n) for rows in pairs])
            sources = [_batch_sources(rows, owner, config.source_image, rng) for rows in pairs]
            self._source = torch.cat(sources)
        self.examples = _altered(examples, config, words, rng)

    def batch(self, step: int) -> Batch:
        """The batch of ``step``, 0-based within the epoch; the last is filled up from the epoch's start."""
        pairs, texts = self._sizes
        none = torch.empty(0, dtype=torch.int64)
        here = slice(step * texts, (step + 1) * texts)
        return Batch(
            self._order[step * pairs : (step + 1) * pairs] if self._with_pairs else none,
            none if self._base is None else self._base[here],
            none if self._source is None else self._source[here],
        )


def _altered(
    examples: Examples, config: FinetuneConfig, words: WordSwap | None, rng: torch.Generator
) -> Examples:
    """The examples with their texts as this epoch shows them."""
    tokens = examples.tokens
    if words is not None:
        tokens = words.draw(tokens, config.word_swap, rng)
    if config.text_window:
        tokens = draw_windows(tokens, config.text_window, rng)
    if config.token_dropout:
        tokens = drop_tokens(tokens, config.token_dropout, rng)
    return Examples(examples.images, examples.owner, tokens)


def _both_texts(rows: Tensor, n: int) -> Tensor:
    """Description and caption of each image, side by side, so that a part of a batch holds whole pairs."""
    return torch.stack([rows, rows + n], dim=1).flatten()


def _batch_sources(rows: Tensor, owner: Tensor, which: str, rng: torch.Generator) -> Tensor:
    """Sources for both texts of the images ``rows`` ``(p,)``, among the texts of the same batch -> ``(2p,)``.

    Where the batch shows one image only, they come from the whole split.
    """
    n, p, here = len(owner), len(rows), owner[rows]
    if which == "same" or len(torch.unique(here)) < 2:
        return draw_sources(_both_texts(rows, n), owner, which, rng)
    place = draw_sources(_both_texts(torch.arange(p), p), here, which, rng)
    return torch.where(place < p, rows[place % p], rows[place % p] + n)


def draw_sources(base: Tensor, owner: Tensor, which: str, rng: torch.Generator) -> Tensor:
    """A source text of the opposite kind for each base text: ``(m,)`` text rows -> ``(m,)``.

    which: ``same`` takes the base's own image (as published), ``other`` draws among
    all texts of other images. Raises :class:`DataError` where there is no other image.
    """
    n = len(owner)
    if which == "same":
        return (base + n) % (2 * n)
    if len(torch.unique(owner)) < 2:
        raise DataError("sources from other images need at least two different images")
    mine = owner[base % n]
    image = torch.randint(n, (len(base),), generator=rng)
    while (clash := owner[image] == mine).any():
        image[clash] = torch.randint(n, (int(clash.sum()),), generator=rng)
    return torch.where(base < n, image + n, image)


def _repeat(rows: Tensor, length: int) -> Tensor:
    return rows.repeat(-(-length // len(rows)))[:length]
