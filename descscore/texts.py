"""Texts to tokens, under an explicit policy for texts over the model's context length.

A text enters as a string and leaves as :class:`TokenizedText`: one or more windows of token
ids. :class:`TextWindows` then finds the distinct windows of many texts, so that each runs
once, and makes whole texts of their features again.

open_clip's tokenizer cuts a text into tokens, but word by word: none of its tokens spans a
blank, so a text's tokens are those of its words, one after the other. :class:`WordTokens`
looks known words up, which is several times faster, and its memory is bounded. open_clip's own
dictionary keeps every word for good; in a stream of millions of texts it would grow with every
name and misspelling. (The caches are ``functools.lru_cache``: it looks a word up in C.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from descscore.clip import SimpleTokenizer
from descscore.errors import ModelError, TextError, UsageError

TextPolicy: TypeAlias = Literal["truncate", "error", "windows", "weighted-windows"]
"""What happens to a text over the context length.

``truncate``: cut, its end-of-text token kept. ``error``: a :class:`TextError`.
``windows``: whole sentences are grouped into windows that fit; the text's
feature is the unit mean of its windows' unit features. ``weighted-windows``: the
mean is weighted by the windows' tokens, so that a short rest counts for less.
"""

DEFAULT_POLICY: TextPolicy = "weighted-windows"
"""By cross-validation the best of the policies that keep the whole text. Cutting is less than a point
better (``docs/long_texts.json``)."""

WINDOWS = ("windows", "weighted-windows")
"""The policies that keep the whole of a long text."""


@dataclass(frozen=True)
class TokenizedText:
    """One text as windows of tokens."""

    rows: tuple[tuple[int, ...], ...]
    """Token ids of each window, with start and end token and no padding; one window but for the policies
    with windows."""
    tokens: int
    """Length of the whole text, with start and end token."""
    truncated: bool
    """Whether ``rows`` lacks any of the text's tokens."""
    weighted: bool = False
    """Whether a window counts by its number of tokens; otherwise all count alike."""

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
        self._tokenizer = tokenizer
        self._encode = WordTokens(tokenizer) if type(tokenizer) is SimpleTokenizer else tokenizer.encode
        self.context_length = context_length

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text`` alone, without start and end token.

        A text may spell out ``<end_of_text>``. As a token it would end the text there, and the
        rest would be lost unseen; so such ids are left out.
        """
        marks = (self._tokenizer.sot_token_id, self._tokenizer.eot_token_id)
        return [i for i in self._encode(text) if i not in marks]

    def clean(self, text: str) -> str:
        """``text`` as it is cut into tokens: mended, unescaped, usually in lower case."""
        cleaned: str = self._tokenizer.clean_fn(text)
        return cleaned

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens; a model may have embeddings for more."""
        return len(self._tokenizer.decoder)

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes that a token stands for; they may be only a part of a character."""
        symbols = self._tokenizer.decoder[token].removesuffix("</w>")
        return bytes(self._tokenizer.byte_decoder[symbol] for symbol in symbols)

    def ends_word(self, token: int) -> bool:
        """Whether a word ends with this token, or goes on in the next."""
        symbols: str = self._tokenizer.decoder[token]
        return symbols.endswith("</w>")

    def wrap(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Add start and end token and cut to the context length; the end token always stays."""
        kept = ids[: self.context_length - 2]
        return (self._tokenizer.sot_token_id, *kept, self._tokenizer.eot_token_id)

    def tokenize(self, text: str, policy: TextPolicy = "truncate") -> TokenizedText:
        """Tokens of one text.

        Raises:
            TextError: :func:`check_text` refuses it, nothing of it is left after cleaning, or it is
                too long under the policy ``error``.
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
        """Token ids of ``text`` in windows of whole sentences.

        A long sentence is split at blanks. Only a word longer than the context is still too long.
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
    """Rows of token ids, padded with 0 to the longest: ``(n, longest)`` int64."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    out = np.zeros((len(rows), int(lengths.max())), np.int64)
    out[np.arange(out.shape[1]) < lengths[:, None]] = np.fromiter(chain.from_iterable(rows), np.int64)
    return torch.from_numpy(out)


def token_rows(tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """Padded tokens of texts, cut to the context length with the end token kept: ``(n, longest)`` int64."""
    return pad([tokenizer.tokenize(text).rows[0] for text in texts])


@dataclass(frozen=True)
class TextWindows:
    """n texts made of w windows; r distinct token rows among the windows."""

    rows: list[tuple[int, ...]]
    """The r distinct rows."""
    row: Tensor
    """Each window's row: ``(w,)`` int64."""
    owner: Tensor
    """Each window's text: ``(w,)`` int64."""
    weight: Tensor
    """What each window counts: ``(w,)`` float64; a text's weights add up to 1."""

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
        """Weighted means over each text's windows: ``(r, ...)`` -> ``(n, ...)``, in the values' type."""
        each = values[self.row.to(values.device)]
        n = int(self.owner[-1]) + 1
        if n == len(self.owner):
            return each
        weight = self.weight.to(each).view(-1, *[1] * (each.ndim - 1))
        return each.new_zeros(n, *each.shape[1:]).index_add(0, self.owner.to(each.device), each * weight)

    def features(self, unit: Tensor) -> Tensor:
        """Unit features of whole texts, the unit mean of their windows': ``(r, d)`` -> ``(n, d)``."""
        if len(self.owner) == int(self.owner[-1]) + 1:
            return unit[self.row.to(unit.device)]
        return F.normalize(self.means(unit), dim=-1)


