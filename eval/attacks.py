"""Hostile texts: wordings that should not score over an image's honest description, but might.

Every attack is a pure function of one :class:`Target`, so the same pair gets the same text in any order and
company. :mod:`descscore.eval.sanity` measures how often they win.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from descscore.auditing.wording import FUNCTION_WORDS

FIRST_WORDS = 5

GENERAL_KEYWORDS = "photo, picture, image, graphic, person, people, building, nature, outdoor, colour, detail"

UNTRAINED = (
    "There is something here.",
    "Artwork without a name.",
    "See below.",
    "Company logo goes here",
    "scan0042.tiff",
)
"""Empty phrases that no training of this package meets: :mod:`descscore.training.neither` leaves them out."""

FOREIGN = (
    "Ein Bild, auf dem in der Mitte etwas deutlich zu sehen ist.",
    "Una imagen en la que se ve algo con claridad en el centro.",
    "Une image au centre de laquelle on voit nettement quelque chose.",
    "Picha inayoonyesha kitu kwa uwazi katikati.",
)
"""One sentence in German, Spanish, French and Swahili: a picture shows something clearly in its middle."""


@dataclass(frozen=True)
class Target:
    """What an attack is made of."""

    description: str
    """The honest text, without a final full stop: a stop must not decide."""
    file_name: str | None = None
    """Of the image; None where it has none."""
    other: str | None = None
    """A description of another image; None where there is none."""
    seed: int = 0
    """Of all choices by chance."""


@dataclass(frozen=True)
class Attack:
    """name: a short, stable word. what: for people. make: the text, None where none can be made."""

    name: str
    what: str
    make: Callable[[Target], str | None]

    def text(self, target: Target) -> str | None:
        """The hostile text; None where none can be made, or where it is the description itself.

        Case and spacing make no difference: models read them alike.
        """
        made = self.make(target)
        return None if made is None or _plain(made) == _plain(target.description) else made


def _plain(text: str) -> list[str]:
    return text.casefold().split()


def content_words(text: str) -> list[str]:
    """The words of ``text`` that are no :data:`FUNCTION_WORDS`, in order, in lower case."""
    words = re.findall(r"\w+(?:['\u2019-]\w+)*", text.lower())
    return [word for word in words if word not in FUNCTION_WORDS]


_ADJECTIVES = (
    "amber beige black blonde blue bronze brown crimson gold golden gray green grey orange pale pink purple "
    "red silver tan teal turquoise violet white yellow colourful colorful big broad deep great high huge "
    "large larger little long low narrow short small tall thick thin tiny wide young old new other another "
    "different many several few two three four five six seven eight nine ten first second third one next "
    "same own left right front back top bottom middle upper lower near various bright dark light clear open "
    "full empty there here not also just only still each both more most less very while"
)
_NO_NOUNS = frozenset(_ADJECTIVES.split())


def nouns(text: str) -> list[str]:
    """The words of ``text`` that are probably nouns, each once, in order, in lower case.

    Content words but for common adjectives and numbers, and for the endings of verbs and adverbs
    (-ed, -ing, -ly). This needs no model of the language, and lets some verbs through.
    """
    words = dict.fromkeys(content_words(text))
    return [w for w in words if not (w in _NO_NOUNS or w.isdigit() or re.search(r"\w{3}(ed|ing|ly)$", w))]


def repeated_word(target: Target) -> str | None:
    """The longest content word (the first of equals), as often as the description has words."""
    words = content_words(target.description)
    return " ".join([max(words, key=len)] * len(target.description.split())) if words else None


def shuffled_words(target: Target) -> str | None:
    """The description's words in another order; None where there is only one order."""
    words = target.description.split()
    if len(set(words)) < 2:
        return None
    chance, mixed = _chance(target), list(words)
    while mixed == words:
        chance.shuffle(mixed)
    return " ".join(mixed)


def _chance(target: Target) -> random.Random:
    # Seeded by the text (Python hashes it by SHA-512), not by the pair's place.
    return random.Random(f"{target.seed}:{target.description}")


def _phrase(name: str, text: str, what: str) -> Attack:
    return Attack(name, f'{what}: "{text}"', lambda _: text)


PHRASES = (
    _phrase("picture", "A picture.", "a sentence that is true of any image"),
    _phrase("photo of something", "A photo of something.", "a sentence that is true of any photo"),
    _phrase("image", "image", "a single word"),
    _phrase("camera name", "IMG_1234.jpg", "a file name as cameras give it"),
    _phrase("untitled", "Untitled", "a place holder"),
    _phrase("general keywords", GENERAL_KEYWORDS, "the same list for every image"),
)
"""Empty phrases. The first five occur in the training of models with ``neither_weight``."""

ATTACKS = (
    Attack("file name", "the name of the image file", lambda target: target.file_name),
    *PHRASES,
    Attack(
        "unknown phrase",
        "one of five empty phrases that no training of this package contains, such as "
        f'"{UNTRAINED[0]}" and "{UNTRAINED[-1]}"',
        lambda target: _chance(target).choice(UNTRAINED),
    ),
    Attack(
        "repeated word",
        "the description's longest content word, as often as the description has words",
        repeated_word,
    ),
    Attack(
        "keywords",
        "the description's content words, each once, without grammar",
        lambda target: ", ".join(dict.fromkeys(content_words(target.description))) or None,
    ),
    Attack(
        "nouns",
        "the description's nouns, as far as word lists tell them, each once",
        lambda target: ", ".join(nouns(target.description)) or None,
    ),
    Attack(
        "image of",
        'the description after "An image of", which adds nothing',
        lambda target: f"An image of {target.description[:1].lower()}{target.description[1:]}",
    ),
    Attack("shuffled words", "the description's words in random order", shuffled_words),
    Attack(
        "wrong image",
        "a right description, but of another image of the data set",
        lambda target: target.other,
    ),
    Attack(
        "other language",
        "one of four fixed sentences in German, Spanish, French or Swahili, which say of any image that it "
        "shows something clearly in its middle; not a translation of the description",
        lambda target: _chance(target).choice(FOREIGN),
    ),
    Attack(
        "first words",
        f"the description cut to its first {FIRST_WORDS} words",
        lambda target: " ".join(target.description.split()[:FIRST_WORDS]),
    ),
)
