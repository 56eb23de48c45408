"""Tokens, counts, policies, and texts that cannot be scored."""

from __future__ import annotations

import contextlib
import re
import time

import open_clip
import pytest
from hypothesis import given
from hypothesis import strategies as st

from descscore.cleaning import check_text
from descscore.errors import ModelError, TextError, UsageError
from descscore.texts import TextPolicy, check_policy, pad
from descscore.tokenizer import Tokenizer

REFERENCE = open_clip.get_tokenizer("ViT-B-32")
TOKENIZER = Tokenizer(REFERENCE, 77, "test")
LONG = "A red car stands. " * 40


@given(st.text(min_size=1))
def test_equals_open_clip_on_any_text(text: str) -> None:
    try:
        ours = TOKENIZER.tokenize(text)
    except TextError as error:
        assert error.kind in ("empty_text", "not_text")
        return
    theirs = REFERENCE(text)[0]
    assert list(ours.rows[0]) == theirs[: len(ours.rows[0])].tolist()
    assert not theirs[len(ours.rows[0]) :].any()
    assert ours.truncated == (ours.tokens > 77)


def test_end_token_stays_when_cut() -> None:
    text = TOKENIZER.tokenize(LONG)
    assert (len(text.rows[0]), text.rows[0][-1], text.tokens, text.truncated) == (77, 49407, 202, True)
    assert list(text.rows[0]) == REFERENCE(LONG)[0].tolist()


def test_exactly_the_context_length_is_not_cut() -> None:
    text = "cat " * 75
    assert (TOKENIZER.tokenize(text).tokens, TOKENIZER.tokenize(text).truncated) == (77, False)
    assert TOKENIZER.tokenize(text + "cat").truncated


def test_spelled_out_end_token_hides_nothing() -> None:
    spelled = TOKENIZER.tokenize("a cat <end_of_text> and a dog")
    assert spelled.rows == TOKENIZER.tokenize("a cat and a dog").rows
    assert TOKENIZER.tokenize("<start_of_text>a cat").rows == TOKENIZER.tokenize("a cat").rows


def test_error_policy_names_the_text_and_the_limit() -> None:
    assert TOKENIZER.tokenize("a cat", "error").tokens == 4
    with pytest.raises(TextError, match=r"A red car.*202 tokens, over the model's 77") as caught:
        TOKENIZER.tokenize(LONG, "error")
    assert caught.value.kind == "text_too_long"


def test_windows_hold_whole_sentences_and_lose_nothing() -> None:
    text = TOKENIZER.tokenize(LONG, "windows")
    assert not text.truncated
    assert len(text.rows) == 3  # 40 sentences of 5 tokens, 15 to a window
    assert all(row[0] == 49406 and row[-1] == 49407 and len(row) <= 77 for row in text.rows)
    inner = [token for row in text.rows for token in row[1:-1]]
    assert inner == TOKENIZER.encode(LONG)


@given(
    st.lists(
        st.sampled_from(
            [
                "a cat",
                "Zwei Hunde",
                "sitzen auf é",
                "猫が",
                "don't",
                "5.5",
                "a_b",
                "naïve",
                ". ",
                "! ",
                "\n",
                ";\n",
            ]
        ),
        min_size=60,
        max_size=150,
    ),
    st.sampled_from([" ", "  "]),
)
def test_windows_are_those_of_sentences_cleaned_one_by_one(parts: list[str], blank: str) -> None:
    text = "A photo" + blank + blank.join(parts)
    expected: list[list[int]] = []
    for sentence in re.split(r"(?<=[.!?;])\s+|\n+", text.strip()):
        ids = TOKENIZER.encode(sentence)
        for part in [ids] if len(ids) <= 75 else map(TOKENIZER.encode, sentence.split()):
            if expected and len(expected[-1]) + len(part) <= 75:
                expected[-1] += part
            elif part:
                expected.append(list(part))
    assert TOKENIZER.windows(text) == expected


@pytest.mark.parametrize(
    "text",
    ["\x01 " * 20_000 + "word " * 100, "é " * 40_000, "é. " * 10_000, "\x01\n" * 10_000 + "word " * 100],
)
def test_windows_of_many_small_pieces_take_seconds(text: str) -> None:
    """Cleaning each word alone took far longer."""
    start = time.process_time()
    windows = TOKENIZER.tokenize(text, "windows")
    assert [token for row in windows.rows for token in row[1:-1]] == TOKENIZER.encode(text)
    assert time.process_time() - start < 8


def test_noncharacters_are_read_or_refused() -> None:
    long = "A cat sits. \ufdd0 &#xE000; &#xFDD1; A dog. " * 20
    windows = TOKENIZER.tokenize(long, "windows")
    assert [token for row in windows.rows for token in row[1:-1]] == TOKENIZER.encode(long)
    with pytest.raises(TextError, match="noncharacters"):
        TOKENIZER.tokenize(long + "".join(map(chr, range(0xFDD0, 0xFDF0))), "windows")


def test_weighted_windows_count_by_their_tokens() -> None:
    plain, weighted = (TOKENIZER.tokenize(LONG, policy) for policy in ("windows", "weighted-windows"))
    assert weighted.rows == plain.rows
    assert len(plain.rows) > 1
    assert plain.weights == (1 / len(plain.rows),) * len(plain.rows)
    sizes = [len(row) - 2 for row in plain.rows]
    assert weighted.weights == pytest.approx([size / sum(sizes) for size in sizes])
    assert TOKENIZER.tokenize("A cat.", "weighted-windows").weights == (1.0,)