@dataclass(frozen=True)
class EncodedTexts:
    """n texts under the scoring model and under its base."""

    features: Tensor
    """Unit features under the scoring model: ``(n, embed_dim)``."""
    base_features: Tensor
    """Unit features under the base; the same tensor where the model is its own base."""
    norms: Tensor
    """Lengths of the scoring model's features before normalisation, ``(n,)``; means over windows."""
    texts: tuple[TokenizedText, ...]
    """The texts' tokens."""
    probabilities: Tensor | None = None
    """Probability that each text is a description, ``(n,)``, means over windows; None without a read-out."""


REMEMBERED_WORDS = 16_384
"""Words whose tokens are remembered, the last used: most words of running text, in some megabytes."""

LONGEST_WORD = 32
"""Letters of a remembered word. Longer words are rare, and could be of any length."""


class WordTokens:
    """Encodes as open_clip's ``SimpleTokenizer.encode``, and remembers the last words and pieces of words.

    Safe with threads. Pickles without what it remembers.

    Args:
        tokenizer: open_clip's tokenizer.
        words: Words, and pieces of words, that are remembered.
    """

    def __init__(self, tokenizer: Any, words: int = REMEMBERED_WORDS) -> None:
        self._tokenizer, self._words = tokenizer, words
        self._plain = getattr(tokenizer.clean_fn, "__name__", "") == "_clean_lower"
        self._known_word = lru_cache(words)(self._word)
        self._known_piece = lru_cache(words)(self._piece)
        self.cache_info = self._known_word.cache_info

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = []
        known = self._known_word
        for word in self._clean(text).split(" "):
            ids += known(word) if len(word) <= LONGEST_WORD else self._word(word)
        return ids

    def _clean(self, text: str) -> str:
        """As open_clip does; of printable ASCII it changes only blanks, capitals and ``&...;``."""
        if self._plain and text.isascii() and text.isprintable() and "&" not in text:
            return " ".join(text.split()).lower()
        cleaned: str = self._tokenizer.clean_fn(text)
        return cleaned

    def _word(self, word: str) -> tuple[int, ...]:
        ids: list[int] = []
        for piece in self._tokenizer.pat.findall(word):
            ids += self._known_piece(piece) if len(piece) <= LONGEST_WORD else self._piece(piece)
        return tuple(ids)

    def _piece(self, piece: str) -> tuple[int, ...]:
        tokenizer = self._tokenizer
        letters = "".join(tokenizer.byte_encoder[byte] for byte in piece.encode("utf-8"))
        special = letters in tokenizer.cache
        ids = tuple(tokenizer.encoder[part] for part in tokenizer.bpe(letters).split(" "))
        if not special:  # open_clip's dictionary would keep the piece for good
            tokenizer.cache.pop(letters, None)
        return ids

    def __reduce__(self) -> tuple[Any, ...]:
        return (WordTokens, (self._tokenizer, self._words))
