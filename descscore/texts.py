"""Tokenised texts: the policy for long ones, and the feature of a text from those of its windows.

:class:`descscore.tokenizer.Tokenizer` turns a string into a :class:`TokenizedText`: one or more windows of
token ids. :class:`TextWindows` finds the distinct windows of many texts, so that each runs once through the
model. Then it computes the features of whole texts from those of their windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from descscore.errors import UsageError

TextPolicy: TypeAlias = Literal["truncate", "error", "windows", "weighted-windows"]
"""What happens to a text over the context length.

``truncate`` cuts the text and keeps its end-of-text token. ``error`` raises a :class:`TextError`.
``windows`` groups whole sentences into windows that fit. The text's feature is the mean of its
windows' unit features, normalised to length 1. ``weighted-windows`` weights this mean by the number
of tokens, so that a short last window counts less.
"""

DEFAULT_POLICY: TextPolicy = "weighted-windows"
"""In cross-validation, the best of the policies that keep the whole text. ``truncate`` is less than a point
better (``docs/long_texts.json``)."""

WINDOWS = ("windows", "weighted-windows")
"""The policies that keep the whole text."""


@dataclass(frozen=True)
class TokenizedText:
    """One text as windows of tokens."""

    rows: tuple[tuple[int, ...], ...]
    """Token ids of each window, with start and end token. They are padded to the context length only for a
    text tower that reads the padding. Only the window policies give more than one window."""
    tokens: int
    """Length of the whole text, with start and end token."""
    truncated: bool
    """Whether ``rows`` lacks any token of the text."""
    weighted: bool = False
    """Whether a window's weight is its number of tokens; otherwise all windows have equal weights."""
    sizes: tuple[int, ...] | None = None
    """Number of tokens of each window, without start, end and padding; None where that is its length - 2."""

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each window; the weights add up to 1."""
        parts = [1] * len(self.rows)
        if self.weighted:
            parts = list(self.sizes or (len(row) - 2 for row in self.rows))
        total = sum(parts)
        if not total:  # an explanation has left out the only word
            return (1 / len(parts),) * len(parts)
        return tuple(part / total for part in parts)


def check_policy(policy: str) -> TextPolicy:
    """Return ``policy``; raises :class:`UsageError` with the choices for an unknown one."""
    if policy not in get_args(TextPolicy):
        raise UsageError(f"text policy {policy!r}: choose one of {', '.join(get_args(TextPolicy))}")
    return policy  # type: ignore[return-value]


def pad(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of token ids, padded with 0 to the longest: ``(n, longest)`` int64."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    padded = np.zeros((len(rows), int(lengths.max())), np.int64)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.fromiter(chain.from_iterable(rows), np.int64)
    return torch.from_numpy(padded)


def owner_means(values: Tensor, weight: Tensor, owner: Tensor, count: int) -> Tensor:
    """Weighted means of the rows of each owner, 0..count-1: ``(r, ...)`` -> ``(count, ...)``.

    An owner's weights add up to 1.
    """
    weighted = values * weight.to(values).view(-1, *[1] * (values.ndim - 1))
    return values.new_zeros(count, *values.shape[1:]).index_add(0, owner.to(values.device), weighted)


@dataclass(frozen=True)
class TextWindows:
    """The w windows of n texts, among which r token rows are distinct."""

    rows: list[tuple[int, ...]]
    """The r distinct rows."""
    row: Tensor
    """Each window's row: ``(w,)`` int64."""
    owner: Tensor
    """Each window's text: ``(w,)`` int64."""
    weight: Tensor
    """Each window's weight: ``(w,)`` float64; the weights of a text add up to 1."""

    @classmethod
    def of(cls, texts: Sequence[TokenizedText]) -> TextWindows:
        """The windows of ``texts``."""
        rows = list(dict.fromkeys(row for text in texts for row in text.rows))
        place = {row: i for i, row in enumerate(rows)}
        return cls(
            rows,
            torch.tensor([place[row] for text in texts for row in text.rows]),
            torch.tensor([i for i, text in enumerate(texts) for _ in text.rows]),
            torch.tensor([weight for text in texts for weight in text.weights], dtype=torch.float64),
        )

    def means(self, values: Tensor) -> Tensor:
        """Weighted means over each text's windows: ``(r, ...)`` -> ``(n, ...)``, of the same type."""
        by_window = values[self.row.to(values.device)]
        count = int(self.owner[-1]) + 1
        if count == len(self.owner):
            return by_window
        return owner_means(by_window, self.weight, self.owner, count)

    def features(self, unit: Tensor) -> Tensor:
        """Unit features of whole texts, from those of their windows: ``(r, d)`` -> ``(n, d)``."""
        if len(self.owner) == int(self.owner[-1]) + 1:
            return unit[self.row.to(unit.device)]
        return F.normalize(self.means(unit), dim=-1)


@dataclass(frozen=True)
class EncodedTexts:
    """n texts under the scoring model and under its base."""

    features: Tensor
    """Unit features under the scoring model: ``(n, embed_dim)``."""
    base_features: Tensor
    """Unit features under the base; the same tensor if the model is its own base."""
    norms: Tensor
    """Lengths of the scoring model's features before normalisation, ``(n,)``; means over windows."""
    texts: tuple[TokenizedText, ...]
    """The texts' tokens."""
    probabilities: Tensor | None = None
    """Probability that each text is a description, ``(n,)``, means over windows; None without a read-out."""
