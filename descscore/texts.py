"""Tokenise texts, under an explicit policy for texts over the model's context length.

:class:`Tokenizer` turns a string into a :class:`TokenizedText`: one or more windows of token ids.
:class:`TextWindows` finds the distinct windows of many texts, so that each runs once through the
model. Then it computes the features of whole texts from those of their windows.

No token of open_clip's tokenizer spans a blank. So the tokens of a text are the tokens of its words,
one word after another. :class:`WordTokens` looks up known words, which is several times faster, and
its memory is bounded. open_clip's own dictionary keeps every word: in a stream of millions of texts
it would grow with every name and misspelling. (The caches are ``functools.lru_cache``, because it
looks up a word in C.)

Texts may come from strangers. So the time that a text takes grows no faster than its length: long words
are merged by :meth:`WordTokens._merged`, and :func:`check_cleaning` refuses the texts that would take
ftfy or Unicode's normal form quadratic time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import heapify, heappop, heappush
from itertools import chain, pairwise
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import regex
import torch
import torch.nn.functional as F
from torch import Tensor

from descscore.clip import SimpleTokenizer, ftfy
from descscore.errors import ModelError, TextError, UsageError, is_blank

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

MAX_TEXT = 100_000
"""Longest text that is tokenised, in characters, after cleaning."""

MAX_UNCLEANED = 1 << 20
"""Longest text that is cleaned, in characters: as long as a table's cell may be."""

_MOST_UNESCAPED = 8
"""How often a text may be escaped: ``&amp;amp;`` is escaped twice. ftfy takes a whole pass for each time."""

_MOST_MARKS = 500
"""Longest run of accents and other combining marks. The time of Unicode's normal form is quadratic in it."""


