"""Pictures that take no decoding, to see how fast everything else is."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import numpy as np

from descscore.batch.decoder import content_digest
from descscore.preprocess import PixelSpec

DECODE = f"{__name__}:blank"
"""For :class:`descscore.batch.stream.StreamOptions`."""


def blank(source: str | bytes, spec: PixelSpec) -> tuple[np.ndarray[Any, Any], bytes]:
    """A black picture, of a content of its own for each ``source``; nothing is read."""
    return _black(spec), content_digest(os.fsencode(source))


@lru_cache(maxsize=1)
def _black(spec: PixelSpec) -> np.ndarray[Any, Any]:
    return np.zeros((spec.height, spec.width, 3), np.uint8)
