"""Retrieval (recall at k, both ways) and grounding: does a text score higher with its own photo?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from descscore.errors import DataError


def pick_others(n: int, count: int, seed: int) -> np.ndarray:
    """``(n, count)`` indices of other images for each of ``n``, without repeats, by a fixed seed."""
    rng = np.random.default_rng(seed)
    return np.stack([np.delete(np.arange(n), i)[rng.permutation(n - 1)[:count]] for i in range(n)])


def wins_over_others(own: Tensor, others: Tensor) -> Tensor:
    """Share of the other photos that each text's own photo beats: ``(n,)``, ``(n, k)`` -> ``(n,)``.

    A tie is not a win.
    """
    return (own[:, None] > others).double().mean(1)


def grounding_by_photo(similarity: Tensor, photo_of: Tensor) -> Tensor:
    """Wins of each text over *all* other photos: ``(texts, photos)`` cosines -> ``(texts,)``."""
    own = similarity.gather(1, photo_of[:, None])
    return (own > similarity).double().sum(1) / (similarity.shape[1] - 1)


def grounding_sampled(images: Tensor, texts: Tensor, count: int, seed: int) -> Tensor:
    """Wins of text ``i`` over ``count`` random other images: unit features ``(n, d)`` each -> ``(n,)``."""
    return grounding_over_texts(texts, images, count, seed)


def grounding_over_texts(
    images: Tensor, texts: Tensor, count: int, seed: int, own: Tensor | None = None
) -> Tensor:
    """Wins of image ``i``'s own text over those of ``count`` random others: ``(n, d)`` each -> ``(n,)``.

    A text tower that gives some texts a high cosine with every image loses here. In
    :func:`grounding_sampled`, where the text stays the same, it loses nothing.

    own: The images' own texts of another kind, such as captions, ``(n, d)``; None for ``texts``.
    """
    count = min(count, len(images) - 1)
    others = torch.from_numpy(pick_others(len(images), count, seed)).to(images.device)
    similarity = images @ texts.T
    mine = similarity if own is None else images @ own.T
    return wins_over_others(mine.diagonal(), similarity.gather(1, others))


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
