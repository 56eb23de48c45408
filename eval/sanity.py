"""Can a score be gamed? How often a hostile text scores over the image's real description."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from descscore.errors import DataError
from descscore.eval.preference import image_owner
from descscore.eval.statistics.correlation import Array
from descscore.eval.statistics.proportions import proportion
from descscore.eval.zero_shot import image_features
from descscore.scorer import DescScorer
from descscore.tables.rows import FileImage, PreferencePair

# Hostile texts: wordings that should not score over an honest description, but might.
#
# Every attack is a pure function of one :class:`Target`, so the same pair gets the same text
# in any order and company; only the other image's description depends on the other pairs.


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
    """What an attack is made of.

    description: the honest text. file_name: of the image, None where it has none.
    other: a description of another image, None where there is none. seed: of all choices by chance.
    """

    description: str
    file_name: str | None = None
    other: str | None = None
    seed: int = 0


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

    metric: the model. attack: a short name; what: the hostile text, for people. value: share of
    pairs, 0..1, whose hostile text has a higher raw cosine with the image than the description,
    with its 95 % interval (over whole images); ties are no wins. n: pairs. left_out: pairs for
    which no such text can be made, or only one that is the description itself. value is None
    where all are left out; low and high also where there are too few images.
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
    honest, *hostile = (_cosines(images, part) for part in parts)
    found = zip(ATTACKS, made, hostile, strict=True)
    return [_row(name, attack, honest, cosines, _kept(part), owner) for attack, part, cosines in found]


def _cosines(images: Tensor, texts: Tensor) -> Array:
    """Cosines of image i with text i: unit features ``(n, d)`` each -> ``(n,)``."""
    found: Array = (images.double() * texts.double()).sum(1).cpu().numpy()
    return found


def _kept(texts: Sequence[str | None]) -> Mask:
    return np.array([text is not None for text in texts])


def _row(metric: str, attack: Attack, honest: Array, hostile: Array, keep: Mask, owner: Array) -> SanityRow:
    wins, ties = (hostile > honest)[keep], int((hostile == honest)[keep].sum())
    left_out, owner = int((~keep).sum()), owner[keep]
    if not len(wins):
        return SanityRow(metric, attack.name, attack.what, None, None, None, 0, 0, left_out)
    single = len(np.unique(owner)) == len(owner)
    found = proportion(wins.astype(float), None if single else owner)
    value = float(wins.mean())
    return SanityRow(
        metric, attack.name, attack.what, value, found.low, found.high, ties, len(wins), left_out
    )


_FORMAT = "{:<24} {:<17} {:>5} {:>7}  {:<16} {:>5} {:>9}"


def sanity_lines(rows: Sequence[SanityRow]) -> list[str]:
    """The rows as lines of text, in per cent, and what each attack is."""
    head = _FORMAT.format("metric", "hostile text", "n", "wins", "95 % interval", "ties", "left out")
    lines = [head, "-" * len(head)]
    for row in rows:
        lines.append(_FORMAT.format(row.metric, row.attack, row.n, *_shown(row), row.ties, row.left_out))
    return [*lines, *(f"{name}: {what}" for name, what in _attacks(rows).items())]


def to_markdown(rows: Sequence[SanityRow]) -> str:
    """The rows as a Markdown table, in per cent, with a list of what each attack is."""
    lines = [
        "| metric | hostile text | scores over the description | 95 % interval | n | ties | left out |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (row.metric, row.attack, *_shown(row), row.n, row.ties, row.left_out)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, "", *(f"- {name}: {what}" for name, what in _attacks(rows).items())])


def to_json(rows: Sequence[SanityRow], signatures: Sequence[str]) -> dict[str, Any]:
    """Rows and signatures as plain JSON types."""
    return {"rows": [asdict(row) for row in rows], "signatures": list(signatures)}


def _attacks(rows: Sequence[SanityRow]) -> dict[str, str]:
    """What each attack is, once each."""
    return {row.attack: row.what for row in rows}


def _shown(row: SanityRow) -> tuple[str, str]:
    """Share and interval in per cent, "-" where not defined."""
    share = "-" if row.value is None else f"{100 * row.value:.1f}%"
    if row.low is None or row.high is None:
        return share, "-"
    return share, f"{100 * row.low:.1f} to {100 * row.high:.1f}"
