"""Texts in several windows: each distinct window runs once, and windows become whole texts again."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from descscore.errors import ModelError, TextError, UsageError

# Keep open_clip's tokenizer from remembering every word that it has ever seen.
#
# Its ``bpe`` puts each word's merged pieces into a dict for good, which in a stream of
# millions of texts grows by every name and misspelling.


REMEMBERED_WORDS = 16_384
"""Words whose pieces are remembered, those used last: most of any running text, in some megabytes."""


class _Closed(dict[str, str]):
    """Takes nothing more in."""

    def __setitem__(self, word: str, pieces: str) -> None:
        pass

    def __reduce__(self) -> tuple[Any, ...]:
        # Unpickling would otherwise put the words back in one by one, and lose them.
        return (_Closed, (dict(self),))


class _Remembered:
    """``bpe`` with its last results; pickles, which ``lru_cache`` around a method does not."""

    def __init__(self, bpe: Callable[[str], str], words: int) -> None:
        self._bpe, self._words = bpe, words
        self._known = lru_cache(words)(bpe)
        self.cache_info = self._known.cache_info

    def __call__(self, word: str) -> str:
        return self._known(word)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_Remembered, (self._bpe, self._words))


def bound_word_cache(tokenizer: Any, words: int = REMEMBERED_WORDS) -> None:
    """Let ``tokenizer`` remember at most ``words`` words; its results stay the same.

    Safe with threads. A tokenizer without such a dict is left as it is.
    """
    if hasattr(tokenizer, "bpe") and isinstance(getattr(tokenizer, "cache", None), dict):
        tokenizer.cache = _Closed(tokenizer.cache)
        tokenizer.bpe = _Remembered(tokenizer.bpe, words)


# open_clip's byte-pair tokens of a text, several times faster: word by word, each known word looked up.
#
# No token of open_clip's tokenizer spans a blank, so the tokens of a cleaned text are those of its
# words, one after the other.


LONGEST = 32
"""Letters of a word that is remembered; longer ones are rare, and could be of any length."""

_LOWER = "_clean_lower"


class WordTokens:
    """Encodes as ``tokenizer.encode`` does, for a tokenizer that :func:`knows` says yes to. Safe with
    threads; remembers a bounded number of words and pickles without them.
    """

    def __init__(self, tokenizer: Any, words: int = REMEMBERED_WORDS) -> None:
        self._tokenizer, self._words = tokenizer, words
        self._plain = getattr(tokenizer.clean_fn, "__name__", "") == _LOWER
        self._known = lru_cache(words)(self._split)
        self.cache_info = self._known.cache_info

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = []
        known = self._known
        for word in self._clean(text).split(" "):
            ids += known(word) if len(word) <= LONGEST else self._split(word)
        return ids

    def _clean(self, text: str) -> str:
        """As open_clip's. Of printable ASCII its mending changes nothing but character references
        (``&amp;``), which leaves blanks and capitals.
        """
        if self._plain and text.isascii() and text.isprintable() and "&" not in text:
            return " ".join(text.split()).lower()
        cleaned: str = self._tokenizer.clean_fn(text)
        return cleaned

    def _split(self, word: str) -> tuple[int, ...]:
        tokenizer = self._tokenizer
        ids: list[int] = []
        for piece in tokenizer.pat.findall(word):
            letters = "".join(tokenizer.byte_encoder[byte] for byte in piece.encode("utf-8"))
            ids += (tokenizer.encoder[part] for part in tokenizer.bpe(letters).split(" "))
        return tuple(ids)

    def __reduce__(self) -> tuple[Any, ...]:
        return (WordTokens, (self._tokenizer, self._words))


def knows(tokenizer: Any) -> bool:
    """Whether ``tokenizer`` is open_clip's own, whose way of cutting :class:`WordTokens` follows."""
    from open_clip.tokenizer import SimpleTokenizer

    return type(tokenizer) is SimpleTokenizer


# Check texts and turn them into tokens, under an explicit policy for those that are too long.


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


@dataclass(frozen=True)
class TextWindows:
    """n texts made of w windows over r distinct token rows.

    rows: the r distinct rows. row, owner: ``(w,)`` each window's row and text. weight:
    ``(w,)`` what it counts; a text's weights add up to 1.
    """

    rows: list[tuple[int, ...]]
    row: Tensor
    owner: Tensor
    weight: Tensor

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
        found = values[self.row.to(values.device)]
        n = int(self.owner[-1]) + 1
        if n == len(self.owner):
            return found
        weight = self.weight.to(found).view(-1, *[1] * (found.ndim - 1))
        return found.new_zeros(n, *found.shape[1:]).index_add(0, self.owner.to(found.device), found * weight)

    def features(self, unit: Tensor) -> Tensor:
        """Unit features of whole texts: the unit mean of their windows' ones, ``(r, d)`` -> ``(n, d)``."""
        if len(self.owner) == int(self.owner[-1]) + 1:
            return unit[self.row.to(unit.device)]
        return F.normalize(self.means(unit), dim=-1)


@dataclass(frozen=True)
class EncodedTexts:
    """Texts under the scoring model and under its base.

    features, base_features: ``(n, embed_dim)`` unit vectors (the same tensor
    where the model is its own base). norms: ``(n,)`` lengths that the scoring model's
    features had before they became unit vectors, a text's the mean of its windows'. texts:
    what was tokenised, in the same order. probabilities: ``(n,)``, that each is a
    description, the mean over its windows; None where the model has no read-out.
    """

    features: Tensor
    base_features: Tensor
    norms: Tensor
    texts: tuple[TokenizedText, ...]
    probabilities: Tensor | None = None
