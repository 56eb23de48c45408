"""Keep open_clip's tokenizer from remembering every word that it has ever seen.

Its ``bpe`` puts each word's merged pieces into a dict for good, which in a stream of
millions of texts grows by every name and misspelling.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

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