@dataclass(frozen=True)
class TokenizedText:
    """One text as windows of tokens."""

    rows: tuple[tuple[int, ...], ...]
    """Token ids of each window, with start and end token and without padding. Only the window policies give
    more than one window."""
    tokens: int
    """Length of the whole text, with start and end token."""
    truncated: bool
    """Whether ``rows`` lacks any token of the text."""
    weighted: bool = False
    """Whether a window's weight is its number of tokens; otherwise all windows have equal weights."""

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each window; the weights add up to 1."""
        parts = [len(row) - 2 if self.weighted else 1 for row in self.rows]
        total = sum(parts)
        if not total:  # an explanation has left out the only word
            return (1 / len(parts),) * len(parts)
        return tuple(part / total for part in parts)


def check_policy(policy: str) -> TextPolicy:
    """Return ``policy``; raises :class:`UsageError` with the choices for an unknown one."""
    if policy not in get_args(TextPolicy):
        raise UsageError(f"text policy {policy!r}: choose one of {', '.join(get_args(TextPolicy))}")
    return policy  # type: ignore[return-value]


def check_text(text: object) -> str:
    """Return ``text`` unless it is blank, far too long or not a text.

    Raises:
        TextError: Its kind is ``not_text``, ``empty_text`` for a blank text, or ``text_too_long`` for one of
            over :data:`MAX_UNCLEANED` characters.
    """
    if not isinstance(text, str):
        raise TextError(
            "not_text", f"text: expected a string, got {type(text).__name__} ({str(text)[:40]!r})"
        )
    if len(text) > MAX_UNCLEANED:
        raise TextError("empty_text", "text: blank") if text.isspace() else _too_long(text, MAX_UNCLEANED)
    if is_blank(text):
        raise TextError("empty_text", f"text {text[:20]!r}: empty or blank")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TextError("not_text", f"text {text[:40]!r}: not valid Unicode ({error.reason})") from None
    return text


def _too_long(text: str, limit: int) -> TextError:
    return TextError("text_too_long", f"text {text[:40]!r}...: {len(text):,} characters, over {limit:,}")


_MARKS = regex.compile(rf"\p{{M}}{{{_MOST_MARKS + 1}}}")


def check_cleaning(text: str) -> None:
    """Refuse a text whose cleaning would take far longer than its length justifies.

    Raises:
        TextError: Of kind ``not_text``.
    """
    if len(text) <= _MOST_MARKS or (text.isascii() and text.count(";") <= _MOST_UNESCAPED):
        return
    plain = _repaired(text)
    for _ in range(_MOST_UNESCAPED + 1):
        if _MARKS.search(plain):
            raise TextError("not_text", f"text {text[:40]!r}...: over {_MOST_MARKS} combining marks in a row")
        before, plain = plain, _repaired(ftfy.fixes.unescape_html(plain))
        if plain == before:
            return
    raise TextError("not_text", f"text {text[:40]!r}...: HTML, escaped over {_MOST_UNESCAPED} times")


def _repaired(text: str) -> str:
    """As ftfy repairs a text, without the two steps that may take quadratic time."""
    repaired: str = ftfy.fix_text(text, unescape_html=False, normalization=None)
    return repaired


def clean_text(tokenizer: Any, text: str) -> str:
    """Clean ``text`` as an open_clip tokenizer does. Raises :class:`TextError` for one made to fail."""
    check_cleaning(text)
    try:
        cleaned: str = tokenizer.clean_fn(text)
    except ValueError as error:  # &#999...; of more digits than Python reads
        raise TextError("not_text", f"text {text[:40]!r}...: cannot be cleaned ({error})") from None
    return cleaned


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

        A text may spell out ``<end_of_text>``. As a token it would end the text there, and the rest
        would be lost without notice. So start and end tokens inside a text are dropped.
        """
        return self._without_marks(self._encode(text))

    def _read(self, cleaned: str) -> list[int]:
        """As :meth:`encode`, for a text that is clean."""
        plain = self._encode.of_clean if isinstance(self._encode, WordTokens) else self._encode
        return self._without_marks(plain(cleaned))

    def _without_marks(self, ids: Sequence[int]) -> list[int]:
        marks = (self._tokenizer.sot_token_id, self._tokenizer.eot_token_id)
        return [i for i in ids if i not in marks]

    def clean(self, text: str) -> str:
        """``text`` as the tokenizer reads it: repaired, unescaped and usually in lower case."""
        return clean_text(self._tokenizer, text)

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens; a model may have embeddings for more."""
        return len(self._tokenizer.decoder)

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes of a token; they may be only a part of a character."""
        symbols = self._tokenizer.decoder[token].removesuffix("</w>")
        return bytes(self._tokenizer.byte_decoder[symbol] for symbol in symbols)

    def ends_word(self, token: int) -> bool:
        """Whether this token is the last of its word."""
        symbols: str = self._tokenizer.decoder[token]
        return symbols.endswith("</w>")

    def wrap(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Add start and end token, and cut to the context length; the end token is always kept."""
        fitting = ids[: self.context_length - 2]
        return (self._tokenizer.sot_token_id, *fitting, self._tokenizer.eot_token_id)

    def tokenize(self, text: str, policy: TextPolicy = "truncate") -> TokenizedText:
        """Tokens of one text.

        Raises:
            TextError: :func:`check_text` refuses the text, it has no token, or it is too long under the
                policy ``error``.
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
        rows = tuple(self.wrap(window) for window in self.windows(text))
        return TokenizedText(rows, count, False, weighted=policy == "weighted-windows")

    def windows(self, text: str) -> list[list[int]]:
        """Token ids of ``text`` in windows of whole sentences.

        A sentence that does not fit is split at blanks. A word that does not fit, such as a whole sentence in
        Chinese, is split between characters.
        """
        room = self.context_length - 2
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
        # ftfy repairs each line alone, but cleaning then joins the lines: so a noncharacter marks their ends.
        mark = next((mark for mark in map(chr, range(0xFDD0, 0xFDF0)) if mark not in text), "\ufdd0")
        sentences = re.split(r"(?<=[.!?;])\s+|\n+", text.strip())
        cleaned = self.clean(f"\n{mark}\n".join(sentences)).split(mark)
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


REMEMBERED_WORDS = 16_384
"""Number of words whose tokens are cached: most words of ordinary text, in a few megabytes."""

LONGEST_WORD = 32
"""Longest word that is cached, in letters. Longer words are rare, and could have any length."""


class WordTokens:
    """Encodes like open_clip's ``SimpleTokenizer.encode``, with a cache of words and pieces of words.

    Safe to use from several threads. Pickled without the cache.

    Args:
        tokenizer: open_clip's tokenizer.
        words: Number of words, and of pieces of words, in the cache.
    """

    def __init__(self, tokenizer: Any, words: int = REMEMBERED_WORDS) -> None:
        self._tokenizer, self._words = tokenizer, words
        self._plain = getattr(tokenizer.clean_fn, "__name__", "") == "_clean_lower"
        self._known_word = lru_cache(words)(self._word)
        self._known_piece = lru_cache(words)(self._piece)
        self.cache_info = self._known_word.cache_info

    def __call__(self, text: str) -> list[int]:
        return self.of_clean(self._clean(text))

    def of_clean(self, text: str) -> list[int]:
        """Token ids of a text that is clean."""
        ids: list[int] = []
        known = self._known_word
        for word in text.split(" "):
            ids += known(word) if len(word) <= LONGEST_WORD else self._word(word)
        return ids

    def _clean(self, text: str) -> str:
        """Clean as open_clip does; in printable ASCII this changes only blanks, capitals and ``&...;``."""
        if self._plain and text.isascii() and text.isprintable() and "&" not in text:
            cleaned = " ".join(text.split()).lower()
        else:
            cleaned = clean_text(self._tokenizer, text)
        if len(cleaned) > MAX_TEXT:
            raise _too_long(cleaned, MAX_TEXT)
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
        if len(letters) > LONGEST_WORD and not special:
            return tuple(tokenizer.encoder[part] for part in self._merged(letters))
        ids = tuple(tokenizer.encoder[part] for part in tokenizer.bpe(letters).split(" "))
        if not special:  # otherwise open_clip's dictionary would keep the piece forever
            tokenizer.cache.pop(letters, None)
        return ids

    def _merged(self, letters: str) -> list[str]:
        """The tokens of a long piece. open_clip's ``bpe`` gives the same, in quadratic time.

        Like that one, this merges all pairs of the lowest rank from left to right, then those of the next
        rank. The pairs wait in a heap, and the parts are a linked list: ``after`` and ``before`` hold places.
        """
        parts: list[str | None] = [*letters[:-1], letters[-1] + "</w>"]
        before, after = list(range(-1, len(parts) - 1)), list(range(1, len(parts) + 1))
        rank_of = self._tokenizer.bpe_ranks.get
        heap = [(rank, i) for i, pair in enumerate(pairwise(parts)) if (rank := rank_of(pair)) is not None]
        heapify(heap)
        while heap:
            lowest, begun = heap[0][0], []
            while heap and heap[0][0] == lowest:
                i = heappop(heap)[1]
                j = after[i]
                if j < len(parts) and rank_of((parts[i], parts[j])) == lowest:
                    parts[i], parts[j] = f"{parts[i]}{parts[j]}", None
                    after[i] = after[j]
                    if after[i] < len(parts):
                        before[after[i]] = i
                    begun += [i, before[i]]
            for i in begun:
                pair = (parts[i], parts[after[i]]) if i >= 0 and after[i] < len(parts) else ("", "")
                if (rank := rank_of(pair)) is not None:
                    heappush(heap, (rank, i))
        return [part for part in parts if part is not None]

    def __reduce__(self) -> tuple[Any, ...]:
        return (WordTokens, (self._tokenizer, self._words))
