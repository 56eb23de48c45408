"""Image pairs with made-up features and tokens, for tests of training."""

from __future__ import annotations

import torch

from descscore.training.data import Examples


def examples(n: int = 24) -> Examples:
    """Descriptions say "a", captions "b", whatever the picture. As in real towers, pictures have a mean."""
    rng = torch.Generator().manual_seed(0)
    images = torch.nn.functional.normalize(1 + torch.randn(n, 16, generator=rng), dim=1)
    tokens = torch.randint(500, 40000, (2 * n, 7), generator=rng)
    tokens[:n, 2], tokens[n:, 2] = 320, 321
    tokens[:, 0], tokens[:, -1] = 49406, 49407
    return Examples(images, torch.arange(n), tokens)
