"""Image features of a measuring set, a batch decoded at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from descscore.images import ImageSource, load_image
from descscore.scorer import DescScorer


def image_features(scorer: DescScorer, images: Sequence[ImageSource]) -> Tensor:
    """Unit features ``(n, d)`` in order; decoded pictures never all lie in memory."""
    size = scorer.encoder.batch_size
    parts = [images[i : i + size] for i in range(0, len(images), size)]
    return torch.cat([scorer.encoder.images([load_image(image) for image in part]) for part in parts])
