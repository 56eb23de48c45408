"""Cross-modal retrieval: recall at k, both ways."""

from __future__ import annotations

import torch
from torch import Tensor

from descscore.errors import DataError


def recall_at_k(
    images: Tensor, texts: Tensor, owner: Tensor, ks: tuple[int, ...] = (1, 5, 10)
) -> dict[str, float]:
    """Recall at each k, in 0..1, as is usual for Flickr8k and COCO.

    images: ``(n, d)`` and texts: ``(m, d)`` unit features; ``owner[j]``: the image
    of text ``j``. Image to text counts an image when any of its texts is among the
    k nearest. A text that ties with the right one counts as ranked before it, so
    that constant features get no credit. Raises :class:`DataError` for features
    that are not finite: no comparison with them holds, so they would rank first.
    """
    similarity = images @ texts.T
    if not torch.isfinite(similarity).all():
        raise DataError("recall: some features are not finite")
    own = owner[None, :] == torch.arange(len(images), device=owner.device)[:, None]
    best = similarity.masked_fill(~own, -torch.inf).amax(1)
    text_rank = ((similarity >= best[:, None]) & ~own).sum(1)
    right = similarity.gather(0, owner[None, :])[0]
    image_rank = (similarity >= right[None, :]).sum(0) - 1
    out = {f"image_to_text@{k}": float((text_rank < k).double().mean()) for k in ks}
    return out | {f"text_to_image@{k}": float((image_rank < k).double().mean()) for k in ks}
