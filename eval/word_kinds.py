"""What kind of word a word is: by plain lists and shapes, by norms from a CSV file, by part of speech.

The lists are for English texts and need no model. Norms are ratings of single words, such
as concreteness. Parts of speech come from a spaCy model, if one is installed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from descscore.auditing.wording import listed
from descscore.errors import DataError, UsageError
from descscore.eval.ratings import number_in, read_rows
from descscore.explanations.explanation import WordParts
from descscore.tables.rows import Row

KINDS = (
    "number",
    "number word",
    "date",
    "capitalised inside a sentence",
    "colour",
    "size",
    "position",
    "punctuation",
)
"""The kinds that lists and shapes decide."""

Tagger: TypeAlias = Callable[[str], "list[tuple[int, int, str]]"]
"""A text's parts of speech, as (start, end, tag)."""

USUAL = "en_core_web_sm"
"""The spaCy model that ``auto`` stands for."""


_NUMBER_WORDS = listed(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand "
    "million billion first second third fourth fifth sixth seventh eighth ninth tenth dozen"
)
_MONTHS_AND_DAYS = listed(
    "January February March April May June July August September October November December Jan Feb Mar Apr "
    "Jun Jul Aug Sep Sept Oct Nov Dec Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
)
_DATE_WORDS = listed("century decade bc bce ad ce circa")
_COLOURS = listed(
    "amber beige black blond blonde blue bluish bronze brown brownish brunette burgundy crimson cyan gold "
    "golden gray green greenish grey greyish indigo ivory khaki lavender lilac magenta maroon "
    "mauve navy ochre olive orange pale pink pinkish purple red reddish rose rust scarlet sepia silver tan "
    "teal turquoise violet white whitish yellow yellowish colorful colourful"
)
_SIZES = listed(
    "big bigger biggest broad deep enormous gigantic great high huge immense large larger largest little "
    "long longer longest low massive medium miniature narrow oversized short shorter shortest slender slim "
    "small smaller smallest tall taller tallest thick thin tiny vast wide"
)
_POSITIONS = listed(
    "above across adjacent against along alongside amid around atop away back background behind below "
    "beneath beside besides between beyond bottom center central centre corner down edge facing far "
    "foreground forward front horizontal inside left lower middle near nearby next opposite outside over "
    "overhead right side sideways surrounded surrounding top toward towards under underneath up upper "
    "upright upside vertical"
)
_YEAR = re.compile(r"(1\d|20)\d\d(s|'s|[\u2013/-]\d+)?$")
_NUMERIC_DATE = re.compile(r"\d{1,4}([./-])\d{1,2}\1\d{1,4}$")
_SENTENCE_END = re.compile(r"[.!?:;…]")


def kinds_of(words: Sequence[WordParts]) -> list[frozenset[str]]:
    """The kinds of each word of one text, in its order; a word may be of several or of none."""
    starts = _sentence_starts(words)
    return [
        frozenset(kind for kind, holds in _TESTS.items() if holds(word.text))
        | (frozenset({"capitalised inside a sentence"}) if not first and _is_name(word.text) else frozenset())
        for word, first in zip(words, starts, strict=True)
    ]


def bare(text: str) -> str:
    """A word as norms and counts list it: in lower case, without a possessive ending."""
    return re.sub(r"['\u2019]s$", "", text.lower())


def _sentence_starts(words: Sequence[WordParts]) -> list[bool]:
    """Whether each word is the first of a sentence; marks such as quotes do not count as words."""
    starts, fresh = [], True
    for word in words:
        starts.append(fresh)
        if any(c.isalnum() for c in word.text):
            fresh = False
        elif _SENTENCE_END.search(word.text):
            fresh = True
    return starts


def _is_name(text: str) -> bool:
    return text[:1].isupper() and text not in ("I", "I'm", "I've", "I'd", "I'll")


def _is_date(text: str) -> bool:
    known = text in _MONTHS_AND_DAYS or bare(text) in _DATE_WORDS
    return known or bool(_YEAR.match(text) or _NUMERIC_DATE.match(text))


def _any_part(words: Collection[str]) -> Callable[[str], bool]:
    """Whether the word, or a part of it between hyphens, is in a list."""
    return lambda text: any(part in words for part in (bare(text), *bare(text).split("-")))


_TESTS: dict[str, Callable[[str], bool]] = {
    "number": lambda text: any(c.isdigit() for c in text),
    "number word": _any_part(_NUMBER_WORDS),
    "date": _is_date,
    "colour": _any_part(_COLOURS),
    "size": _any_part(_SIZES),
    "position": _any_part(_POSITIONS),
    "punctuation": lambda text: not any(c.isalnum() for c in text),
}


_WORD_COLUMNS = ("word", "words")
_NORM_COLUMNS = ("conc.m", "concreteness", "conc", "imag.m", "imageability", "imag")


def read_all_norms(
    paths: Sequence[Path], columns: Sequence[str] = (), word: str | None = None
) -> dict[str, dict[str, float]]:
    """The norms of several files, each as :func:`read_norms` reads it.

    Raises :class:`UsageError` for a name that two files have: their norms would have one name, too.
    """
    names = Counter(path.name for path in paths)
    repeated = [name for name, count in names.items() if count > 1]
    if repeated:
        raise UsageError(
            f"norms: {names[repeated[0]]} files are called {repeated[0]}; give them different names"
        )
    return {name: norm for path in paths for name, norm in read_norms(path, columns, word).items()}


def read_norms(
    path: Path, columns: Sequence[str] = (), word: str | None = None
) -> dict[str, dict[str, float]]:
    """Norms by column name, each a value by word in lower case; blank cells are skipped.

    Args:
        path: A CSV file.
        columns: Columns of norms; by default the usual ones for concreteness and imageability
            (``Conc.M``, ``IMAG`` and the like).
        word: The column of words; by default ``Word`` or ``Words``.

    Raises:
        DataError: Names the file, and the columns that it has.
    """
    rows = read_rows(path, [*columns, *([word] if word else [])])
    present = list(rows[0].cells)
    word = word or _known_columns(path, present, _WORD_COLUMNS, "words")[0]
    chosen = columns or _known_columns(path, present, _NORM_COLUMNS, "a norm")
    return {f"{path.name} {name}": _values(rows, word, name) for name in chosen}


def _known_columns(path: Path, present: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    names = [name for name in present if name.lower() in known]
    if not names:
        raise DataError(f"{path}: no column known for {what}; name one of {', '.join(present)}")
    return names


def _values(rows: Sequence[Row], word: str, column: str) -> dict[str, float]:
    values: dict[str, float] = {}
    for row in rows:
        value = number_in(row, column)
        if value is not None:
            values.setdefault(bare(row.cells[word].strip()), value)
    return values


def load_tagger(name: str) -> Tagger | None:
    """The tagger of a spaCy model.

    Args:
        name: The model's name; ``auto`` for ``en_core_web_sm`` if it is installed, otherwise no tagger;
            ``none`` for no tagger.

    Raises:
        UsageError: For a named model that cannot be loaded.
    """
    if name == "none" or (name == "auto" and not (find_spec("spacy") and find_spec(USUAL))):
        return None
    wanted = USUAL if name == "auto" else name
    try:
        import spacy

        pipeline = spacy.load(wanted)
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"spaCy model {wanted!r} cannot be loaded ({reason}); see 'spacy download'"
        ) from None

    def tag(text: str) -> list[tuple[int, int, str]]:
        return [
            (token.idx, token.idx + len(token.text), token.pos_) for token in pipeline(text) if token.pos_
        ]

    return tag
