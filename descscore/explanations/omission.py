"""Leave one word out: what the cosine and the log-odds lose, with no gradient and no path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from descscore.explanations.attribution import Values, evaluate
from descscore.explanations.text_rows import TextRows
from descscore.explanations.words import Word
from descscore.models import LoadedModel
from descscore.texts import TokenizedText


@dataclass(frozen=True)
class Omitted:
    """One text without one word. text, word: their numbers; shortened: the text without it, in
    the same windows."""

    text: int
    word: int
    shortened: TokenizedText


def omissions(texts: Sequence[TokenizedText], words: Sequence[Sequence[Word]]) -> list[Omitted]:
    """Every text without each of its words in turn, words that the model does not see passed over.

    Tokens are taken out, not letters: what was cut off stays cut off, and no
    neighbours grow together.
    """
    return [
        Omitted(i, j, _without(text, word))
        for i, (text, found) in enumerate(zip(texts, words, strict=True))
        for j, word in enumerate(found)
        if word.tokens
    ]


def evaluate_omissions(model: LoadedModel, omitted: Sequence[Omitted], images: Tensor) -> Values:
    """Values of the shortened texts, ``(len(omitted),)``; images: ``(n, embed_dim)`` of the n whole ones."""
    own = images[[item.text for item in omitted]].to(model.device)
    return evaluate(model.clip, TextRows.of([item.shortened for item in omitted], own), model.purpose)


def _without(text: TokenizedText, word: Word) -> TokenizedText:
    left_out = set(word.tokens)
    rows = tuple(
        tuple(token for c, token in enumerate(row) if (r, c) not in left_out)
        for r, row in enumerate(text.rows)
    )
    return replace(text, rows=rows, tokens=text.tokens - len(left_out))
