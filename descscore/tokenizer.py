"""Tokenise texts, with open_clip's own tokenizer or one of Hugging Face's libraries.

:class:`Tokenizer` checks and cleans a text (:mod:`descscore.cleaning`), finds its tokens, and obeys the text
policy (:data:`descscore.texts.TextPolicy`). The tokens come from :class:`OpenClipTokenizer`, or from a
:class:`descscore.library_tokenizer.LibraryTokenizer`.

Texts may come from strangers. So the time that a text takes grows no faster than its length, also for
one long word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from heapq import heapify, heappop, heappush
from itertools import chain, pairwise
from typing import Any

from torch import Tensor

from descscore.cleaning import MAX_TEXT, check_text, clean_text, too_long
from descscore.clip import SimpleTokenizer
from descscore.errors import ModelError, TextError
from descscore.texts import WINDOWS, TextPolicy, TokenizedText, pad

REMEMBERED_WORDS = 16_384
"""Number of words whose tokens are cached: most words of ordinary text, in a few megabytes."""

LONGEST_WORD = 32
"""Longest word that is cached, in letters. Longer words are rare, and could have any length."""


class Tokenizer:
    """Turns texts into the token rows that a model takes. It cleans a text and applies the text policy.

    Start and end tokens that a text spells out are dropped, and nothing else is lost without a word.

    Args:
        tokenizer: open_clip's own, or :class:`descscore.library_tokenizer.LibraryTokenizer`.
        context_length: Number of tokens that the model takes, start and end token included.
        source: The model's name, for messages.
        padded: Whether the text tower reads the padding, so that rows must have it.
    """

    def __init__(self, tokenizer: Any, context_length: int, source: str, padded: bool = False) -> None:
        is_open_clip = all(hasattr(tokenizer, name) for name in ("encode", "sot_token_id", "eot_token_id"))
        if not is_open_clip and not all(hasattr(tokenizer, name) for name in ("encode", "windows")):
            raise ModelError(f"{source}: its tokenizer ({type(tokenizer).__name__}) is not supported")
        self.library: Any = None if is_open_clip else tokenizer
        """A :class:`descscore.library_tokenizer.LibraryTokenizer`; None for open_clip's own tokenizer."""
        self._tokenizer = tokenizer
        fast = type(tokenizer) is SimpleTokenizer
        self._encode: Any = OpenClipTokenizer(tokenizer).encode if fast else tokenizer.encode
        self.context_length = context_length
        self._pads_left = self.library is not None and self.library.pads_left
        self.padding: int | None
        """The token with which rows are filled up to the context length; None where they are not."""
        if self.library is not None:
            self.start, self.end, self.padding = tokenizer.start, tokenizer.end, tokenizer.padding
            self._special = {*self.start, *self.end, tokenizer.padding}  # padding stands for no word either
        else:
            self.start, self.end = (tokenizer.sot_token_id,), (tokenizer.eot_token_id,)
            self.padding = 0 if padded else None
            self._special = {*self.start, *self.end}
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
        return [i for i in self._encode(cleaned) if i not in self._special]

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
            return self.library.windows(self._clean_sentences(text), room, self._read)
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


def token_rows(tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """Padded tokens of texts, cut to the context length with the end token kept: ``(n, longest)`` int64."""
    return pad([tokenizer.tokenize(text).rows[0] for text in texts])


class OpenClipTokenizer:
    """Encodes as open_clip's ``SimpleTokenizer.encode`` does, several times faster and in bounded memory.

    No token of open_clip's tokenizer spans a blank. So the tokens of a text are the tokens of its words, one
    word after another, and known words are looked up. open_clip's own dictionary keeps every word: in a
    stream of millions of texts it would grow with every name and misspelling. (The caches are
    ``functools.lru_cache``, because it looks up a word in C.)

    Safe to use from several threads. Pickled without the cache.

    Args:
        tokenizer: open_clip's tokenizer.
        words: Number of words, and of pieces of words, in the cache.
    """

    def __init__(self, tokenizer: Any, words: int = REMEMBERED_WORDS) -> None:
        self._tokenizer, self._words = tokenizer, words
        self._known_word = lru_cache(words)(self._word)
        self._known_piece = lru_cache(words)(self._piece)
        self.cache_info = self._known_word.cache_info

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that is clean (:func:`descscore.cleaning.clean_text`)."""
        ids: list[int] = []
        known = self._known_word
        for word in text.split(" "):
            ids += known(word) if len(word) <= LONGEST_WORD else self._word(word)
        return ids

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
        return (OpenClipTokenizer, (self._tokenizer, self._words))
