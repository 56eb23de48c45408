"""Retrieval (recall at k, both ways) and grounding: does a text score higher with its own photo?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from descscore.errors import DataError

OTHERS = 20
"""Other images, or their texts, that grounding compares with where it does not compare with all."""


def count_others(owner: np.ndarray, most: int = OTHERS) -> int:
    """How many rows of other images each row can be compared with: ``most``, or fewer if some have fewer.

    owner: ``(n,)``, which image each row shows.
    """
    return min(most, len(owner) - int(np.unique(owner, return_counts=True)[1].max()))


def pick_others(owner: np.ndarray, count: int = OTHERS, seed: int = 0) -> np.ndarray:
    """For each row of ``owner``, :func:`count_others` rows of other images, without repeats: ``(n, k)``."""
    rng, count = np.random.default_rng(seed), count_others(owner, count)
    others = (np.flatnonzero(owner != mine) for mine in owner)
    return np.stack([rows[rng.permutation(len(rows))[:count]] for rows in others])


def wins_over_others(own: Tensor, others: Tensor) -> Tensor:
    """Share of the other photos that each text's own photo beats: ``(n,)``, ``(n, k)`` -> ``(n,)``.

    A tie is not a win.
    """
    return (own[:, None] > others).double().mean(1)


def grounding_by_photo(similarity: Tensor, photo_of: Tensor) -> Tensor:
    """Wins of each text over *all* other photos: ``(texts, photos)`` cosines -> ``(texts,)``."""
    own = similarity.gather(1, photo_of[:, None])
    return (own > similarity).double().sum(1) / (similarity.shape[1] - 1)


def grounding_sampled(
    images: Tensor, texts: Tensor, owner: np.ndarray | None = None, count: int = OTHERS, seed: int = 0
) -> Tensor:
    """Wins of text ``i`` over ``count`` random other images: unit features ``(n, d)`` each -> ``(n,)``.

    owner: as for :func:`grounding_over_texts`.
    """
    return grounding_over_texts(texts, images, owner, count=count, seed=seed)


def grounding_over_texts(
    images: Tensor,
    texts: Tensor,
    owner: np.ndarray | None = None,
    own: Tensor | None = None,
    count: int = OTHERS,
    seed: int = 0,
) -> Tensor:
    """Wins of image ``i``'s own text over those of ``count`` random others: ``(n, d)`` each -> ``(n,)``.

    A text tower that gives some texts a high cosine with every image loses here. In
    :func:`grounding_sampled`, where the text stays the same, it loses nothing.

    Args:
        images: Unit features of an image for each row.
        texts: Unit features of the rows' texts.
        owner: ``(n,)``, which image each row shows: right texts of one image are no rivals. None where each
            row shows an image of its own.
        own: The rows' texts of another kind, such as captions, ``(n, d)``; None for ``texts``.
        count: How many others; fewer if there are not so many (:func:`count_others`).
        seed: Of the choice of others.
    """
    owner = np.arange(len(images)) if owner is None else owner
    others = torch.from_numpy(pick_others(owner, count, seed)).to(images.device)
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
