"""Cosines of many pairs made of few images and few texts: each is encoded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from descscore.eval.statistics.correlation import Array
from descscore.images import ImageSource, load_image
from descscore.scorer import DescScorer


def pair_cosines(
    scorer: DescScorer,
    images: Mapping[str, ImageSource],
    texts: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
) -> Array:
    """Raw cosines, -1..1, of pairs of image key and text key: ``(n,)`` in the order given.

    Raises :class:`descscore.errors.InputError` where an image or text cannot be scored.
    """
    names, size = list(images), scorer.encoder.batch_size
    batches = [names[start : start + size] for start in range(0, len(names), size)]
    left = torch.cat([scorer.encoder.images([load_image(images[name]) for name in part]) for part in batches])
    right = scorer.encoder.texts(list(texts.values()), scorer.text_policy).features
    row, column = {name: i for i, name in enumerate(names)}, {key: i for i, key in enumerate(texts)}
    similarity = (left.double() @ right.double().T).clamp(-1, 1)
    picked = similarity[[row[image] for image, _ in pairs], [column[text] for _, text in pairs]]
    return picked.cpu().numpy()
