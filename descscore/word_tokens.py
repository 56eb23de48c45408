"""Clean texts, and tokenise them as open_clip's own tokenizer does.

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

from functools import lru_cache
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Any

import regex

from descscore.clip import ftfy
from descscore.errors import TextError

MAX_TEXT = 100_000
"""Longest text that is tokenised, in characters, after cleaning."""

_MOST_UNESCAPED = 8
"""How often a text may be escaped: ``&amp;amp;`` is escaped twice. ftfy takes a whole pass for each time."""

_MOST_MARKS = 500
"""Longest run of accents and other combining marks. The time of Unicode's normal form is quadratic in it."""


def too_long(text: str, limit: int) -> TextError:
    """The error for a text of over ``limit`` characters."""
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
            raise too_long(cleaned, MAX_TEXT)
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
