"""The contextual score and the reference score of a text.

**Contextual score** (Kreiss et al., Context Matters for Image Descriptions for Accessibility,
EMNLP 2022, and the code published with it). With c and d the raw embeddings of the surrounding
text and of the description, i that of the image, and ^ for unit vectors, it is
``c·d̂ + d·(î - ĉ)``, which equals ``‖d‖·cos(i, d) + (‖c‖ - ‖d‖)·cos(c, d)``: the
similarity of description and image, plus that of description and context, weighted by how much
longer the context's embedding is.

**Reference score** (RefCLIPScore in Hessel et al., CLIPScore: A Reference-free Evaluation Metric
for Image Captioning, EMNLP 2021). References are good descriptions of the image. For a text c, an
image v and references R it is
``H-mean(2.5·max(cos(c, v), 0), max(max_r cos(c, r), 0))``: the harmonic mean of the score and of
the text's largest cosine with a reference. As in the published code, only the score has the
factor 2.5. If one of the two is 0, the mean is 0.

Both papers put the prefix "A photo depicts " before a text. Here no text has a prefix, for three
reasons: the model was tuned on descriptions without a prefix, the contextual score then contains
the same cosine that is reported with it, and a prefix would take tokens from long texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from cachetools import LRUCache
from torch import Tensor

from descscore.cleaning import MAX_TEXT
from descscore.errors import TextError
from descscore.texts import EncodedTexts, TokenizedText

CONTEXT_SIGNATURE = "context:kreiss2022-no-prefix"
"""Added to the signature of a score that has a contextual score."""

REFERENCES_SIGNATURE = "references:refclipscore-no-prefix"
"""Added to the signature of a score that has a reference score."""

MAX_REFERENCES = 1000
"""Largest number of references of a pair."""

Embed: TypeAlias = Callable[[Sequence[TokenizedText]], tuple[Tensor, Tensor]]
"""Tokenised texts -> unit features ``(n, embed_dim)`` and their norms ``(n,)`` before normalisation."""


@dataclass(frozen=True)
class ContextTexts:
    """Tokens of one pair's context and references."""

    context: TokenizedText | None = None
    """None for a pair without a context."""
    references: tuple[TokenizedText, ...] = ()
    """Empty for a pair without references."""


def extend_signature(signature: str, with_context: bool, with_references: bool) -> str:
    """``signature`` with a part for a contextual score and one for a reference score, if there are any."""
    parts = [CONTEXT_SIGNATURE] * with_context + [REFERENCES_SIGNATURE] * with_references
    return "|".join((signature, *parts))


def tokenize_context_texts(
    tokenize: Callable[[str], TokenizedText], context: object, references: object
) -> ContextTexts:
    """Tokens of one pair's context and references; raises :class:`TextError` as the two functions below."""
    return ContextTexts(tokenize_context(tokenize, context), tokenize_references(tokenize, references))


def tokenize_context(tokenize: Callable[[str], TokenizedText], context: object) -> TokenizedText | None:
    """Tokens of a context; None for None, a blank text, and a text without any token.

    Raises:
        TextError: The context is not a text, or it is too long under the text policy ``error``
            (kind ``bad_context``).
    """
    if context is None:
        return None
    try:
        return tokenize(context)  # type: ignore[arg-type]
    except TextError as error:
        if error.kind == "empty_text":
            return None
        raise TextError("bad_context", f"context: {error}") from None


def tokenize_references(
    tokenize: Callable[[str], TokenizedText], references: object
) -> tuple[TokenizedText, ...]:
    """Tokens of each reference; empty for None and an empty list.

    Raises:
        TextError: As :func:`check_references`, or a reference cannot be tokenised.
    """
    tokenized = []
    for number, text in enumerate(check_references(references), start=1):
        try:
            tokenized.append(tokenize(text))  # type: ignore[arg-type]
        except TextError as error:
            raise TextError("bad_references", f"reference {number}: {error}") from None
    return tuple(tokenized)


def check_references(references: object) -> tuple[object, ...]:
    """The references of one pair.

    Raises:
        TextError: There are too many, together over :data:`descscore.cleaning.MAX_TEXT` characters
            long, or they are not a list: a single text would be split into letters (kind
            ``bad_references``).
    """
    if references is None:
        return ()
    if isinstance(references, np.ndarray):  # as pandas reads lists from Parquet files
        references = references.tolist()
    if not isinstance(references, (list, tuple)):
        kind = type(references).__name__
        raise TextError("bad_references", f"references: expected a list of texts, got one {kind}")
    if len(references) > MAX_REFERENCES:
        raise TextError("bad_references", f"references: {len(references)}, over {MAX_REFERENCES}")
    characters = sum(len(text) for text in references if isinstance(text, str))
    if characters > MAX_TEXT:
        raise TextError(
            "bad_references", f"references: {characters:,} characters together, over {MAX_TEXT:,}"
        )
    return tuple(references)


