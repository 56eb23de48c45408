"""The batch of each pretraining step: augmented images, their texts, and further negatives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from reproduce.pretraining import data as teacher
from reproduce.pretraining.augment import FIGURE, OBJECT, PHOTO, Augment, augment
from reproduce.pretraining.data import (
    OBJECT_TEMPLATES,
    ObjectSet,
    PieceSet,
    load_figures,
    load_objects,
    load_photos,
    vocabulary_words,
)
from reproduce.pretraining.model import PretrainConfig, Stage


@dataclass(frozen=True)
class Corpus:
    """Training images, and the sentence embeddings of every text piece."""

    photos: PieceSet
    figures: PieceSet
    objects: ObjectSet
    words: list[str]
    photo_vectors: Tensor
    figure_vectors: Tensor
    name_vectors: Tensor
    word_vectors: Tensor


@dataclass(frozen=True)
class TextBatch:
    """Texts of one step: ``tokens`` ``(m, length)`` and their sentence embeddings ``(m, 384)``."""

    tokens: Tensor
    vectors: Tensor


@dataclass(frozen=True)
class Batch:
    """One step's input: ``m`` texts for ``n`` images, ``own`` ``(n, m)`` telling which belong together."""

    pixels: Tensor
    image_vectors: Tensor
    own: Tensor
    texts: TextBatch
    words: TextBatch
    bank: Tensor


def load_corpus(data: Path, cache: Path, device: str) -> Corpus:
    photos, figures, objects = load_photos(data), load_figures(data), load_objects(data)
    words = vocabulary_words(open_clip.get_tokenizer("ViT-B-32"))
    return Corpus(
        photos,
        figures,
        objects,
        words,
        teacher.embed(photos.texts, device, cache),
        teacher.embed(figures.texts, device, cache),
        teacher.embed([f"a photo of a {name}" for name in objects.names], device, cache),
        teacher.embed(words, device, cache),
    )


class Sampler:
    """Draws the batch of a given step; the same step always gives the same batch."""

    def __init__(self, corpus: Corpus, config: PretrainConfig, device: str) -> None:
        self.corpus, self.config, self.device = corpus, config, device
        self.tokenizer = open_clip.get_tokenizer("ViT-B-32", context_length=config.max_tokens)
        pre = config.model["preprocess_cfg"]
        self.mean = torch.tensor(pre["mean"], device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(pre["std"], device=device).view(1, 3, 1, 1)

    def batch(self, step: int, stage: Stage) -> Batch:
        config, corpus = self.config, self.corpus
        rng = np.random.default_rng((config.seed, step))
        torch_rng = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        photo = rng.choice(len(corpus.photos.images), config.photos, replace=False)
        figure = rng.choice(len(corpus.figures.images), config.figures, replace=False)
        thing = rng.choice(len(corpus.objects.images), config.objects, replace=False)
        pixels = torch.cat(
            [
                self._pixels(corpus.photos.images, photo, PHOTO, stage, torch_rng),
                self._pixels(corpus.figures.images, figure, FIGURE, stage, torch_rng),
                self._pixels(corpus.objects.images, thing, OBJECT, stage, torch_rng),
            ]
        )
        photo_texts = [self._piece(corpus.photos, corpus.photo_vectors, i, rng) for i in photo]
        figure_texts = [self._piece(corpus.figures, corpus.figure_vectors, i, rng) for i in figure]
        labels = corpus.objects.labels[thing]
        classes, column = torch.unique(labels, return_inverse=True)
        templates = rng.choice(OBJECT_TEMPLATES, len(classes))
        prompts = [t.format(corpus.objects.names[c]) for t, c in zip(templates, classes, strict=True)]
        pieces = photo_texts + figure_texts
        own = torch.zeros(len(pixels), len(pieces) + len(prompts))
        own[torch.arange(len(pieces)), torch.arange(len(pieces))] = 1
        own[torch.arange(len(pieces), len(pixels)), len(pieces) + column] = 1
        vectors = torch.cat([torch.stack([v for _, v in pieces]), corpus.name_vectors[classes]])
        texts = self._texts([t for t, _ in pieces] + prompts, vectors)
        return Batch(
            pixels,
            (own @ vectors).to(self.device),
            own.to(self.device),
            texts,
            self._words(rng),
            self._bank(rng),
        )

    def _pixels(
        self,
        images: Tensor,
        index: np.ndarray[Any, np.dtype[np.int64]],
        how: Augment,
        stage: Stage,
        rng: torch.Generator,
    ) -> Tensor:
        chosen = images[torch.from_numpy(index)].to(self.device)
        return (augment(chosen, stage.pixels, how, rng) - self.mean) / self.std

    def _piece(
        self, pieces: PieceSet, vectors: Tensor, image: int, rng: np.random.Generator
    ) -> tuple[str, Tensor]:
        """One text of the image, or two joined: descriptions met later are often several sentences."""
        mine = np.arange(pieces.first[image], pieces.first[image + 1])
        count = 2 if len(mine) > 1 and rng.random() < 0.3 else 1
        chosen = rng.choice(mine, count, replace=False)
        text = " ".join(pieces.texts[i] for i in chosen)
        return text, F.normalize(vectors[chosen].sum(0), dim=0)

    def _texts(self, texts: list[str], vectors: Tensor) -> TextBatch:
        return TextBatch(self.tokenizer(texts).to(self.device), vectors.to(self.device))

    def _words(self, rng: np.random.Generator) -> TextBatch:
        chosen = rng.integers(len(self.corpus.words), size=self.config.words)
        return self._texts([self.corpus.words[i] for i in chosen], self.corpus.word_vectors[chosen])

    def _bank(self, rng: np.random.Generator) -> Tensor:
        """Sentence embeddings of texts that serve as further negatives: photos, figures, class names."""
        corpus, half = self.corpus, self.config.bank // 2
        photo = rng.integers(len(corpus.photo_vectors), size=half)
        figure = rng.integers(len(corpus.figure_vectors), size=half)
        parts = [corpus.photo_vectors[photo], corpus.figure_vectors[figure], corpus.name_vectors]
        return torch.cat(parts).to(self.device)
