"""The distinct prefixes of a batch of token rows.

In a causal tower the state at a position depends on the tokens up to it and on nothing
else, so rows that begin alike have the same states as far as they are alike: all share
the start token, many captions "A man in". Each distinct prefix is run once, and padding,
which is in no prefix of a row, never.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Prefixes:
    """m distinct prefixes of n rows, the longest of which has ``longest`` tokens; all int64.

    tokens, positions: ``(m,)``, a prefix's last token and where it stands. places: ``(n,
    longest)``, the prefix that ends at each place of each row (after a row's end, any number
    below m). first: ``(m,)``, where in ``places`` flattened each prefix comes first. ends:
    ``(n,)``, the prefixes that are whole rows. lengths: ``(n,)``, tokens of each row. The rows
    stand in an order of their own; ``back``: ``(n,)``, where each row of the input is in it.
    """

    tokens: Tensor
    positions: Tensor
    places: Tensor
    first: Tensor
    ends: Tensor
    lengths: Tensor
    back: Tensor

    def to(self, device: torch.device) -> Prefixes:
        """The same on another device."""
        return Prefixes(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def find_prefixes(tokens: Tensor, lengths: Tensor) -> Prefixes:
    """The prefixes of rows on the CPU: tokens ``(n, columns)``, of which ``lengths`` ``(n,)`` count.

    Rows are sorted, so that those that share a prefix stand together: a prefix is new
    where a row differs from the one before it.
    """
    longest = int(lengths.max())
    inside = np.arange(longest) < lengths.numpy()[:, None]
    rows = np.where(inside, tokens.numpy()[:, :longest], -1)
    order = np.lexsort(rows.T[::-1])
    rows, inside = rows[order], inside[order]
    differs = np.ones_like(inside)
    differs[1:] = np.logical_or.accumulate(rows[1:] != rows[:-1], axis=1)
    new = differs & inside
    numbers = np.where(new, np.cumsum(new).reshape(new.shape) - 1, 0)
    # Numbers grow from row to row, so the largest so far is the one that the row above has.
    places = np.maximum.accumulate(numbers, axis=0)
    return _as_tensors(rows, places, np.flatnonzero(new), order, inside.sum(axis=1))


def _as_tensors(rows: Any, places: Any, first: Any, order: Any, lengths: Any) -> Prefixes:
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    ends = places[np.arange(len(places)), lengths - 1]
    arrays = (rows.reshape(-1)[first], first % rows.shape[1], places, first, ends, lengths, back)
    return Prefixes(*(torch.from_numpy(np.ascontiguousarray(array, np.int64)) for array in arrays))
