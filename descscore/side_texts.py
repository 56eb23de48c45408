"""Texts beside a pair, the context of the image and references for the text: tokenised and encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from descscore.context import CONTEXT_SIGNATURE, contextual_scores, tokenize_context
from descscore.encoder import EncodedTexts
from descscore.references import (
    REFERENCES_SIGNATURE,
    largest_by_row,
    reference_scores,
    tokenize_references,
)
from descscore.texts import TokenizedText


@dataclass(frozen=True)
class SideTexts:
    """Tokens of what stands beside one pair; by default nothing."""

    context: TokenizedText | None = None
    references: tuple[TokenizedText, ...] = ()

    def sign(self, signature: str) -> str:
        """``signature`` with a part for each of the two that is there."""
        return signed(signature, self.context is not None, bool(self.references))


def signed(signature: str, with_context: bool, with_references: bool) -> str:
    """``signature`` with what contextual and reference scores depend on besides."""
    parts = [CONTEXT_SIGNATURE] * with_context + [REFERENCES_SIGNATURE] * with_references
    return "|".join((signature, *parts))


def tokenize_sides(
    tokenize: Callable[[str], TokenizedText], context: object, references: object
) -> SideTexts:
    """Raises as :func:`tokenize_context` and :func:`tokenize_references`."""
    return SideTexts(tokenize_context(tokenize, context), tokenize_references(tokenize, references))


@dataclass(frozen=True)
class ScoredPairs:
    """n texts with the cosines ``(n,)`` and scores ``(n,)`` of their pairs, float64."""

    encoded: EncodedTexts
    cosines: Tensor
    scores: Tensor


@dataclass(frozen=True)
class EncodedSides:
    """What stands beside n pairs, as unit features.

    context_rows: ``(m,)`` int64, the pairs that have a context; contexts: ``(m, embed_dim)``;
    context_norms: ``(m,)``. reference_rows: ``(r,)`` int64, the pair that each reference
    belongs to; references: ``(r, embed_dim)``.
    """

    context_rows: Tensor
    contexts: Tensor
    context_norms: Tensor
    reference_rows: Tensor
    references: Tensor

    def contextual(self, pairs: ScoredPairs) -> list[float | None]:
        """The pairs' contextual scores; None for a pair without a context."""
        rows = self.context_rows
        found = contextual_scores(
            pairs.cosines[rows],
            pairs.encoded.norms[rows].double(),
            _cosines(self.contexts, pairs.encoded.features[rows]),
            self.context_norms.double(),
        )
        return _spread(found, rows, len(pairs.scores))

    def referenced(self, pairs: ScoredPairs) -> list[float | None]:
        """The pairs' reference scores; None for a pair without references."""
        rows, count = self.reference_rows, len(pairs.scores)
        best = largest_by_row(_cosines(self.references, pairs.encoded.features[rows]), rows, count)
        has = best.isfinite().nonzero().squeeze(1)
        return _spread(reference_scores(pairs.scores[has], best[has]), has, count)


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    return (first.double() * second.double()).sum(-1).clamp(-1, 1)


def _spread(values: Tensor, rows: Tensor, count: int) -> list[float | None]:
    """``values`` at the places ``rows`` of a list of ``count``, None elsewhere."""
    out: list[float | None] = [None] * count
    for row, value in zip(rows.tolist(), values.tolist(), strict=True):
        out[row] = value
    return out


Embed: TypeAlias = Callable[[Sequence[TokenizedText]], tuple[Tensor, Tensor]]
"""Tokenised texts -> unit features ``(n, embed_dim)`` and the norms ``(n,)`` they had before."""


class SideEncoder:
    """Encodes contexts and references under the scoring model, each distinct one once.

    remembered: how many distinct texts are kept for the next call, those used last.
    """

    def __init__(self, embed: Embed, remembered: int = 0) -> None:
        self._embed, self.remembered = embed, remembered
        self._known: dict[tuple[tuple[int, ...], ...], tuple[Tensor, Tensor]] = {}

    def scores(self, pairs: ScoredPairs, sides: Sequence[SideTexts]) -> list[dict[str, Any]]:
        """The fields of each pair's :class:`Score` that come from what stands beside it."""
        found = self._encode(sides)
        if found is None:
            return [{}] * len(sides)
        values = zip(found.contextual(pairs), found.referenced(pairs), sides, strict=True)
        return [
            {
                "contextual_score": contextual,
                "context_truncated": side.context and side.context.truncated,
                "reference_score": referenced,
                "references_truncated": any(text.truncated for text in side.references)
                if side.references
                else None,
            }
            for contextual, referenced, side in values
        ]

    def _encode(self, sides: Sequence[SideTexts]) -> EncodedSides | None:
        """What stands beside the pairs; None where nothing stands beside any."""
        contexts = [(row, side.context) for row, side in enumerate(sides) if side.context is not None]
        references = [(row, text) for row, side in enumerate(sides) for text in side.references]
        if not contexts and not references:
            return None
        features, norms = self._embeddings([text for _, text in (*contexts, *references)])
        rows = torch.tensor([row for row, _ in (*contexts, *references)], device=features.device)
        end = len(contexts)
        return EncodedSides(rows[:end], features[:end], norms[:end], rows[end:], features[end:])

    def _embeddings(self, texts: Sequence[TokenizedText]) -> tuple[Tensor, Tensor]:
        fresh = {text.rows: text for text in texts if text.rows not in self._known}
        if fresh:
            features, norms = self._embed(list(fresh.values()))
            # Copies: a view would keep the features of the whole call in memory.
            vectors = ((feature.clone(), norm.clone()) for feature, norm in zip(features, norms, strict=True))
            self._known |= zip(fresh, vectors, strict=True)
        for text in texts:
            self._known[text.rows] = self._known.pop(text.rows)  # to the end: used last
        found = [self._known[text.rows] for text in texts]
        for key in list(self._known)[: max(0, len(self._known) - self.remembered)]:
            del self._known[key]
        return torch.stack([feature for feature, _ in found]), torch.stack([norm for _, norm in found])
