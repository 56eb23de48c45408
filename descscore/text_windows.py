"""Texts in several windows: each distinct window runs once, and windows become whole texts again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from descscore.texts import TokenizedText


@dataclass(frozen=True)
class TextWindows:
    """n texts made of w windows over r distinct token rows.

    rows: the r distinct rows. row, owner: ``(w,)`` each window's row and text. weight:
    ``(w,)`` what it counts; a text's weights add up to 1.
    """

    rows: list[tuple[int, ...]]
    row: Tensor
    owner: Tensor
    weight: Tensor

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
        """Weighted means over each text's windows: ``(r, ...)`` -> ``(n, ...)``, in the values' type."""
        found = values[self.row.to(values.device)]
        n = int(self.owner[-1]) + 1
        if n == len(self.owner):
            return found
        weight = self.weight.to(found).view(-1, *[1] * (found.ndim - 1))
        return found.new_zeros(n, *found.shape[1:]).index_add(0, self.owner.to(found.device), found * weight)

    def features(self, unit: Tensor) -> Tensor:
        """Unit features of whole texts: the unit mean of their windows' ones, ``(r, d)`` -> ``(n, d)``."""
        if len(self.owner) == int(self.owner[-1]) + 1:
            return unit[self.row.to(unit.device)]
        return F.normalize(self.means(unit), dim=-1)
