"""Can a score be gamed? How often a hostile text scores over the image's real description.

A hostile text is a wording that should not score over an honest description, but might. Every
attack is a pure function of one :class:`Target`, so the same pair gets the same text in any order
and company; only the other image's description depends on the other pairs.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from descscore.errors import DataError
from descscore.eval.features import image_features, image_owner, matched_cosines
from descscore.eval.formatting import WINS, Columns, row_lines
from descscore.eval.statistics.correlation import Array
from descscore.eval.statistics.proportions import proportion
from descscore.scorer import DescScorer
from descscore.tables.rows import FileImage, PreferencePair

FIRST_WORDS = 5

GENERAL_KEYWORDS = "photo, picture, image, graphic, person, people, building, nature, outdoor, colour, detail"

FOREIGN = (
    "Ein Bild, auf dem in der Mitte etwas deutlich zu sehen ist.",
    "Una imagen en la que se ve algo con claridad en el centro.",
    "Une image au centre de laquelle on voit nettement quelque chose.",
    "Picha inayoonyesha kitu kwa uwazi katikati.",
)
"""One sentence in German, Spanish, French and Swahili: a picture shows something clearly in its middle."""

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".svg", ".webp", ".bmp", ".tif", ".tiff", ".avif"}

_GRAMMAR = (
    "a about above after against all along also among an and another any are around as at away be because "
    "been before behind being below beneath beside between both but by can could did do does down during "
    "each either for from had has have he her here hers him his how i if in inside into is it its itself "
    "may me might more most my near no nor not of off on one onto or other our out over own past she should "
    "so some such than that the their them then there these they this those through to toward towards under "
    "until up upon us very was we were what when where which while who whom whose will with within without "
    "would you your"
)
FUNCTION_WORDS = frozenset(_GRAMMAR.split())
"""English words that carry grammar rather than content."""


@dataclass(frozen=True)
class Target:
    """What an attack is made of."""

    description: str
    """The honest text."""
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


def repeated_word(target: Target) -> str | None:
    """The longest content word (the first of equals), as often as the description has words."""
    words = content_words(target.description)
    return " ".join([max(words, key=len)] * len(target.description.split())) if words else None


def keywords(target: Target) -> str | None:
    """Every content word once, in order, between commas."""
    return ", ".join(dict.fromkeys(content_words(target.description))) or None


def shuffled_words(target: Target) -> str | None:
    """The description's words in another order; None where there is only one order."""
    words = target.description.split()
    if len(set(words)) < 2:
        return None
    chance, mixed = _chance(target), list(words)
    while mixed == words:
        chance.shuffle(mixed)
    return " ".join(mixed)


def prefixed(target: Target) -> str:
    """The description after "An image of"."""
    return f"An image of {target.description[:1].lower()}{target.description[1:]}"


def first_words(target: Target) -> str:
    """The description's first :data:`FIRST_WORDS` words."""
    return " ".join(target.description.split()[:FIRST_WORDS])


def foreign(target: Target) -> str:
    """One of :data:`FOREIGN`."""
    return _chance(target).choice(FOREIGN)


def _chance(target: Target) -> random.Random:
    # Seeded by the text (Python hashes it by SHA-512), not by the pair's place.
    return random.Random(f"{target.seed}:{target.description}")


ATTACKS = (
    Attack("file name", "the name of the image file", lambda target: target.file_name),
    Attack("image", 'the single word "image"', lambda target: "image"),
    Attack(
        "repeated word",
        "the description's longest content word, as often as the description has words",
        repeated_word,
    ),
    Attack("keywords", "the description's content words, each once, without grammar", keywords),
    Attack(
        "general keywords", f'the same list for every image: "{GENERAL_KEYWORDS}"', lambda _: GENERAL_KEYWORDS
    ),
    Attack("image of", 'the description after "An image of", which adds nothing', prefixed),
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
        foreign,
    ),
    Attack("first words", f"the description cut to its first {FIRST_WORDS} words", first_words),
)


def targets(pairs: Sequence[PreferencePair], owner: Array, seed: int = 0) -> list[Target]:
    """What to attack, one a pair. owner: ``(n,)``, which image each pair shows."""
    others = other_image(owner, seed)
    return [
        Target(pair.description, file_name(pair), None if j is None else pairs[j].description, seed)
        for pair, j in zip(pairs, others, strict=True)
    ]


