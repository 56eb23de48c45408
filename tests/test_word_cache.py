"""The tokenizer's memory of words is bounded, and changes no token."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import open_clip
import pytest

from descscore import texts as word_cache
from descscore.texts import Tokenizer, bound_word_cache

SYLLABLES = (
    "ba",
    "dre",
    "fi",
    "gno",
    "hu",
    "ki",
    "lo",
    "mer",
    "nu",
    "pol",
    "qua",
    "ri",
    "so",
    "tu",
    "ve",
    "wy",
)


def many_words(count: int) -> list[str]:
    """That many different words."""
    return ["".join(parts) for parts, _ in zip(product(SYLLABLES, repeat=5), range(count), strict=False)]


def test_what_is_kept_does_not_grow_with_distinct_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the package's own tokenizer, as a stream of names and misspellings would fill it."""
    monkeypatch.setattr(word_cache.bound_word_cache, "__defaults__", (200,))
    original = open_clip.get_tokenizer("ViT-B-32")
    tokenizer = Tokenizer(original, 77, "here")
    for word in many_words(3000):
        tokenizer.encode(word)
    assert original.bpe.cache_info().currsize == 200
    assert len(original.cache) == 2  # the start and end token, there from the beginning


def test_tokens_are_those_of_an_unbounded_tokenizer() -> None:
    """Also where words are forgotten and come again, and in several threads at once."""
    plain, bounded = open_clip.get_tokenizer("ViT-B-32"), open_clip.get_tokenizer("ViT-B-32")
    bound_word_cache(bounded, 3)
    texts = ["A cat's tail, <end_of_text> twice!", *many_words(40), "Zwölf Boxkämpfer 🐈", "1984"] * 3
    expected = [plain.encode(text) for text in texts]
    assert [bounded.encode(text) for text in texts] == expected
    assert bounded.bpe.cache_info().currsize == 3
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(bounded.encode, texts)) == expected


def test_a_pickled_tokenizer_gives_the_same_tokens_and_stays_bounded() -> None:
    bounded = open_clip.get_tokenizer("ViT-B-32")
    bound_word_cache(bounded, 3)
    texts = ["A cat's tail, <end_of_text> twice!", *many_words(40)]
    expected = [bounded.encode(text) for text in texts]
    for twin in (pickle.loads(pickle.dumps(bounded)), copy.deepcopy(bounded)):
        assert [twin.encode(text) for text in texts] == expected
        assert twin.bpe.cache_info().currsize == 3
        assert twin.cache == bounded.cache


def test_a_tokenizer_of_another_kind_is_left_alone() -> None:
    class Other:
        def encode(self, text: str) -> list[int]:
            return [len(text)]

    other = Other()
    bound_word_cache(other)
    assert vars(other) == {}
