"""Check texts and turn them into tokens, under an explicit policy for those that are too long."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from descscore.errors import ModelError, TextError, UsageError
from descscore.word_cache import bound_word_cache
from descscore.word_tokens import WordTokens, knows

TextPolicy: TypeAlias = Literal["truncate", "error", "windows", "weighted-windows"]
"""What happens to a text over the context length.

``truncate``: cut, its end-of-text token kept. ``error``: a :class:`TextError`.
``windows``: whole sentences are grouped into windows that fit; the text's
feature is the unit mean of its windows' unit features. ``weighted-windows``: the
mean is weighted by the windows' tokens, so that a short rest counts for less.
"""

DEFAULT_POLICY: TextPolicy = "weighted-windows"
"""The best of those that lose nothing of a text, by cross-validation; cutting is not a point better
(``docs/long_texts.json``)."""

WINDOWS = ("windows", "weighted-windows")
"""The policies that lose nothing of a long text."""


@dataclass(frozen=True)
class TokenizedText:
    """One text as rows of tokens.

    rows: one list of token ids per window (one but for the policies with windows), each
    with start and end token and no padding. tokens: how many the whole text has,
    start and end token included. truncated: whether any of them is missing in ``rows``.
    weighted: whether windows count by their tokens, not alike.
    """

    rows: tuple[tuple[int, ...], ...]
    tokens: int
    truncated: bool
    weighted: bool = False

    @property
    def weights(self) -> tuple[float, ...]:
        """What each window counts, adding up to 1."""
        parts = [len(row) - 2 if self.weighted else 1 for row in self.rows]
        return tuple(part / sum(parts) for part in parts)


def check_policy(policy: str) -> TextPolicy:
    """``policy`` itself, or a :class:`UsageError` that lists the known ones."""
    if policy not in get_args(TextPolicy):
        raise UsageError(f"text policy {policy!r}: choose one of {', '.join(get_args(TextPolicy))}")
    return policy  # type: ignore[return-value]


def check_text(text: object) -> str:
    """``text`` itself, or a :class:`TextError`: ``not_text``, or ``empty_text`` when nothing is in it."""
    if not isinstance(text, str):
        raise TextError(
            "not_text", f"text: expected a string, got {type(text).__name__} ({str(text)[:40]!r})"
        )
    if not text.strip():
        raise TextError("empty_text", f"text {text[:20]!r}: empty or blank")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TextError("not_text", f"text {text[:40]!r}: not valid Unicode ({error.reason})") from None
    return text


class Tokenizer:
    """open_clip's standard byte-pair tokenizer with counts, policies and no silent loss."""

    def __init__(self, tokenizer: Any, context_length: int, source: str) -> None:
        needed = ("encode", "sot_token_id", "eot_token_id")
        if not all(hasattr(tokenizer, name) for name in needed):
            raise ModelError(
                f"{source}: its tokenizer ({type(tokenizer).__name__}) is not supported; "
                "descscore needs open_clip's standard CLIP tokenizer"
            )
        bound_word_cache(tokenizer)
        self._tokenizer = tokenizer
        self._encode = WordTokens(tokenizer) if knows(tokenizer) else tokenizer.encode
        self.context_length = context_length

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text`` alone, without start and end token.

        A text may spell out ``<end_of_text>``; taken as the token it would end the
        text there and everything after it would be lost unseen, so such ids go.
        """
        marks = (self._tokenizer.sot_token_id, self._tokenizer.eot_token_id)
        return [i for i in self._encode(text) if i not in marks]

    def clean(self, text: str) -> str:
        """``text`` as it is cut into tokens: mended, unescaped, usually in lower case."""
        cleaned: str = self._tokenizer.clean_fn(text)
        return cleaned

    @property
    def vocabulary_size(self) -> int:
        """How many tokens there are; a model may have rows for more."""
        return len(self._tokenizer.decoder)

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes that a token stands for; of one character it may hold a part only."""
        symbols = self._tokenizer.decoder[token].removesuffix("</w>")
        return bytes(self._tokenizer.byte_decoder[symbol] for symbol in symbols)

    def ends_word(self, token: int) -> bool:
        """Whether a word ends with this token; other tokens go on in the next one."""
        symbols: str = self._tokenizer.decoder[token]
        return symbols.endswith("</w>")

    def wrap(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Add start and end token and cut to the context length; the end token always stays."""
        kept = ids[: self.context_length - 2]
        return (self._tokenizer.sot_token_id, *kept, self._tokenizer.eot_token_id)

    def tokenize(self, text: str, policy: TextPolicy = "truncate") -> TokenizedText:
        """Tokens of one text. Raises :class:`TextError` for what :func:`check_text` refuses,
        for a text of which nothing is left after cleaning, and for one too long under ``error``.
        """
        ids = self.encode(check_text(text))
        if not ids:
            raise TextError("empty_text", f"text {text[:40]!r}: holds nothing that the tokenizer can read")
        count = len(ids) + 2
        if count <= self.context_length:
            return TokenizedText((self.wrap(ids),), count, False)
        if policy == "error":
            raise TextError(
                "text_too_long",
                f"text {text[:40]!r}...: {count} tokens, over the model's {self.context_length}; "
                f"shorten it or choose another text policy (truncate, {', '.join(WINDOWS)})",
            )
        if policy == "truncate":
            return TokenizedText((self.wrap(ids),), count, True)
        windows = self.windows(text)
        cut = any(len(window) > self.context_length - 2 for window in windows)
        rows = tuple(self.wrap(window) for window in windows)
        return TokenizedText(rows, count, cut, weighted=policy == "weighted-windows")

    def windows(self, text: str) -> list[list[int]]:
        """Token ids of ``text`` in windows of whole sentences; only what has no
        break at all (a word longer than the context) can still be too long.
        """
        room = self.context_length - 2
        pieces: list[list[int]] = []
        for sentence in re.split(r"(?<=[.!?;])\s+|\n+", text.strip()):
            ids = self.encode(sentence)
            pieces += [ids] if len(ids) <= room else [self.encode(word) for word in sentence.split()]
        windows: list[list[int]] = []
        for ids in pieces:
            if windows and len(windows[-1]) + len(ids) <= room:
                windows[-1] += ids
            elif ids:
                windows.append(list(ids))
        return windows


def pad(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of token ids, padded with 0 to the longest: ``(len(rows), longest)`` int64."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    out = np.zeros((len(rows), int(lengths.max())), np.int64)
    out[np.arange(out.shape[1]) < lengths[:, None]] = np.fromiter(chain.from_iterable(rows), np.int64)
    return torch.from_numpy(out)


def token_rows(tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """The texts' tokens, cut to the context length with the end token kept: ``(len(texts), longest)``."""
    return pad([tokenizer.tokenize(text).rows[0] for text in texts])