def test_windows_of_a_sentence_without_end_break_at_words() -> None:
    text = "elephant " * 200
    windows = TOKENIZER.tokenize(text, "windows")
    assert [token for row in windows.rows for token in row[1:-1]] == TOKENIZER.encode(text)
    assert not windows.truncated


@pytest.mark.parametrize(
    "text",
    ["猫" * 200, "犬が" * 30 + " cat " + "猫" * 200, "xq" * 300, "\U0001f469\u200d\U0001f9af" * 60, "é" * 99],
)
@pytest.mark.parametrize("policy", ["windows", "weighted-windows"])
def test_windows_of_a_text_without_blanks_break_between_characters(text: str, policy: TextPolicy) -> None:
    """Chinese and Japanese have no blanks: nothing may be lost, and no character cut in two."""
    windows = TOKENIZER.tokenize(text, policy)
    assert not windows.truncated
    assert len(windows.rows) > 1
    assert all(len(row) <= 77 for row in windows.rows)
    assert [token for row in windows.rows for token in row[1:-1]] == TOKENIZER.encode(text)
    for row in windows.rows:
        b"".join(TOKENIZER.token_bytes(token) for token in row[1:-1]).decode("utf-8")
    assert sum(windows.weights) == pytest.approx(1)


@pytest.mark.parametrize(
    "text",
    [
        "".join("abcdefghijklmnop"[i * i % 16] for i in range(16_000)),
        "xq\x01" * 30_000,
        "?!" * 40_000,
        "猫が" * 50_000,
        "&" + "amp;" * 25_000,
        "&" + "am\x01p;" * 20_000,
        "&" + "am&#1;p;" * 12_000,
        "\uff06" + "amp\uff1b" * 20_000,
        "e" + "\u0316\u0301" * 50_000,
        "e" + "\u0316\x01" * 50_000,
        "e" + "&amp;#x316;&#x301;" * 5_000,
        "e" + "\u0316\u0301".encode().decode("latin-1") * 20_000,
        "&#" + "9" * 90_000 + ";",
        "a" + " " * 900_000 + "b",
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_no_text_takes_more_than_seconds(text: str) -> None:
    """Each of these took from 10 seconds to many minutes, or raised an error of another kind."""
    start = time.process_time()
    with contextlib.suppress(TextError):
        TOKENIZER.tokenize(text)
    assert time.process_time() - start < 5


def test_a_word_of_16_000_letters_costs_under_a_second_and_has_open_clips_first_tokens() -> None:
    word = "".join("abcdefghijklmnopqrstuvwxyz"[i * i % 26] for i in range(16_000))
    start = time.process_time()
    ours = TOKENIZER.tokenize(word)
    assert time.process_time() - start < 1
    short = word[:1000]  # open_clip takes half a minute for the whole; its first tokens are the same
    assert ours.rows[0][:70] == tuple(REFERENCE(short)[0][:70].tolist())


def test_limits_hold_after_cleaning() -> None:
    assert TOKENIZER.tokenize("A cat." + " " * 500_000).tokens == 5
    for text in ("cat " * 25_001, "x" * 100_001, "\u00a0cat" * 300_000):
        with pytest.raises(TextError, match="over 1") as caught:
            TOKENIZER.tokenize(text)
        assert caught.value.kind == "text_too_long"
    assert TOKENIZER.tokenize("cat " * 25_000).tokens == 25_002


def test_escaped_and_accented_texts_of_any_usual_kind_are_read() -> None:
    """What is refused is far from any text: eight layers of escapes, 500 accents on a letter."""
    for text in (
        "&amp;amp;lt; " * 200,
        "Z\u0300\u0316\u0348a\u0301\u0329l\u0334g\u0321o " * 200,
        "a; b; " * 500,
    ):
        assert TOKENIZER.encode(text) == REFERENCE.encode(text)


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u3000"])
def test_empty_and_blank(text: str) -> None:
    with pytest.raises(TextError) as caught:
        check_text(text)
    assert caught.value.kind == "empty_text"


@pytest.mark.parametrize("text", [None, 3.5, b"cat", ["cat"], float("nan"), "\ud800"])
def test_not_text(text: object) -> None:
    with pytest.raises(TextError) as caught:
        check_text(text)
    assert caught.value.kind == "not_text"


def test_unknown_policy_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"'cut'.*truncate, error, windows"):
        check_policy("cut")


def test_other_tokenizers_are_refused() -> None:
    with pytest.raises(ModelError, match=r"m: its tokenizer \(object\)"):
        Tokenizer(object(), 77, "m")


def test_pad() -> None:
    assert pad([(1, 2), (3,)]).tolist() == [[1, 2], [3, 0]]


INVISIBLE = [
    *(
        "\u200b",
        "\u00ad",
        "\u2060\ufeff",
        "\u3164",
        "\uffa0",
        "\u2800\u2800",
        "\u180e",
        "\ufe0f",
        "\U000e0020",
    ),
    *(
        "&nbsp;",
        "&#8203;",
        "&shy;&#x2800;",
        "&amp;nbsp;",
        "&ZeroWidthSpace;",
        " \u00a0\t&#xA0;",
        "\u2028",
        "\u034f",
    ),
]


@pytest.mark.parametrize("text", INVISIBLE)
def test_a_text_that_nobody_can_see_is_empty(text: str) -> None:
    with pytest.raises(TextError) as raised:
        check_text(text)
    assert raised.value.kind == "empty_text"
    assert check_text(f"{text}A dog.{text}")


@pytest.mark.parametrize(
    "text", ["&", "&amp;", "&#65;", "&notanentity;", ".", "é", "猫", "🐕‍🦺", "\u0301a", "&" * 99_999]
)
def test_a_text_that_somebody_sees_is_none_of_these(text: str) -> None:
    assert check_text(text) == text
