"""The batch of each step. The same step of the same stage always gives the same batch.

Stages share their draws: step ``n`` of each has the same photos.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from descscore.training.neither import random_stop
from reproduce.pretraining.data import KINDS, TEMPLATES, Corpus
from reproduce.pretraining.image_tower import Views, virtual_pictures
from reproduce.pretraining.settings import Settings, Stage

Piece = tuple[str, Tensor]
"""A text and its sentence vector, ``(384,)``."""


@dataclass(frozen=True)
class Texts:
    """Token rows ``(n, length)`` and sentence vectors ``(n, 384)`` of the same texts."""

    tokens: Tensor
    vectors: Tensor


@dataclass(frozen=True)
class Batch:
    """A step with ``n`` pictures and a text for each."""

    pictures: Tensor
    """Pooled features ``(n, 1280)``, or maps before the late stages."""
    pooled: Tensor | None
    """Pooled features of virtual pictures, which follow ``pictures``."""
    texts: Texts
    own: Tensor
    """1 where a text belongs to a picture; two pictures may have the same text: ``(n, n)``."""
    judged: Tensor
    """The pictures of which the classifier's opinion counts: ``(k,)``."""
    posteriors: Tensor
    """That opinion: ``(k, 1000)``, rows sum to 1."""
    class_vectors: Tensor
    """A sentence vector for each class: ``(1000, 384)``."""
    shuffled: Tensor
    """Token rows of the first texts with their words shuffled."""
    extra: Texts
    """Texts without pictures."""
    bank: Tensor
    """Sentence vectors of other texts: ``(b, 384)``."""