def file_name(pair: PreferencePair) -> str | None:
    """The image's file name without folders, None where the data do not give it."""
    if isinstance(pair.image, FileImage):
        return pair.image.path.name
    return Path(pair.id).name if Path(pair.id).suffix.lower() in IMAGE_SUFFIXES else None


def other_image(owner: Array, seed: int = 0) -> list[int | None]:
    """For each of ``(n,)`` pairs a pair of another image, each taken once; None where none is left.

    Pairs stand in a ring, those of one image together and the images in random order, and each
    takes the one a whole image on. None occurs only where one image has over half of the pairs.
    """
    images, place, counts = np.unique(owner, return_inverse=True, return_counts=True)
    ring = np.argsort(np.random.default_rng(seed).permutation(len(images))[place], kind="stable")
    taken = np.empty(len(ring), int)
    taken[ring] = np.roll(ring, -int(counts.max()))
    return [int(j) if owner[j] != owner[i] else None for i, j in enumerate(taken)]


SEED = 0

Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class SanityRow:
    """How often one attack wins.

    Attributes:
        metric: The model.
        attack: A short name.
        what: The hostile text in words.
        value: Share of pairs, 0..1, whose hostile text has a higher raw cosine with the image than
            the description; a tie is no win. None where all pairs are left out.
        low: Lower end of the 95 % interval over whole images; None where there are too few images.
        high: Its upper end.
        n: Pairs.
        left_out: Pairs for which no such text can be made, or only the description itself.
    """

    metric: str
    attack: str
    what: str
    value: float | None
    low: float | None
    high: float | None
    ties: int
    n: int
    left_out: int


def sanity_rows(
    scorer: DescScorer, pairs: Sequence[PreferencePair], name: str, seed: int = SEED
) -> list[SanityRow]:
    """One row an attack of :data:`descscore.eval.sanity.ATTACKS`, in that order. name: the metric's.

    Raises :class:`DataError` for no pairs, and :class:`descscore.errors.InputError` where an
    image or text cannot be scored.
    """
    if not pairs:
        raise DataError("sanity: no pairs")
    owner = image_owner(pairs)
    attacked = targets(pairs, owner, seed)
    made = [[attack.text(target) for target in attacked] for attack in ATTACKS]
    images = image_features(scorer, [pair.image.read() for pair in pairs])
    # One call for all texts, so that those equal to the model have one feature and tie to the last bit.
    texts = [pair.description for pair in pairs]
    texts += [text or own.description for part in made for text, own in zip(part, pairs, strict=True)]
    features = scorer.encoder.texts(texts, scorer.text_policy).features
    parts = features.reshape(1 + len(made), len(pairs), -1).unbind()
    honest, *hostile = (matched_cosines(images, part) for part in parts)
    attacks = zip(ATTACKS, made, hostile, strict=True)
    return [_row(name, attack, honest, cosines, _kept(part), owner) for attack, part, cosines in attacks]


def _kept(texts: Sequence[str | None]) -> Mask:
    return np.array([text is not None for text in texts])


def _row(metric: str, attack: Attack, honest: Array, hostile: Array, keep: Mask, owner: Array) -> SanityRow:
    wins, ties = (hostile > honest)[keep], int((hostile == honest)[keep].sum())
    left_out, owner = int((~keep).sum()), owner[keep]
    if not len(wins):
        return SanityRow(metric, attack.name, attack.what, None, None, None, 0, 0, left_out)
    single = len(np.unique(owner)) == len(owner)
    estimate = proportion(wins.astype(float), None if single else owner)
    value = float(wins.mean())
    return SanityRow(
        metric, attack.name, attack.what, value, estimate.low, estimate.high, ties, len(wins), left_out
    )


NOTES = (
    "wins: share of pairs whose hostile text has a higher cosine with the image than the description; "
    "a tie is no win.",
    "left out: pairs for which no such text can be made. The hostile texts:",
)


_COLUMNS: Columns = {"metric": "metric", "hostile text": "attack", **WINS, "left out": "left_out"}


def sanity_lines(rows: Sequence[SanityRow]) -> list[str]:
    """The rows as a table of text, in per cent, and what its columns and attacks are."""
    attacks = {row.attack: row.what for row in rows}
    meanings = (f"{name}: {what}" for name, what in attacks.items())
    return [*row_lines(rows, _COLUMNS, names=2), "", *NOTES, *meanings]
