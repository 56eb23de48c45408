"""What a recipe leaves of the base: recall on photos whose captions nothing is tuned on or tuned for.

Flickr8k's validation split. Its captions are plain sentences, far from a textbook's, so a
text tower that has come to like some words for their own sake loses recall on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from open_clip import CLIP
from torch import Tensor

from descscore.eval.transfer.benchmarks import read_flickr8k
from descscore.eval.transfer.image_features import image_features
from descscore.eval.transfer.retrieval import recall_at_k
from descscore.models import LoadedModel
from descscore.scorer import DescScorer
from descscore.texts import token_rows
from descscore.training.text_run import unit_features

K = 10


@dataclass(frozen=True)
class Gallery:
    """images: ``(n, embed_dim)`` unit features. tokens: ``(m, longest)`` padded with 0. owner:
    ``(m,)`` ints, the image that each text belongs to."""

    images: Tensor
    tokens: Tensor
    owner: Tensor


def read_gallery(model: LoadedModel, data: Path) -> Gallery:
    """Flickr8k's ``val`` in the data folder. Raises :class:`DataError` for a missing file."""
    found = read_flickr8k(data, "val")
    images = image_features(DescScorer(model), found.images)
    return Gallery(images, token_rows(model.tokenizer, found.texts), torch.tensor(list(found.owner)))


@torch.no_grad()
def recall(clip: CLIP, gallery: Gallery) -> dict[str, float]:
    """Recall at 10 in 0..1, by the way it goes: ``recall_image_to_text``, ``recall_text_to_image``."""
    found = recall_at_k(gallery.images, unit_features(clip, gallery.tokens), gallery.owner, (K,))
    return {f"recall_{way.removesuffix(f'@{K}')}": value for way, value in found.items()}
