"""Tokenise texts, under an explicit policy for texts over the model's context length.

:class:`Tokenizer` turns a string into a :class:`TokenizedText`: one or more windows of token ids. It works
with open_clip's own tokenizer (:mod:`descscore.open_clip_tokenizer`) and with those of Hugging Face's
libraries (:mod:`descscore.library_tokenizer`).
:class:`TextWindows` finds the distinct windows of many texts, so that each runs once through the
model. Then it computes the features of whole texts from those of their windows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from descscore.cleaning import MAX_TEXT, check_text, clean_text, too_long
from descscore.clip import SimpleTokenizer
from descscore.errors import ModelError, TextError, UsageError
from descscore.open_clip_tokenizer import OpenClipTokenizer

TextPolicy: TypeAlias = Literal["truncate", "error", "windows", "weighted-windows"]
"""What happens to a text over the context length.

``truncate`` cuts the text and keeps its end-of-text token. ``error`` raises a :class:`TextError`.
``windows`` groups whole sentences into windows that fit. The text's feature is the mean of its
windows' unit features, normalised to length 1. ``weighted-windows`` weights this mean by the number
of tokens, so that a short last window counts less.
"""

DEFAULT_POLICY: TextPolicy = "weighted-windows"
"""In cross-validation, the best of the policies that keep the whole text. ``truncate`` is less than a point
better (``docs/long_texts.json``)."""

WINDOWS = ("windows", "weighted-windows")
"""The policies that keep the whole text."""


@dataclass(frozen=True)
class TokenizedText:
    """One text as windows of tokens."""

    rows: tuple[tuple[int, ...], ...]
    """Token ids of each window, with start and end token. They are padded to the context length only for a
    text tower that reads the padding. Only the window policies give more than one window."""
    tokens: int
    """Length of the whole text, with start and end token."""
    truncated: bool
    """Whether ``rows`` lacks any token of the text."""
    weighted: bool = False
    """Whether a window's weight is its number of tokens; otherwise all windows have equal weights."""
    sizes: tuple[int, ...] | None = None
    """Number of tokens of each window, without start, end and padding; None where that is its length - 2."""

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each window; the weights add up to 1."""
        parts = [1] * len(self.rows)
        if self.weighted:
            parts = list(self.sizes or (len(row) - 2 for row in self.rows))
        total = sum(parts)
        if not total:  # an explanation has left out the only word
            return (1 / len(parts),) * len(parts)
        return tuple(part / total for part in parts)


def check_policy(policy: str) -> TextPolicy:
    """Return ``policy``; raises :class:`UsageError` with the choices for an unknown one."""
    if policy not in get_args(TextPolicy):
        raise UsageError(f"text policy {policy!r}: choose one of {', '.join(get_args(TextPolicy))}")
    return policy  # type: ignore[return-value]


class Tokenizer:
    """A model's tokenizer with counts, policies and no silent loss.

    Args:
        tokenizer: open_clip's own, or :class:`descscore.library_tokenizer.LibraryTokenizer`.
        context_length: Number of tokens that the model takes, start and end token included.
        source: The model's name, for messages.
        padded: Whether the text tower reads the padding, so that rows must have it.
    """

    def __init__(self, tokenizer: Any, context_length: int, source: str, padded: bool = False) -> None:
        own = all(hasattr(tokenizer, name) for name in ("encode", "sot_token_id", "eot_token_id"))
        if not own and not all(hasattr(tokenizer, name) for name in ("encode", "windows")):
            raise ModelError(f"{source}: its tokenizer ({type(tokenizer).__name__}) is not supported")
        self.library: Any = None if own else tokenizer
        """A :class:`descscore.library_tokenizer.LibraryTokenizer`; None for open_clip's own tokenizer."""
        self._tokenizer = tokenizer
        fast = type(tokenizer) is SimpleTokenizer
        self._encode: Any = OpenClipTokenizer(tokenizer).encode if fast else tokenizer.encode
        self.context_length = context_length
        self.padding: int | None
        """The token with which rows are filled up to the context length; None where they are not."""
        self._pads_left = self.library is not None and self.library.pads_left
        if self.library is not None:
            self.start, self.end, self.padding = tokenizer.start, tokenizer.end, tokenizer.padding
        else:
            self.start, self.end = (tokenizer.sot_token_id,), (tokenizer.eot_token_id,)
            self.padding = 0 if padded else None
        if self.room < 1:
            raise ModelError(f"{source}: its context of {context_length} tokens leaves no room for a text")

    @property
    def room(self) -> int:
        """Number of tokens of a text that the model takes, without start and end token."""
        return self.context_length - len(self.start) - len(self.end)

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text`` alone, without start and end token.

        A text may spell out ``<end_of_text>``. As a token it would end the text there, and the rest
        would be lost without notice. So start and end tokens inside a text are dropped.
        """
        cleaned = self.clean(text)
        if len(cleaned) > MAX_TEXT:
            raise too_long(cleaned, MAX_TEXT)
        return self._read(cleaned)

    def _read(self, cleaned: str) -> list[int]:
        """As :meth:`encode`, for a text that is clean."""
        return self._without_special(self._encode(cleaned))

    def _without_special(self, ids: Sequence[int]) -> list[int]:
        special = {*self.start, *self.end}
        if self.library is not None:  # its padding stands for no word
            special.add(self.library.padding)
        return [i for i in ids if i not in special]

    def clean(self, text: str) -> str:
        """``text`` as the tokenizer reads it: repaired, unescaped and usually in lower case."""
        return clean_text(self._tokenizer, text)

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens; a model may have embeddings for more."""
        return self.library.size if self.library is not None else len(self._tokenizer.decoder)

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes of a token; they may be only a part of a character."""
        if self.library is not None:
            return self.library.spelling(token).encode()
        symbols = self._tokenizer.decoder[token].removesuffix("</w>")
        return bytes(self._tokenizer.byte_decoder[symbol] for symbol in symbols)

    def ends_word(self, token: int) -> bool:
        """Whether this token is the last of its word; a tokenizer that marks beginnings does not say."""
        return self.library is None and self._tokenizer.decoder[token].endswith("</w>")

    def begins_word(self, token: int) -> bool:
        """Whether this token is the first of its word; open_clip's own tokenizer does not say."""
        return self.library is not None and self.library.begins_word(token)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids without start and end token; words stand apart by blanks."""
        if self.library is not None:
            return self.library.decode(ids)
        parts = (self.token_bytes(i) + (b" " if self.ends_word(i) else b"") for i in ids)
        return b"".join(parts).decode("utf-8", "ignore").strip()

    def wrap(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Add start and end token, and cut to the context length; the end token is always kept.

        A row is padded to the context length if the text tower reads the padding.
        """
        row = (*self.start, *ids[: self.room], *self.end)
        if self.padding is None:
            return row
        filling = [self.padding] * (self.context_length - len(row))
        return (*filling, *row) if self._pads_left else (*row, *filling)

    def unwrap(self, row: Sequence[int]) -> tuple[int, ...]:
        """The token ids in a row from :meth:`wrap`, without start, end and padding; zeros may follow it."""
        padding, begin, stop = self.padding or 0, 0, len(row)
        while stop > len(self.start) and row[stop - 1] == padding:
            stop -= 1
        while self._pads_left and begin < stop - len(self.start) and row[begin] == padding:
            begin += 1
        body = tuple(row[begin + len(self.start) : stop])
        return body[: -len(self.end)] if self.end and body[-len(self.end) :] == self.end else body

    def tokenize(self, text: str, policy: TextPolicy = "truncate") -> TokenizedText:
        """Tokens of one text.

        Raises:
            TextError: :func:`check_text` refuses the text, it has no token, or it is too long under the
                policy ``error``.
        """
        ids = self.encode(check_text(text))
        if not ids:
            raise TextError("empty_text", f"text {text[:40]!r}: holds nothing that the tokenizer can read")
        count = len(ids) + len(self.start) + len(self.end)
        if count <= self.context_length:
            return TokenizedText((self.wrap(ids),), count, False, sizes=self._sizes([ids]))
        if policy == "error":
            raise TextError(
                "text_too_long",
                f"text {text[:40]!r}...: {count} tokens, over the model's {self.context_length}; "
                f"shorten it or choose another text policy (truncate, {', '.join(WINDOWS)})",
            )
        if policy == "truncate":
            return TokenizedText((self.wrap(ids),), count, True, sizes=self._sizes([ids[: self.room]]))
        windows = self.windows(text)
        rows, weighted = tuple(map(self.wrap, windows)), policy == "weighted-windows"
        return TokenizedText(rows, count, False, weighted, self._sizes(windows))

    def _sizes(self, windows: Sequence[Sequence[int]]) -> tuple[int, ...] | None:
        return None if self.library is None and self.padding is None else tuple(map(len, windows))

    def windows(self, text: str) -> list[list[int]]:
        """Token ids of ``text`` in windows of whole sentences.

        A sentence that does not fit is split at blanks. A word that does not fit, such as a whole sentence in
        Chinese, is split between characters.
        """
        room = self.room
        if self.library is not None:  # its tokens of a text may differ from those of its words
            return self.library.windows(self._clean_sentences(text), room, self._without_special)
        pieces: list[list[int]] = []
        for sentence in self._clean_sentences(text):
            ids = self._read(sentence)
            words = [ids] if len(ids) <= room else [self._read(word) for word in sentence.split()]
            pieces += chain.from_iterable(self._split_word(word, room) for word in words)
        windows: list[list[int]] = []
        for ids in pieces:
            if windows and len(windows[-1]) + len(ids) <= room:
                windows[-1] += ids
            elif ids:
                windows.append(list(ids))
        return windows

    def _clean_sentences(self, text: str) -> list[str]:
        """The cleaned sentences of a text. Cleaning them all at once takes far less time than one by one."""
        # ftfy repairs each line alone, but cleaning then joins the lines: so a noncharacter separates them.
        separator = next((sign for sign in map(chr, range(0xFDD0, 0xFDF0)) if sign not in text), "\ufdd0")
        sentences = re.split(r"(?<=[.!?;])\s+|\n+", text.strip())
        cleaned = self.clean(f"\n{separator}\n".join(sentences)).split(separator)
        if len(cleaned) != len(sentences):  # the text holds each of them, or hides this one
            raise TextError("not_text", f"text {text[:40]!r}...: holds noncharacters of Unicode")
        return [sentence.strip() for sentence in cleaned]

    def _split_word(self, ids: list[int], room: int) -> list[list[int]]:
        """A word's tokens in parts of at most ``room``, split between characters where there is a place."""
        parts = []
        while len(ids) > room:
            # A token that begins with one of UTF-8's later bytes goes on with a character.
            places = (place for place in range(room, 0, -1) if self.token_bytes(ids[place])[0] & 0xC0 != 0x80)
            place = next(places, room)
            parts.append(ids[:place])
            ids = ids[place:]
        return [*parts, ids]