class Sampler:
    """Draws batches of one stage."""

    def __init__(
        self,
        corpus: Corpus,
        views: dict[str, Views],
        classifier: tuple[Tensor, Tensor],
        settings: Settings,
        tokenizer: Any,
    ) -> None:
        self.corpus, self.views, self.settings, self.tokenizer = corpus, views, settings, tokenizer
        self.classifier = classifier
        if views:
            real = torch.cat([views[kind].pooled[0] for kind in ("photos", "objects")])
            self.virtual = virtual_pictures(real, classifier[0])
        self.all_vectors = torch.cat(
            [corpus.vectors["photos"], corpus.vectors["figures"], *corpus.class_vectors]
        )

    def text_batch(self, step: int) -> Texts:
        """Texts of one step of the stage without pictures, drawn from all texts."""
        rng = np.random.default_rng((self.settings.seed, 1, step))
        return self._texts([self._any_text(rng) for _ in range(self.settings.words_batch)], rng)

    def batch(self, stage: Stage, step: int) -> Batch:
        """The pictures and texts of one step."""
        settings, rng = self.settings, np.random.default_rng((self.settings.seed, 2, step))
        maps = "late" in stage.rates
        pictures, features, pieces, judged = [], [], [], []
        for kind in KINDS:
            chosen = rng.choice(
                len(self.corpus.pictures[kind].encoded), settings.pictures[kind], replace=False
            )
            view = rng.integers(min(stage.views, len(self.views[kind].pooled)), size=len(chosen))
            pooled = torch.stack([self.views[kind].pooled[v][i] for v, i in zip(view, chosen, strict=True)])
            features.append(pooled)
            pictures.append(self._maps(kind, view, chosen, rng) if maps else pooled)
            judged.append(torch.full((len(chosen),), kind != "figures"))
            pieces += [self._piece(kind, int(picture), rng) for picture in chosen]
        posteriors = F.softmax(F.linear(torch.cat(features), *self.classifier), dim=1)[torch.cat(judged)]
        virtual = None
        if not maps:  # virtual pictures have no maps
            classes = rng.choice(len(self.virtual), settings.pictures["classes"], replace=False)
            virtual = self.virtual[torch.from_numpy(classes)]
            judged.append(torch.full((len(classes),), True))
            posteriors = torch.cat([posteriors, F.one_hot(torch.from_numpy(classes), 1000).float()])
            pieces += [self._class_text(int(number), rng) for number in classes]
        numbers: dict[str, int] = {}
        same = torch.tensor([numbers.setdefault(text, len(numbers)) for text, _ in pieces])
        pieces = [(self._thinned(text, rng), vector) for text, vector in pieces]
        return Batch(
            torch.cat(pictures),
            virtual,
            self._texts(pieces, rng),
            (same[:, None] == same).float(),
            torch.cat(judged).nonzero().flatten(),
            posteriors,
            torch.stack([some[rng.integers(len(some))] for some in self.corpus.class_vectors]),
            self._tokens([_shuffled(text, rng) for text, _ in pieces[: settings.hard]]),
            self._texts([self._extra(rng) for _ in range(settings.follow)], rng),
            self.all_vectors[torch.from_numpy(rng.integers(len(self.all_vectors), size=settings.bank))],
        )

    def _maps(self, kind: str, view: np.ndarray, chosen: np.ndarray, rng: np.random.Generator) -> Tensor:
        rows = np.stack([self.views[kind].maps[v][i] for v, i in zip(view, chosen, strict=True)])
        maps = torch.from_numpy(rows).float()
        if self.corpus.pictures[kind].mirror:
            mirrored = torch.from_numpy(rng.random(len(maps)) < 0.5)
            maps[mirrored] = maps[mirrored].flip(3)
        return maps.contiguous(memory_format=torch.channels_last)

    def _piece(self, kind: str, picture: int, rng: np.random.Generator) -> Piece:
        """A text of the picture, or several joined: alt texts are often several sentences."""
        pictures, vectors = self.corpus.pictures[kind], self.corpus.vectors[kind]
        mine = np.arange(pictures.first[picture], pictures.first[picture + 1])
        count = min(len(mine), int(rng.choice([1, 2, 3], p=[0.6, 0.28, 0.12])))
        chosen = rng.choice(mine, count, replace=False)
        text = " ".join(pictures.texts[i] for i in chosen)
        if kind == "objects":
            text = str(rng.choice(TEMPLATES)).format(text)
        return text, F.normalize(vectors[chosen].sum(0), dim=0)

    def _class_text(self, number: int, rng: np.random.Generator) -> Piece:
        texts = self.corpus.classes[number]
        chosen = int(rng.integers(len(texts)))
        text, is_name = texts[chosen], chosen < len(texts) - 1
        text = str(rng.choice(TEMPLATES)).format(text) if is_name else text
        return text, self.corpus.class_vectors[number][chosen]

    def _extra(self, rng: np.random.Generator) -> Piece:
        chosen = int(rng.integers(len(self.corpus.extra)))
        return self.corpus.extra[chosen], self.corpus.extra_vectors[chosen]

    def _any_text(self, rng: np.random.Generator) -> Piece:
        draw = rng.random()
        if draw < 0.3:
            return self._extra(rng)
        if draw < 0.4:
            return self._class_text(int(rng.integers(len(self.corpus.classes))), rng)
        kind = "photos" if draw < 0.7 else "figures"
        return self._piece(kind, int(rng.integers(len(self.corpus.pictures[kind].encoded))), rng)

    def _texts(self, pieces: list[Piece], rng: np.random.Generator) -> Texts:
        texts = [random_stop(text, rng) for text, _ in pieces]
        return Texts(self._tokens(texts), torch.stack([vector for _, vector in pieces]))

    def _thinned(self, text: str, rng: np.random.Generator) -> str:
        """A longer text without some of its words, so that the tower learns none by heart."""
        words = text.split()
        if len(words) < 6:
            return text
        return " ".join(word for word in words if rng.random() >= self.settings.word_dropout)

    def _tokens(self, texts: list[str]) -> Tensor:
        return self.tokenizer(texts, context_length=self.settings.tokens)


def _shuffled(text: str, rng: np.random.Generator) -> str:
    return " ".join(rng.permutation(text.split()))