def contextual_scores(
    cosines: Tensor, norms: Tensor, context_cosines: Tensor, context_norms: Tensor
) -> Tensor:
    """Contextual scores ``(n,)``: ``‖d‖·cos(i, d) + (‖c‖ - ‖d‖)·cos(c, d)``.

    They have no fixed range: their scale is that of the model's embeddings. Cosines and norms are ``(n,)``.
    """
    return norms * cosines + (context_norms - norms) * context_cosines


def reference_scores(scores: Tensor, best: Tensor) -> Tensor:
    """Harmonic means ``(n,)``, 0..10/7, of scores ``(n,)`` and each text's largest cosine with a reference.

    A negative cosine counts as 0. The mean of two zeros is 0.
    """
    likeness = best.clamp(min=0)
    total = scores + likeness
    return torch.where(total > 0, 2 * scores * likeness / total.where(total > 0, 1), 0)


def largest_by_row(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """The largest of the ``(r,)`` values of each row: ``(count,)``, -inf for a row without values."""
    start = torch.full((count,), -torch.inf, dtype=values.dtype, device=values.device)
    return start.scatter_reduce(0, rows, values, "amax")


def row_cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosines, -1..1, of rows of unit features: ``(n, embed_dim)`` twice -> ``(n,)`` float64."""
    return (first.double() * second.double()).sum(-1).clamp(-1, 1)


@dataclass(frozen=True)
class ScoredPairs:
    """n pairs with the cosines of their images and texts."""

    encoded: EncodedTexts
    """The texts."""
    cosines: Tensor
    """Cosines of image and text: ``(n,)`` float64."""
    scores: Tensor
    """``2.5 * max(cosine, 0)``: ``(n,)`` float64."""


class ContextEncoder:
    """Encodes contexts and references with the scoring model, each distinct text once.

    Args:
        embed: Encodes tokenised texts.
        remembered: Number of distinct texts whose features are kept for the next call.
    """

    def __init__(self, embed: Embed, remembered: int = 0) -> None:
        self._embed = embed
        self._known: LRUCache[tuple[tuple[int, ...], ...], tuple[Tensor, Tensor]] = LRUCache(remembered)

    def scores(self, pairs: ScoredPairs, texts: Sequence[ContextTexts]) -> list[dict[str, Any]]:
        """Each pair's fields of :class:`descscore.Score` for its context and references."""
        contexts = [(row, text.context) for row, text in enumerate(texts) if text.context is not None]
        references = [(row, reference) for row, text in enumerate(texts) for reference in text.references]
        if not contexts and not references:
            return [{}] * len(texts)
        features, norms = self._embeddings([text for _, text in (*contexts, *references)])
        rows = torch.tensor([row for row, _ in (*contexts, *references)], device=features.device)
        end = len(contexts)
        contextual = _contextual(pairs, rows[:end], features[:end], norms[:end])
        referenced = _referenced(pairs, rows[end:], features[end:])
        return [
            {
                "contextual_score": contextual.get(row),
                "context_truncated": text.context and text.context.truncated,
                "reference_score": referenced.get(row),
                "references_truncated": _any_truncated(text.references),
            }
            for row, text in enumerate(texts)
        ]

    def _embeddings(self, texts: Sequence[TokenizedText]) -> tuple[Tensor, Tensor]:
        """Unit features ``(m, embed_dim)`` and norms ``(m,)``."""
        vectors = {text.rows: self._known[text.rows] for text in texts if text.rows in self._known}
        missing = {text.rows: text for text in texts if text.rows not in vectors}
        if missing:
            features, norms = self._embed(list(missing.values()))
            # Copies, because a view would keep the features of the whole call in memory.
            copies = [(feature.clone(), norm.clone()) for feature, norm in zip(features, norms, strict=True)]
            vectors |= zip(missing, copies, strict=True)
        if self._known.maxsize:
            self._known.update(vectors)
        chosen = [vectors[text.rows] for text in texts]
        return torch.stack([feature for feature, _ in chosen]), torch.stack([norm for _, norm in chosen])


def _contextual(pairs: ScoredPairs, rows: Tensor, contexts: Tensor, norms: Tensor) -> dict[int, float]:
    """Contextual scores by row: of the rows ``(m,)`` with contexts ``(m, embed_dim)`` and norms ``(m,)``."""
    scores = contextual_scores(
        pairs.cosines[rows],
        pairs.encoded.norms[rows].double(),
        row_cosines(contexts, pairs.encoded.features[rows]),
        norms.double(),
    )
    return dict(zip(rows.tolist(), scores.tolist(), strict=True))


def _referenced(pairs: ScoredPairs, rows: Tensor, references: Tensor) -> dict[int, float]:
    """Reference scores by row: references ``(r, embed_dim)`` with the row ``(r,)`` of each."""
    cosines = row_cosines(references, pairs.encoded.features[rows])
    unique = torch.unique(rows)
    best = largest_by_row(cosines, rows, len(pairs.scores))[unique]
    return dict(zip(unique.tolist(), reference_scores(pairs.scores[unique], best).tolist(), strict=True))


def _any_truncated(texts: Sequence[TokenizedText]) -> bool | None:
    return any(text.truncated for text in texts) if texts else None
