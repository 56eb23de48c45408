"""Tokenise texts as open_clip's own tokenizer does, several times faster and in bounded memory.

No token of open_clip's tokenizer spans a blank. So the tokens of a text are the tokens of its words,
one word after another. :class:`OpenClipTokenizer` looks up known words, and its memory is bounded.
open_clip's own dictionary keeps every word: in a stream of millions of texts it would grow with every
name and misspelling. (The caches are ``functools.lru_cache``, because it looks up a word in C.)

Texts may come from strangers. So the time that a text takes grows no faster than its length, also for
one long word.
"""

from __future__ import annotations

from functools import lru_cache
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Any

REMEMBERED_WORDS = 16_384
"""Number of words whose tokens are cached: most words of ordinary text, in a few megabytes."""

LONGEST_WORD = 32
"""Longest word that is cached, in letters. Longer words are rare, and could have any length."""


class OpenClipTokenizer:
    """Encodes like open_clip's ``SimpleTokenizer.encode``, with a cache of words and pieces of words.

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