def pad(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of token ids, padded with 0 to the longest: ``(n, longest)`` int64."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    padded = np.zeros((len(rows), int(lengths.max())), np.int64)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.fromiter(chain.from_iterable(rows), np.int64)
    return torch.from_numpy(padded)


def token_rows(tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """Padded tokens of texts, cut to the context length with the end token kept: ``(n, longest)`` int64."""
    return pad([tokenizer.tokenize(text).rows[0] for text in texts])


@dataclass(frozen=True)
class TextWindows:
    """The w windows of n texts, among which r token rows are distinct."""

    rows: list[tuple[int, ...]]
    """The r distinct rows."""
    row: Tensor
    """Each window's row: ``(w,)`` int64."""
    owner: Tensor
    """Each window's text: ``(w,)`` int64."""
    weight: Tensor
    """Each window's weight: ``(w,)`` float64; the weights of a text add up to 1."""

    @classmethod
    def of(cls, texts: Sequence[TokenizedText]) -> TextWindows:
        """The windows of ``texts``."""
        rows = list(dict.fromkeys(row for text in texts for row in text.rows))
        place = {row: i for i, row in enumerate(rows)}
        return cls(
            rows,
            torch.tensor([place[row] for text in texts for row in text.rows]),
            torch.tensor([i for i, text in enumerate(texts) for _ in text.rows]),
            torch.tensor([weight for text in texts for weight in text.weights], dtype=torch.float64),
        )

    def means(self, values: Tensor) -> Tensor:
        """Weighted means over each text's windows: ``(r, ...)`` -> ``(n, ...)``, of the same type."""
        by_window = values[self.row.to(values.device)]
        n = int(self.owner[-1]) + 1
        if n == len(self.owner):
            return by_window
        weight = self.weight.to(by_window).view(-1, *[1] * (by_window.ndim - 1))
        sums = by_window.new_zeros(n, *by_window.shape[1:])
        return sums.index_add(0, self.owner.to(by_window.device), by_window * weight)

    def features(self, unit: Tensor) -> Tensor:
        """Unit features of whole texts, from those of their windows: ``(r, d)`` -> ``(n, d)``."""
        if len(self.owner) == int(self.owner[-1]) + 1:
            return unit[self.row.to(unit.device)]
        return F.normalize(self.means(unit), dim=-1)


@dataclass(frozen=True)
class EncodedTexts:
    """n texts under the scoring model and under its base."""

    features: Tensor
    """Unit features under the scoring model: ``(n, embed_dim)``."""
    base_features: Tensor
    """Unit features under the base; the same tensor if the model is its own base."""
    norms: Tensor
    """Lengths of the scoring model's features before normalisation, ``(n,)``; means over windows."""
    texts: tuple[TokenizedText, ...]
    """The texts' tokens."""
    probabilities: Tensor | None = None
    """Probability that each text is a description, ``(n,)``, means over windows; None without a read-out."""
