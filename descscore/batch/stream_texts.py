"""Tokenise the texts of a stream, none of which may hold the whole stream up."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

from descscore.errors import TextError
from descscore.side_texts import SideTexts, tokenize_sides
from descscore.texts import TokenizedText

Tokenize: TypeAlias = Callable[[str], TokenizedText]

MAX_TEXT = 100_000
"""Longest text that is tokenised, in characters; the tokenizer's time grows faster than a text does."""

MAX_WORD = 1000
"""Longest run of letters that is tokenised: byte-pair merging takes time quadratic in it."""

_LONG_WORD = re.compile(rf"[^\W\d_]{{{MAX_WORD + 1}}}")


def tokenize_text(tokenize: Tokenize, text: object) -> TokenizedText:
    """As ``tokenize``; also raises :class:`TextError` for no text and for one far too long."""
    if text is None:
        raise TextError("empty_text", "text: there is none")
    if isinstance(text, str):
        if len(text) > MAX_TEXT:
            raise TextError(
                "text_too_long", f"text {text[:40]!r}...: {len(text)} characters, over {MAX_TEXT}"
            )
        if len(text) > MAX_WORD and _LONG_WORD.search(text):
            raise TextError("text_too_long", f"text {text[:40]!r}...: a word of over {MAX_WORD} letters")
    return tokenize(text)  # type: ignore[arg-type]


def tokenize_beside(tokenize: Tokenize, context: object, references: object) -> SideTexts:
    """Context and references of one pair, under the same limits."""
    return tokenize_sides(lambda text: tokenize_text(tokenize, text), context, references)
