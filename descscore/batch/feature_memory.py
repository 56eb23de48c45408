"""Features of images seen before, in one block of memory.

Each by itself would be a small block among the large ones that come and go with every batch; thousands of
them, ever new, keep the heap from closing its gaps, and a long stream's memory grows though no more is held.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, TypeAlias

import numpy as np

Feature: TypeAlias = "np.ndarray[Any, Any]"


class FeatureMemory:
    """Features ``(d,)`` float32 by content, of the ``limit`` contents used last."""

    def __init__(self, limit: int) -> None:
        self._rows: OrderedDict[bytes, int] = OrderedDict()
        self._limit = limit
        self._table: np.ndarray[Any, Any] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, digest: bytes) -> Feature | None:
        """A copy of the feature of that content, None where it is not known any more."""
        row = self._rows.get(digest)
        if row is None or self._table is None:
            return None
        self._rows.move_to_end(digest)
        feature: Feature = self._table[row].copy()
        return feature

    def keep(self, digest: bytes, feature: Feature) -> None:
        """Remember a feature, in place of that used longest ago where there is no room."""
        if self._table is None:
            self._table = np.empty((self._limit, len(feature)), np.float32)
        row = self._rows.pop(digest, None)
        if row is None:
            row = len(self._rows) if len(self._rows) < self._limit else self._rows.popitem(last=False)[1]
        self._rows[digest] = row
        self._table[row] = feature
