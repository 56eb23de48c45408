"""Texts beside a pair, the context of the image and references for the text: tokenised and encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from descscore.errors import TextError
from descscore.texts import EncodedTexts, TokenizedText

# A description in its context: the contextual score of Kreiss et al. 2022.
#
# With c and d the raw embeddings of the surrounding text and of the description, i that of
# the image, and ^ for unit vectors, the contextual score is ``c·d̂ + d·(î - ĉ)``, which equals
# ``‖d‖·cos(i, d) + (‖c‖ - ‖d‖)·cos(c, d)``: what the description shares with the image, plus
# what it shares with the context where the context's embedding is the longer one. Source:
# Kreiss et al., Context Matters for Image Descriptions for Accessibility (EMNLP 2022), and
# the code published with it.
#
# There the description is scored with the prefix "A photo depicts " and the context without
# one. Here neither has a prefix: the contextual score is then made of the very cosine that is
# reported beside it, of a model tuned on descriptions without that prefix, and the prefix
# takes no room from texts that are cut.


CONTEXT_SIGNATURE = "context:kreiss2022-no-prefix"
"""What a signature says where a contextual score was made."""


def contextual_scores(
    cosines: Tensor, norms: Tensor, context_cosines: Tensor, context_norms: Tensor
) -> Tensor:
    """``‖d‖·cos(i, d) + (‖c‖ - ‖d‖)·cos(c, d)``, ``(n,)`` each.

    cosines: of image and description. norms: lengths ‖d‖ of the descriptions' raw
    embeddings. context_cosines: of context and description. context_norms: ‖c‖.
    The result has no fixed range: its scale is that of the model's embeddings.
    """
    return norms * cosines + (context_norms - norms) * context_cosines


def tokenize_context(tokenize: Callable[[str], TokenizedText], context: object) -> TokenizedText | None:
    """Tokens of a context; None where there is none: None, blank, or nothing that can be read.

    Raises :class:`TextError` with kind ``bad_context`` for what is not a text, or is too
    long under the text policy ``error``.
    """
    if context is None:
        return None
    try:
        return tokenize(context)  # type: ignore[arg-type]
    except TextError as error:
        if error.kind == "empty_text":
            return None
        raise TextError("bad_context", f"context: {error}") from None


# Scores with references: the harmonic mean of RefCLIPScore (Hessel et al. 2021).
#
# For a text c, an image v and good descriptions R of the image,
# ``H-mean(2.5·max(cos(c, v), 0), max(max_r cos(c, r), 0))``: the harmonic mean of the score
# and of the text's largest cosine with a reference. As in the published code only the score
# bears the factor 2.5. Where either is 0, so is the mean. Source: Hessel et al., CLIPScore: A
# Reference-free Evaluation Metric for Image Captioning (EMNLP 2021). There every text
# bears the prefix "A photo depicts "; here none does, as everywhere in descscore.


REFERENCES_SIGNATURE = "references:refclipscore-no-prefix"
"""What a signature says where a reference score was made."""

MAX_REFERENCES = 1000
"""References that one pair may have."""


def reference_scores(scores: Tensor, best: Tensor) -> Tensor:
    """Harmonic means ``(n,)`` of scores, 0..2.5, and largest cosines with a reference, -1..1: 0..10/7.

    A negative cosine counts as 0; the mean of two zeros is 0.
    """
    likeness = best.clamp(min=0)
    total = scores + likeness
    return torch.where(total > 0, 2 * scores * likeness / total.where(total > 0, 1), 0)


def largest_by_row(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """The largest of the ``(r,)`` values of each row: ``(count,)``, -inf for a row that has none."""
    start = torch.full((count,), -torch.inf, dtype=values.dtype, device=values.device)
    return start.scatter_reduce(0, rows, values, "amax")


def tokenize_references(
    tokenize: Callable[[str], TokenizedText], references: object
) -> tuple[TokenizedText, ...]:
    """Tokens of each reference; none for None and an empty list. Raises as :func:`check_references`,
    and for a reference that cannot be scored.
    """
    found = []
    for number, text in enumerate(check_references(references), start=1):
        try:
            found.append(tokenize(text))  # type: ignore[arg-type]
        except TextError as error:
            raise TextError("bad_references", f"reference {number}: {error}") from None
    return tuple(found)


def check_references(references: object) -> tuple[object, ...]:
    """The references of one pair. Raises :class:`TextError` with kind ``bad_references`` for what is no
    list or holds too many; one text where a list belongs would be taken letter by letter.
    """
    if references is None:
        return ()
    if not isinstance(references, (list, tuple)):
        kind = type(references).__name__
        raise TextError("bad_references", f"references: expected a list of texts, got one {kind}")
    if len(references) > MAX_REFERENCES:
        raise TextError("bad_references", f"references: {len(references)}, over {MAX_REFERENCES}")
    return tuple(references)


@dataclass(frozen=True)
class ContextTexts:
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
) -> ContextTexts:
    """Raises as :func:`tokenize_context` and :func:`tokenize_references`."""
    return ContextTexts(tokenize_context(tokenize, context), tokenize_references(tokenize, references))


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


class ContextEncoder:
    """Encodes contexts and references under the scoring model, each distinct one once.

    remembered: how many distinct texts are kept for the next call, those used last.
    """

    def __init__(self, embed: Embed, remembered: int = 0) -> None:
        self._embed, self.remembered = embed, remembered
        self._known: dict[tuple[tuple[int, ...], ...], tuple[Tensor, Tensor]] = {}

    def scores(self, pairs: ScoredPairs, sides: Sequence[ContextTexts]) -> list[dict[str, Any]]:
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

    def _encode(self, sides: Sequence[ContextTexts]) -> EncodedSides | None:
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
