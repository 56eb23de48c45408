"""An explanation as one self-contained web page, without scripts, and readable without colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image

from descscore.explanations.explanation import (
    Explanation,
    WordParts,
    effect_levels,
)
from descscore.explanations.occlusion import OcclusionMap
from descscore.explanations.terminal import (
    columns_of,
    convergence_sentence,
    purpose_sentence,
    strongest,
)
from descscore.templates import ASSETS, environment, jpeg_address

_LONGEST_SIDE = 480
"""Longer edge of the image in the page, in pixels."""

_LEVELS = 4
"""Number of thicknesses of the lines under words."""


def to_html(explanation: Explanation, image: Image.Image, name: str) -> str:
    """The page as HTML, with a small copy of the explained RGB image.

    name: What the page calls the image, such as its file name.
    """
    words = explanation.words
    raised, lowered = strongest(words)
    sentences = [convergence_sentence("Cosine", explanation.convergence)]
    if explanation.purpose_convergence:
        sentences.append(convergence_sentence("Purpose", explanation.purpose_convergence))
    purpose, where = explanation.purpose, explanation.occlusion
    return _template().render(
        title=f"Why this text scores {explanation.score.score:.3f}",
        score=explanation.score,
        photo=jpeg_address(image.copy(), _LONGEST_SIDE, 85),
        name=name,
        words=words,
        looks=[_look(word, level) for word, level in zip(words, effect_levels(words, _LEVELS), strict=True)],
        raised=raised or "no word",
        lowered=lowered or "no word",
        ranks=_ranks(words),
        columns=columns_of(words),
        convergence=sentences,
        purpose=purpose,
        purpose_sentence=purpose and purpose_sentence(purpose),
        counterfactual=explanation.counterfactual,
        map=where and _Map.of(where, image.size),
    )


@cache
def _template() -> Any:
    templates = environment(ASSETS / "explanations")
    templates.filters["px"] = "{:.1f}".format
    return templates.get_template("page.html.jinja")


def _look(word: WordParts, level: int) -> str:
    """The CSS classes of a word: the direction and the level of its effect on the cosine."""
    if not word.tokens:
        return "unseen"
    return f"{'up' if word.value > 0 else 'down'} level{level}" if level else "still"


def _ranks(words: Sequence[WordParts]) -> list[int]:
    """Each word's rank: 1 raises the cosine most; 0 is for words that the model does not see."""
    order = sorted((i for i, word in enumerate(words) if word.tokens), key=lambda i: -words[i].value)
    ranks = {i: rank for rank, i in enumerate(order, start=1)}
    return [ranks.get(i, 0) for i in range(len(words))]


@dataclass(frozen=True)
class _Map:
    """The drawing of an occlusion map over its image."""

    where: OcclusionMap
    """The map."""
    width: float
    """Width of the drawn image."""
    height: float
    """Its height."""
    left: float
    """Left edge of the grid, which reaches beyond the image if the model pads."""
    top: float
    """Upper edge of the grid."""
    wide: float
    """Width of a cell."""
    high: float
    """Height of a cell."""

    @classmethod
    def of(cls, where: OcclusionMap, size: tuple[int, int]) -> _Map:
        """size: width and height of the image."""
        width, height = 640.0, 640.0 * size[1] / size[0]
        left, top, right, bottom = where.box
        return cls(
            where=where,
            width=width,
            height=height,
            left=left * width,
            top=top * height,
            wide=(right - left) * width / len(where.values[0]),
            high=(bottom - top) * height / len(where.values),
        )

    @property
    def frame(self) -> str:
        """The SVG's view box. If the model pads, it extends beyond opposite edges of the image alike."""
        x, y = min(self.left, 0), min(self.top, 0)
        return f"{x:.0f} {y:.0f} {self.width - 2 * x:.0f} {self.height - 2 * y:.0f}"

    @property
    def head(self) -> list[str]:
        """Names of the columns of the map's table."""
        return ["Part", *(f"Column {c + 1}" for c in range(len(self.where.values[0])))]

    @property
    def largest(self) -> float:
        """The largest loss or gain; 1 if all are 0."""
        return max(abs(value) for row in self.where.values for value in row) or 1.0

    @property
    def in_words(self) -> str:
        rows = self.where.values
        most, row, column = max((value, r, c) for r, row in enumerate(rows) for c, value in enumerate(row))
        return (
            f"The image in {len(rows)} rows and {len(rows[0])} columns. The cosine loses most, {most:+.4f}, "
            f"in row {row + 1}, column {column + 1}. The table below gives all numbers."
        )
