"""Contrastive losses between images and texts with soft targets from a sentence encoder.

With a few thousand images, other texts of a batch often fit an image nearly as
well as its own; soft targets give them the share that the sentence encoder says.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def soft_targets(own: Tensor, similarity: Tensor, share: float, temperature: float) -> Tensor:
    """Mix the known matches with those a sentence encoder sees; rows sum to 1.

    own: ``(n, m)`` 0/1, the known matches (at least one a row).
    similarity: ``(n, m)`` cosines of the sentence encoder.
    """
    hard = own / own.sum(1, keepdim=True)
    return (1 - share) * hard + share * F.softmax(similarity / temperature, dim=1)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of the cross-entropy against target distributions: ``(n, m)`` twice -> ``()``."""
    return -(targets * F.log_softmax(logits.float(), dim=1)).sum(1).mean()


def mix_rows(targets: Tensor, partner: Tensor, kept: float) -> Tensor:
    """Targets of images of which a share ``1 - kept`` shows their partner (CutMix)."""
    return kept * targets + (1 - kept) * targets[partner]


def follow(student: Tensor, teacher: Tensor) -> Tensor:
    """How far unit text features are from where the teacher puts them: mean of 1 - cosine."""
    return (1 - (student * teacher).sum(1)).mean()
