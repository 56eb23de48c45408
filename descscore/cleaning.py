"""Check and clean texts before they are tokenised, in time that grows no faster than their length.

Texts may come from strangers. :func:`check_text` refuses what is no text. :func:`clean_text` cleans for all
tokenizers, and refuses the texts for which ftfy or Unicode's normal form would take quadratic time.
"""

from __future__ import annotations

from typing import Any

import regex

from descscore.clip import ftfy
from descscore.errors import TextError, is_blank

MAX_UNCLEANED = 1 << 20
"""Longest text that is cleaned, in characters: as long as a table's cell may be."""

MAX_TEXT = 100_000
"""Longest text that is tokenised, in characters, after cleaning."""

_MOST_UNESCAPED = 8
"""How often a text may be escaped: ``&amp;amp;`` is escaped twice. ftfy takes a whole pass for each time."""

_MOST_MARKS = 500
"""Longest run of accents and other combining marks. The time of Unicode's normal form is quadratic in it."""


def too_long(text: str, limit: int) -> TextError:
    """The error for a text of over ``limit`` characters."""
    return TextError("text_too_long", f"text {text[:40]!r}...: {len(text):,} characters, over {limit:,}")


_TOO_MANY_MARKS = regex.compile(rf"\p{{M}}{{{_MOST_MARKS + 1}}}")


def check_cleaning(text: str) -> None:
    """Refuse a text whose cleaning would take far longer than its length justifies.

    Raises:
        TextError: Of kind ``not_text``.
    """
    if len(text) <= _MOST_MARKS or (text.isascii() and text.count(";") <= _MOST_UNESCAPED):
        return
    plain = _repaired(text)
    for _ in range(_MOST_UNESCAPED + 1):
        if _TOO_MANY_MARKS.search(plain):
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
    lower = getattr(tokenizer.clean_fn, "__name__", "") == "_clean_lower"
    if lower and text.isascii() and text.isprintable() and "&" not in text:
        return " ".join(text.split()).lower()  # in such a text, cleaning changes nothing else
    check_cleaning(text)
    try:
        cleaned: str = tokenizer.clean_fn(text)
    except ValueError as error:  # &#999...; of more digits than Python reads
        raise TextError("not_text", f"text {text[:40]!r}...: cannot be cleaned ({error})") from None
    return cleaned


def check_text(text: object) -> str:
    """Return ``text`` unless it is blank, far too long or not a text.

    Raises:
        TextError: Its kind is ``not_text``, ``empty_text`` for a blank text, or ``text_too_long`` for one of
            over :data:`MAX_UNCLEANED` characters.
    """
    if not isinstance(text, str):
        raise TextError(
            "not_text", f"text: expected a string, got {type(text).__name__} ({str(text)[:40]!r})"
        )
    if len(text) > MAX_UNCLEANED:
        raise TextError("empty_text", "text: blank") if text.isspace() else too_long(text, MAX_UNCLEANED)
    if is_blank(text):
        raise TextError("empty_text", f"text {text[:20]!r}: empty or blank")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TextError("not_text", f"text {text[:40]!r}: not valid Unicode ({error.reason})") from None
    return text
