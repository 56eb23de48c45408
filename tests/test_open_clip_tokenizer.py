"""The tokenizer cuts texts word by word into open_clip's own tokens, in bounded memory."""

from __future__ import annotations

import copy
import pickle
import string
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from typing import Any

import open_clip
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from descscore.cleaning import clean_text
from descscore.texts import pad
from descscore.tokenizer import LONGEST_WORD, OpenClipTokenizer, Tokenizer

ORIGINAL = open_clip.get_tokenizer("ViT-B-32")
FAST = OpenClipTokenizer(open_clip.get_tokenizer("ViT-B-32"), words=50)


def tokens(text: str, tokenizer: OpenClipTokenizer = FAST, original: Any = ORIGINAL) -> list[int]:
    """What ``tokenizer`` gives for a text as it comes, cleaned as ``original`` does."""
    return tokenizer.encode(clean_text(original, text))


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(
        st.text(),
        st.text(string.printable),
        st.text("aB '!<>_&;.3\u00e9\x1c\x85\u2028\u3000\ufb01", max_size=60),
    )
)
@example("A cat's tail, <end_of_text> twice! <START_OF_TEXT>")
@example("x &amp;amp; y &lt;b&gt; &#39;s ")
@example("tabs\tand\nlines\r\nand\x1c\x1d\x1f separators\x0bhere")
@example("\x1b[36;44mterminal\x1b[0m codes")
@example("â€œmojibakeâ€\x9d schÃ¶n ﬁne \uff26\uff35\uff2c\uff2c")
@example("I'LL 'RE'VE don't''s  1984-05")
@example("a" * (LONGEST_WORD + 1) + " " + "一二三" * LONGEST_WORD)
@example("")
@example(" ")
def test_tokens_are_open_clips(text: str) -> None:
    assert tokens(text) == ORIGINAL.encode(text)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(st.characters(categories=["L"]), min_size=LONGEST_WORD + 1, max_size=200),
        st.text("ab", min_size=LONGEST_WORD + 1, max_size=200),
        st.text("thecati", min_size=LONGEST_WORD + 1, max_size=200),
        st.text("?!-.\U0001f408", min_size=LONGEST_WORD + 1, max_size=100),
    )
)
def test_long_words_have_open_clips_tokens(word: str) -> None:
    """Long words are merged by another method than open_clip's, in the same order."""
    assert tokens(word) == ORIGINAL.encode(word)


def test_what_is_kept_is_bounded_in_words_and_in_their_length() -> None:
    assert FAST.cache_info().maxsize == 50
    fresh = OpenClipTokenizer(open_clip.get_tokenizer("ViT-B-32"), words=5)
    fresh.encode(" ".join(f"w{i}" for i in range(20)))
    assert fresh.cache_info().currsize == 5
    fresh.encode("x" * 10_000)
    assert fresh.cache_info().misses == 20


def test_pickled_it_gives_the_same_tokens() -> None:
    twin = pickle.loads(pickle.dumps(FAST))
    assert tokens("A brown dog's 3 tails", twin) == ORIGINAL.encode("A brown dog's 3 tails")
    assert twin.cache_info().maxsize == 50


@pytest.mark.parametrize("clean", ["canonicalize", "whitespace"])
def test_other_ways_of_cleaning_are_kept(clean: str) -> None:
    other = open_clip.tokenizer.SimpleTokenizer(clean=clean)
    assert tokens("A  Brown-dog's_Tail!", OpenClipTokenizer(other), other) == other.encode(
        "A  Brown-dog's_Tail!"
    )


def test_a_tokenizer_of_another_kind_encodes_by_itself() -> None:
    class Own(open_clip.tokenizer.SimpleTokenizer):
        def encode(self, text: str) -> list[int]:
            return [7, *super().encode(text)]

    assert Tokenizer(Own(), 77, "here").encode("a dog")[0] == 7


def test_padding() -> None:
    assert pad([(5, 6, 7), (8,), (9, 1)]).tolist() == [[5, 6, 7], [8, 0, 0], [9, 1, 0]]


SYLLABLES = ["ba", "dre", "fi", "gno", "hu", "ki", "lo", "mer", "nu", "pol", "qua", "ri", "so", "tu", "ve"]


def many_words(count: int) -> list[str]:
    """That many different words."""
    return ["".join(parts) for parts, _ in zip(product(SYLLABLES, repeat=5), range(count), strict=False)]


def test_what_is_kept_does_not_grow_with_distinct_words() -> None:
    """Through the package's own tokenizer, as a stream of names and misspellings would fill it."""
    original = open_clip.get_tokenizer("ViT-B-32")
    tokenizer = Tokenizer(original, 77, "here")
    tokenizer.encode("a cat <end_of_text>")
    before = len(pickle.dumps(original))
    for word in many_words(3000):
        tokenizer.encode(word)
    assert len(pickle.dumps(original)) == before


def test_tokens_are_right_where_words_are_forgotten_and_come_again() -> None:
    """Also in several threads at once, and after pickling."""
    plain = open_clip.get_tokenizer("ViT-B-32")
    bounded = OpenClipTokenizer(open_clip.get_tokenizer("ViT-B-32"), 3)
    texts = ["A cat's tail, <end_of_text> twice!", *many_words(40), "Zwölf Boxkämpfer 🐈", "1984"] * 3
    expected = [plain.encode(text) for text in texts]
    assert [tokens(text, bounded) for text in texts] == expected
    assert bounded.cache_info().currsize == 3
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(partial(tokens, tokenizer=bounded), texts)) == expected
    for twin in (pickle.loads(pickle.dumps(bounded)), copy.deepcopy(bounded)):
        assert [tokens(text, twin) for text in texts] == expected
        assert twin.cache_info().currsize == 3
