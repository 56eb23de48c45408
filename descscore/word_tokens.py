"""open_clip's byte-pair tokens of a text, several times faster: word by word, each known word looked up.

No token of open_clip's tokenizer spans a blank, so the tokens of a cleaned text are those of its
words, one after the other.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from descscore.word_cache import REMEMBERED_WORDS

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
