"""Word by word gives open_clip's own tokens, in bounded memory."""

from __future__ import annotations

import pickle
import string

import open_clip
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from descscore.texts import LONGEST, Tokenizer, WordTokens, knows, pad

ORIGINAL = open_clip.get_tokenizer("ViT-B-32")
FAST = WordTokens(open_clip.get_tokenizer("ViT-B-32"), words=50)


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
@example("a" * (LONGEST + 1) + " " + "一二三" * LONGEST)
@example("")
@example(" ")
def test_tokens_are_open_clips(text: str) -> None:
    assert FAST(text) == ORIGINAL.encode(text)


def test_what_is_kept_is_bounded_in_words_and_in_their_length() -> None:
    assert FAST.cache_info().maxsize == 50
    fresh = WordTokens(open_clip.get_tokenizer("ViT-B-32"), words=5)
    fresh(" ".join(f"w{i}" for i in range(20)))
    assert fresh.cache_info().currsize == 5
    fresh("x" * 10_000)
    assert fresh.cache_info().misses == 20


def test_pickled_it_gives_the_same_tokens() -> None:
    twin = pickle.loads(pickle.dumps(FAST))
    assert twin("A brown dog's 3 tails") == ORIGINAL.encode("A brown dog's 3 tails")
    assert twin.cache_info().maxsize == 50


@pytest.mark.parametrize("clean", ["canonicalize", "whitespace"])
def test_other_ways_of_cleaning_are_kept(clean: str) -> None:
    other = open_clip.tokenizer.SimpleTokenizer(clean=clean)
    assert WordTokens(other)("A  Brown-dog's_Tail!") == other.encode("A  Brown-dog's_Tail!")


def test_a_tokenizer_of_another_kind_encodes_by_itself() -> None:
    class Own(open_clip.tokenizer.SimpleTokenizer):
        def encode(self, text: str) -> list[int]:
            return [7, *super().encode(text)]

    assert not knows(Own())
    assert Tokenizer(Own(), 77, "here").encode("a dog")[0] == 7


def test_padding() -> None:
    assert pad([(5, 6, 7), (8,), (9, 1)]).tolist() == [[5, 6, 7], [8, 0, 0], [9, 1, 0]]
