"""Split a text into words, and find the tokens of each word.

The tokenizer reads a cleaned text: repaired by ftfy, HTML unescaped, in lower case. So positions of
tokens in the cleaned text are not positions in the original. This module aligns every character
of the cleaned text with the original, and splits the original into words.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import TypeAlias

import regex

from descscore.texts import TokenizedText
from descscore.tokenizer import Tokenizer

Span: TypeAlias = tuple[int, int]
"""First character, and the one after the last."""

Clean: TypeAlias = Callable[[str], str]

_UNIT = regex.compile(
    r"""
    [\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}] \p{M}*   # no blanks between words
    | [\p{L}\p{M}\p{N}]+                          # letters, their marks, digits
    (?: (?: ['\u2019\-\u2010\u2011]               # apostrophes and hyphens: don't, well-known
          | (?<=\p{N}) [.,:/\u2013] (?=\p{N}) )    # 3.5, 1,984, 10:30, a range of years
        [\p{L}\p{M}\p{N}]+ )*
    | \p{P}+                                      # punctuation
    | \X                                          # an emoji with all its parts, any other sign
    """,
    regex.VERBOSE,
)
_ANCHOR = 3
"""Number of consecutive chunks that must agree before the alignment continues after a mismatch."""

_COARSE = 1_000_000
"""Letters x letters of the largest block that is aligned letter by letter."""


@dataclass(frozen=True)
class Word:
    """``text[start:end]`` of the original text."""

    text: str
    """The word."""
    start: int
    """Position of its first character."""
    end: int
    """Position after its last character."""
    tokens: tuple[tuple[int, int], ...]
    """Positions (row, column) of its tokens; the start token has column 0. Empty for a word that the model
    does not see (cut off, or dropped in cleaning)."""


def split_words(tokenizer: Tokenizer, text: str, tokenized: TokenizedText) -> tuple[Word, ...]:
    """The words of ``text`` in order, each with the tokens that the model reads.

    Every character except white space belongs to exactly one word, and every token to at most one.
    ``tokenized`` is what ``tokenizer.tokenize`` made of ``text``.
    """
    rows = [list(row[1:-1]) for row in tokenized.rows]
    if tokenized.truncated:  # the rows lack the tokens that were cut off, and words are split by all tokens
        rows = [tokenizer.encode(text)]
    room = tokenizer.context_length - 2
    places = [(r, c + 1) if c < room else None for r, row in enumerate(rows) for c in range(len(row))]
    pieces = [tokenizer.token_bytes(token) for row in rows for token in row]
    squeezed = b"".join(pieces).decode("utf-8", errors="replace")
    chars = _align(tokenizer.clean, text, squeezed)
    spans = [(chars[first][0], chars[last - 1][1]) for first, last in _char_spans(pieces)]
    units = _merge(_units(text), spans)
    tokens: list[list[tuple[int, int]]] = [[] for _ in units]
    for place, span in zip(places, spans, strict=True):
        if place is not None:
            tokens[_unit_at(units, span[0])].append(place)
    return tuple(
        Word(text[start:end], start, end, tuple(word_tokens))
        for (start, end), word_tokens in zip(units, tokens, strict=True)
    )


def without_word(text: TokenizedText, word: Word) -> TokenizedText:
    """``text`` without the tokens of ``word``, in the same windows.

    Tokens are removed, not letters. So tokens that were cut off do not move into the context, and
    neighbouring words do not merge.
    """
    left_out = set(word.tokens)
    rows = tuple(
        tuple(token for c, token in enumerate(row) if (r, c) not in left_out)
        for r, row in enumerate(text.rows)
    )
    return replace(text, rows=rows, tokens=text.tokens - len(left_out))


def _char_spans(pieces: Sequence[bytes]) -> Iterator[Span]:
    """For each piece, the characters of the joined text of which it holds at least one byte."""
    chars = 0
    for piece in pieces:
        begun = sum(byte & 0xC0 != 0x80 for byte in piece)
        inside = piece[0] & 0xC0 == 0x80
        yield chars - inside, chars + begun
        chars += begun


def _units(text: str) -> list[Span]:
    """The words of a text as a reader would split it, without regard to tokens."""
    return [
        (chunk.start() + unit.start(), chunk.start() + unit.end())
        for chunk in re.finditer(r"\S+", text)
        for unit in _UNIT.finditer(chunk.group())
    ]


def _merge(units: list[Span], tokens: Sequence[Span]) -> list[Span]:
    """Units, merged where a token extends over several of them."""
    begins_word = [True] * len(units)
    for start, end in tokens:
        first, last = _unit_at(units, start), _unit_at(units, max(start, end - 1))
        for unit in range(first + 1, last + 1):
            begins_word[unit] = False
    words: list[Span] = []
    for (start, end), begins in zip(units, begins_word, strict=True):
        if begins:
            words.append((start, end))
        else:
            words[-1] = (words[-1][0], end)
    return words


def _unit_at(units: Sequence[Span], place: int) -> int:
    return max(0, bisect_right(units, (place, 1 << 60)) - 1)


def _align(clean: Clean, text: str, squeezed: str) -> list[Span]:
    """The span in ``text`` of each character of ``squeezed``, the cleaned text without white space.

    The text is cleaned chunk by chunk between white space. This may differ from the text cleaned as a
    whole, because repairs can extend over white space. Then chunks are collected until the two agree
    again.
    """
    chunks = [(match.start(), match.group()) for match in re.finditer(r"\S+", text)]
    expected = ["".join(clean(chunk).split()) for _, chunk in chunks]
    spans: list[Span] = []
    pending = 0
    for i, cleaned in enumerate(expected):
        at = _agrees(squeezed, len(spans), expected[i : i + _ANCHOR], i - pending)
        if at is None:
            continue
        spans += _align_block(clean, text, chunks[pending:i], squeezed[len(spans) : at])
        spans += _align_block(clean, text, chunks[i : i + 1], squeezed[at : at + len(cleaned)])
        pending = i + 1
    rest = chunks[pending:] or chunks[-1:]
    return spans + _align_block(clean, text, rest, squeezed[len(spans) :])


def _agrees(squeezed: str, start: int, expected: Sequence[str], waiting: int) -> int | None:
    """The position, at ``start`` or later, of the first of these chunks; None if it is uncertain."""
    if not waiting:
        return start if squeezed.startswith(expected[0], start) else None
    anchor = "".join(expected)
    place = squeezed.find(anchor, start, start + 200 + 40 * waiting) if anchor else -1
    return None if place < 0 else place


def _align_block(clean: Clean, text: str, chunks: Sequence[tuple[int, str]], block: str) -> list[Span]:
    """Spans in ``text`` of the characters of ``block``, the cleaned form of these chunks."""
    places = [start + k for start, chunk in chunks for k in range(len(chunk))]
    if not block or not places:
        return [(0, 0)] * len(block)
    letters = [text[place] for place in places]
    if "".join(letters).lower() == block and len(letters) == len(block):
        return [(place, place + 1) for place in places]
    cleaned = ["".join(clean(letter).split()) for letter in letters]
    if "".join(cleaned) == block:
        return [(p, p + 1) for p, part in zip(places, cleaned, strict=True) for _ in part]
    if len(letters) * len(block) > _COARSE:  # only in texts made to break this
        return [(places[0], places[-1] + 1)] * len(block)
    return _align_letters(places, [part[:1] or "\0" for part in cleaned], block)


def _align_letters(places: Sequence[int], letters: Sequence[str], block: str) -> list[Span]:
    """Spans by the longest common runs; a dropped letter joins the span of the letter before it."""
    spans: list[Span] = []
    matcher = SequenceMatcher(None, "".join(letters), block, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "delete":
            if spans:
                spans[-1] = (spans[-1][0], places[b - 1] + 1)
        elif b - a == d - c:
            spans += [(place, place + 1) for place in places[a:b]]
        else:
            first, last = (a, b) if b > a else (max(a - 1, 0), max(a, 1))
            spans += [(places[first], places[last - 1] + 1)] * (d - c)
    if spans and spans[0][0] > places[0]:
        spans[0] = (places[0], spans[0][1])
    return spans
