"""The third kind of text: neither a description nor a caption, as users write it and attackers would.

Empty phrases ("A picture."), file names, place holders, boiler-plate and lists of general keywords stand
beside any image (:func:`empty_text`). A description's words without its grammar (shuffled, or as a list)
name what the image shows and do not describe it (:func:`jumbled_text`). All is drawn anew each epoch.

``descscore eval sanity`` attacks with fixed texts. Training meets none of them word for word except the
phrases in :data:`NAMED`; file names are drawn, so it may meet any.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from descscore.auditing.wording import (
    BOILERPLATE,
    CAMERA_NAMES,
    HEADS,
    PLACE_HOLDERS,
    SUFFIXES,
    THINGS,
    listed,
)
from descscore.eval.attacks import GENERAL_KEYWORDS, UNTRAINED, content_words, nouns

NAMED = ("A picture.", "A photo of something.", "image", "Untitled")
"""Empty phrases that training and ``eval sanity`` share."""


_WORDS = listed(
    "people person man woman nature building city animal food water sky tree house car street art history "
    "science object background design detail colour light outdoor indoor portrait landscape travel sport "
    "technology education business health music culture family work home world old new beautiful nice"
)


class Chance(Protocol):
    """A generator of random numbers: Python's or NumPy's."""

    def random(self) -> float:
        """A number in 0..1."""


Draw = Callable[[random.Random], str]
T = TypeVar("T")


def empty_text(rng: random.Random) -> str:
    """A text that would say as much, or as little, of any other image."""
    while (text := _pick(_EMPTY, rng)(rng)) in (GENERAL_KEYWORDS, *UNTRAINED):
        pass
    return text


def jumbled_text(description: str, rng: random.Random) -> str:
    """The description's words without their grammar: shuffled, as a list, or its nouns alone."""
    make = _pick(_JUMBLES, rng)
    return make(description, rng) or empty_text(rng)


def random_case(text: str, rng: random.Random) -> str:
    """``text`` as it is, in lower or upper case, or with another first letter."""
    return rng.choice((str, str, str.lower, str.upper, lambda t: t[:1].swapcase() + t[1:]))(text)


def random_stop(text: str, rng: Chance) -> str:
    """``text`` with or without a final full stop, by chance: the stop must carry nothing."""
    bare = text.rstrip(". \n")
    return bare + "." * (rng.random() < 0.5) if bare else text


def _file_name(rng: random.Random) -> str:
    name, digits = rng.choice(CAMERA_NAMES), "".join(rng.choices("0123456789", k=rng.randint(1, 8)))
    stem = rng.choice((f"{name}_{digits}", f"{name}{digits}", f"{name}-{digits}", digits, name))
    if rng.random() < 0.2:
        stem = "-".join(rng.sample(_WORDS, 2))
    return f"{stem}.{rng.choice(SUFFIXES)}" if rng.random() < 0.9 else stem


def _of_something(rng: random.Random) -> str:
    head, thing = rng.choice(HEADS), rng.choice(THINGS)
    article = "An" if head[0] in "aeiou" else "A"
    return rng.choice((f"{article} {head} of {thing}", f"{head} of {thing}", f"The {head} shows {thing}"))


def _head(rng: random.Random) -> str:
    head = rng.choice(HEADS)
    article = "an" if head[0] in "aeiou" else "a"
    return rng.choice((head, f"{article} {head}", f"the {head}", f"this is {article} {head}", f"{head}s"))


def _numbered(rng: random.Random) -> str:
    number = rng.choice((f"{rng.randint(1, 40)}", f"{rng.randint(1, 30)}.{rng.randint(1, 60)}"))
    return f"{rng.choice(('Figure', 'Fig.', 'Image', 'Photo', 'Table', 'Picture', 'Slide'))} {number}"


def _keywords(rng: random.Random) -> str:
    words = rng.sample(HEADS + _WORDS, rng.randint(2, 14))
    return rng.choice((", ", ", ", " ", "; ")).join(words)


def _joined(words: Iterable[str], rng: random.Random) -> str:
    words = list(words)
    if rng.random() < 0.3:
        rng.shuffle(words)
    return rng.choice((", ", ", ", " ")).join(words)


def _shuffled(text: str, rng: random.Random) -> str:
    words = text.rstrip(".").split()
    mixed = list(words)
    rng.shuffle(mixed)
    return "" if mixed == words else " ".join(mixed)


_EMPTY: tuple[tuple[float, Draw], ...] = (
    (0.2, lambda rng: rng.choice(NAMED)),
    (0.15, _of_something),
    (0.15, _head),
    (0.15, _file_name),
    (0.05, _numbered),
    (0.1, lambda rng: rng.choice(PLACE_HOLDERS)),
    (0.05, lambda rng: rng.choice(_WORDS)),
    (0.1, _keywords),
    (0.05, lambda rng: rng.choice(BOILERPLATE)),
)
"""Shares of the kinds of empty text."""

_JUMBLES: tuple[tuple[float, Callable[[str, random.Random], str]], ...] = (
    (0.5, _shuffled),
    (0.2, lambda text, rng: _joined(dict.fromkeys(content_words(text)), rng)),
    (0.3, lambda text, rng: _joined(nouns(text), rng)),
)
"""Shares of the kinds of jumbled description."""


def _pick(kinds: Sequence[tuple[float, T]], rng: random.Random) -> T:
    return rng.choices([kind for _, kind in kinds], [share for share, _ in kinds])[0]
