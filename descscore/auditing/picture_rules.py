"""What an audit concludes from scores: a text that does not fit its picture, swapped texts, and captions.

These judgments are only ever remarks for a person to look at. Their thresholds lie in
``assets/auditing/thresholds.json``, which ``python -m reproduce.audit`` writes. They are stated in units that
carry from model to model: a percentile among the model's comparison descriptions, and a probability.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from descscore.auditing.rules import DOES_NOT_FIT, READS_LIKE_CAPTION, SWAPPED, Finding, finding, text_of
from descscore.auditing.uses import ADDRESS, INLINE_SVG, OUTSIDE, TEMPLATE, ImageUse
from descscore.auditing.wording import drawn_kind, file_name, is_latin, is_other_language, is_template
from descscore.images import open_bytes, read_image_file, shown_size
from descscore.records import Score, share

SMALLEST_SIDE = 48
"""CSS pixels. A smaller image is an icon or a logo, whose text says what it is for."""

NEIGHBOURS = 4
"""Uses before and after one on the same page whose texts are compared with its picture. Swapped texts usually
stand near each other, and with more texts some would fit better by chance."""

_NO_PICTURE = frozenset({"T03", "T04", "T06"})
"""Rules by which a text says nothing, so that it cannot fit."""


@dataclass(frozen=True)
class Thresholds:
    """From which values on a judgment is made."""

    percentile: float
    """P01: a text fits no better than this share of comparison descriptions, in per cent."""
    margin: float
    """P02: two texts fit better by this sum of cosines after they changed places."""
    description_probability: float
    """P03: a text is a description with a lower probability."""


@cache
def thresholds() -> Thresholds:
    """The thresholds of the package."""
    text = files("descscore").joinpath("assets/auditing/thresholds.json").read_text(encoding="utf-8")
    values = json.loads(text)
    return Thresholds(**{name: values[name] for name in Thresholds.__dataclass_fields__})


def no_judgment(use: ImageUse, findings: Sequence[Finding] = ()) -> str | None:
    """Why the picture of a use is not judged; None if it is. findings: those of the rules by the text."""
    text = text_of(use)
    if text is None:
        if use.hidden or use.decorative:
            return "hidden or decorative"
        return "its text is filled in by a program" if is_template(use.name or "") else "has no text"
    if use.only_content_of:
        return f"names where a {use.only_content_of} leads"
    if use.image is None:
        return _NO_IMAGE.get(use.image_problem or "", "has no image that can be read")
    if any(one.code in _NO_PICTURE for one in findings):
        return "its text says nothing"
    sides = [side for side in (use.width, use.height) if side is not None]
    if sides and max(sides) < SMALLEST_SIDE:
        return f"is smaller than {SMALLEST_SIDE} pixels"
    if re.search(
        r"(?i)\b(?:logo|icon|emoji|badge)s?\b", f"{text} {re.sub('[_.-]', ' ', file_name(use.source))}"
    ):
        return "is a logo or an icon"
    if _foreign(use, text):
        return f"is in another language than English{f' ({use.language})' if use.language else ''}"
    if kind := ("equation" if _FORMULA.search(text) else drawn_kind(text, use.caption)):
        return f"shows a{'n' * (kind[0] in 'aeio')} {kind}, which the model cannot read"
    return None


def is_small(image: str | bytes) -> bool:
    """Whether a picture that could be decoded is smaller than :data:`SMALLEST_SIDE` both ways."""
    with suppress(Exception):  # its file may have changed since
        data = image if isinstance(image, bytes) else read_image_file(image)
        with open_bytes(data) as picture:
            return max(shown_size(picture)) < SMALLEST_SIDE
    return False


_NO_IMAGE = {
    ADDRESS: "its image is an address, which is never fetched",
    TEMPLATE: "its image is filled in by a program",
    OUTSIDE: "its image lies outside the audited folder",
    INLINE_SVG: "is drawn in the page itself",
}
_FORMULA = re.compile(r"\\[a-zA-Z]+|\$[^$]+\$|[a-z0-9)]\s?=\s?[a-z0-9(\\-]|[∑∫√≤≥]")


def _foreign(use: ImageUse, text: str) -> bool:
    """Whether the text is not in English, by the page's language or, else by its letters and words."""
    if use.language and use.language.strip():
        return not re.match(r"(?i)en\b|zxx\b|und\b", use.language.strip())
    return not is_latin(text) or is_other_language(text)


def neighbours(place: int, candidates: Sequence[int]) -> list[int]:
    """The :data:`NEIGHBOURS` candidates before and after ``place``, one of the ascending candidates."""
    at = candidates.index(place)
    return [*candidates[max(0, at - NEIGHBOURS) : at], *candidates[at + 1 : at + 1 + NEIGHBOURS]]


def does_fit(score: Score, limits: Thresholds) -> bool:
    """Whether a text fits a picture as comparison descriptions do; True for a model without them."""
    return score.percentile is None or score.percentile >= limits.percentile


def judge(score: Score, limits: Thresholds) -> list[Finding]:
    """What the score of a use says: P01 and P03. A model without comparison descriptions finds nothing."""
    findings = []
    if score.percentile is not None and not does_fit(score, limits):
        message = (
            f"may not fit: {share(100 - score.percentile)} of good descriptions fit their pictures better"
        )
        findings.append(finding(DOES_NOT_FIT, message))
    probability = score.description_probability
    if probability is not None and probability < limits.description_probability:
        odds = f"probability of a description {share(100 * probability)}"
        findings.append(finding(READS_LIKE_CAPTION, f"reads like a caption: say what can be seen ({odds})"))
    return findings


def find_swaps(
    uses: Sequence[ImageUse],
    cosines: Mapping[tuple[int, int], float],
    fitting: Set[tuple[int, int]],
    limits: Thresholds,
) -> dict[int, Finding]:
    """P02: uses whose texts would each fit the other's picture better, by their place on the page.

    Each text must not only fit the other picture better than its own. It must fit it at all: labels that fit
    no picture are not swapped.

    Args:
        uses: The uses of a page.
        cosines: Cosine of the image of use i and the text of use j, by (i, j).
        fitting: The (i, j) that P01 would not remark on.
        limits: The thresholds.
    """
    findings: dict[int, Finding] = {}
    for i in {image for image, _ in cosines}:
        gains = {
            j: cosines[i, j] + cosines[j, i] - cosines[i, i] - cosines[j, j]
            for image, j in cosines
            if image == i != j and {(i, j), (j, i)} <= fitting and _both_gain(cosines, i, j)
        }
        if not gains:
            continue
        best = max(gains, key=lambda j: gains[j])
        if gains[best] > limits.margin:
            other = uses[best]
            line = f" in line {other.line}" if other.line else ""
            whose = f'"{(other.name or "")[:80]}", the text of {other.source or "another image"}{line}'
            findings[i] = finding(SWAPPED, f"may be swapped: {whose}, fits better here, and this text there")
    return findings


def _both_gain(cosines: Mapping[tuple[int, int], float], i: int, j: int) -> bool:
    if (j, i) not in cosines or (j, j) not in cosines:
        return False
    return cosines[i, j] > cosines[i, i] and cosines[j, i] > cosines[j, j]
