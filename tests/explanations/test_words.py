"""Words: every character once, every token once, and offsets that hold in the original text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from descscore.errors import TextError
from descscore.explanations.words import Word, split_words
from descscore.models import load_model
from descscore.texts import TextPolicy
from descscore.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return load_model(tiny_folder, "cpu").tokenizer


def check(tokenizer: Tokenizer, text: str, policy: TextPolicy = "truncate") -> tuple[Word, ...]:
    """The words, after all that must hold for any text."""
    tokenized = tokenizer.tokenize(text, policy)
    words = split_words(tokenizer, text, tokenized)
    rejoined, end = "", 0
    for word in words:
        assert word.start >= end
        assert word.end > word.start
        assert text[word.start : word.end] == word.text
        gap = text[end : word.start]
        assert not gap.strip()
        rejoined, end = rejoined + gap + word.text, word.end
    assert rejoined + text[end:] == text
    assert not text[end:].strip()
    expected = [(r, c) for r, row in enumerate(tokenized.rows) for c in range(1, len(row) - 1)]
    assert sorted(token for word in words for token in word.tokens) == expected
    return words


HINDI, MOJIBAKE = "\u0939\u093f\u0928\u094d\u0926\u0940", "\u00c3\u00a9t\u00c3\u00a9"
PIECES = (
    *("a dog", "Dog's", "1,984.5", "&amp;", "&lt;b&gt;", "&nbsp;", "&eacute;", "<end_of_text>", "</w>"),
    *("caf\u00e9", "cafe\u0301", "\ufb01ne", "\uff21\uff22", "\u0130stanbul", "ΣΑΣ", "it\u2019s"),
    *("\u201cyes\u201d", "👩\u200d💻", "👍🏽👍", "🇫🇷", "1\ufe0f\u20e3", HINDI, MOJIBAKE, "日本語", "שלום"),
    *("\u200b", "\x00", "\x1b[31m", "\x1f", "\r\n", "\u2028", "\u00a0", "\t", "...", "!!", "-", "_", " "),
    *("x" * 30, "\ufeff", "\u0301"),
)
MESSY = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join),
)


@given(text=MESSY, policy=st.sampled_from(["truncate", "windows"]))
@settings(max_examples=150, deadline=None)
def test_any_text_rejoins(tokenizer: Tokenizer, text: str, policy: TextPolicy) -> None:
    try:
        tokenizer.tokenize(text, policy)
    except TextError:
        return
    check(tokenizer, text, policy)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Grace Hopper's ship, (1984).", ["Grace", "Hopper's", "ship", ",", "(", "1984", ")."]),
        ("a&amp;b", ["a", "&amp;", "b"]),
        ("well-known 3.5 kg at 10:30", ["well-known", "3.5", "kg", "at", "10:30"]),
        ("caf\u00e9 cafe\u0301!", ["caf\u00e9", "cafe\u0301", "!"]),
        ("it\u2019s \ufb01ne", ["it\u2019s", "\ufb01ne"]),
        ("ok 👩\u200d💻👍🏽", ["ok", "👩\u200d💻", "👍🏽"]),
        (
            "\u0939\u093f\u0928\u094d\u0926\u0940 \u0939\u0948",
            ["\u0939\u093f\u0928\u094d\u0926\u0940", "\u0939\u0948"],
        ),
        ("\u0130stanbul ΣΑΣ", ["\u0130stanbul", "ΣΑΣ"]),
        ("\u00d0\u00bc\u00d0\u00b8\u00d1\u20ac ok", ["\u00d0\u00bc\u00d0\u00b8\u00d1\u20ac", "ok"]),
    ],
)
def test_words_are_those_a_reader_sees(tokenizer: Tokenizer, text: str, expected: list[str]) -> None:
    words = check(tokenizer, text)
    assert [word.text for word in words] == expected
    assert all(word.tokens for word in words)


def test_a_token_belongs_to_the_word_it_was_made_of(tokenizer: Tokenizer) -> None:
    """Each word's tokens decode to that word as the tokenizer cleans it."""
    text = "Une tour &amp; caf\u00e9 à PARIS, 1889\u20131900: dog\u2019s \uff21\uff22\uff23 👩\u200d💻!"
    row = tokenizer.tokenize(text).rows[0]
    for word in check(tokenizer, text):
        read = b"".join(tokenizer.token_bytes(row[column]) for _, column in word.tokens)
        assert read.decode() == tokenizer.clean(word.text)


def test_a_long_word_keeps_its_tokens_together(tokenizer: Tokenizer) -> None:
    (word, end) = check(tokenizer, "donaudampfschifffahrtsgesellschaft.")
    assert len(word.tokens) > 5
    assert end.text == "."


def test_words_cut_off_have_no_tokens(tokenizer: Tokenizer) -> None:
    text = "red boat, " * 60
    words = check(tokenizer, text)
    assert len(words) == 180
    seen = [bool(word.tokens) for word in words]
    assert seen == [True] * 75 + [False] * 105
    assert all(word.tokens for word in check(tokenizer, text, "windows"))


def test_a_word_cut_in_its_middle_keeps_what_is_read(tokenizer: Tokenizer) -> None:
    words = check(tokenizer, "a " * 70 + "donaudampfschifffahrtsgesellschaftskapitän after")
    assert 0 < len(words[70].tokens) < 10
    assert words[71].tokens == ()


def test_a_spelled_out_end_mark_is_no_token(tokenizer: Tokenizer) -> None:
    words = check(tokenizer, "one <end_of_text> two")
    assert [word.text for word in words if word.tokens] == ["one", "two"]


def test_repairs_that_reach_over_white_space(tokenizer: Tokenizer) -> None:
    """A no-break space is here a part of what is mended; the words behind it must stay in their places."""
    words = check(tokenizer, "voil\u00c3\u00a0 la tour rouge de Paris")
    assert [word.text for word in words][-4:] == ["tour", "rouge", "de", "Paris"]


def test_hard_texts_take_no_longer_than_they_should(tokenizer: Tokenizer) -> None:
    check(tokenizer, "\u00c3\u00a9&amp;" * 1000 + " after")
    check(tokenizer, "a\u0301 \x00" * 1000)
