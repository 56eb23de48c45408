"""The data classes that scoring takes and returns: pairs, scores with their bands, outcomes, comparisons."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from descscore.images import ImageSource

OK = "ok"
DECORATIVE = "decorative"

NOT_FINITE = (
    "the model gives a score that is not finite: its weights or settings are damaged, or the precision is "
    "too low for it"
)
"""What is wrong with a model that :attr:`Score.is_finite` tells of."""

SCALE = 2.5
"""CLIPScore's factor (Hessel et al. 2021): ``score = 2.5 * max(cosine, 0)``."""


@dataclass(frozen=True)
class Pair:
    """An image and a text of a stream, with their context and references."""

    image: ImageSource
    """A path, the bytes of an image file, a PIL image or an array."""
    text: str
    """The text that would replace the image."""
    context: str | None = None
    """The text around the image; None or blank without a context."""
    references: Sequence[str] = ()
    """Good descriptions of the image."""


@dataclass(frozen=True)
class Band:
    """A range of percentiles with a word for people to read."""

    name: str
    """``weak``, ``fair`` or ``good``."""
    lowest: float
    """The lowest percentile of the band, 0..100; it ends where the next band begins."""
    meaning: str
    """What the band says of a text, as a clause without a full stop."""


BANDS = (
    Band("weak", 0, "fewer than 10 % of comparison descriptions fit their pictures worse"),
    Band("fair", 10, "10 to 50 % of comparison descriptions fit their pictures worse"),
    Band("good", 50, "half of the comparison descriptions or more fit their pictures worse"),
)
"""All bands, ascending. ``python -m reproduce.bands`` measures how many right and wrong texts each holds."""


def band_of(percentile: float | None) -> Band | None:
    """The band of a percentile 0..100; None for a model without comparison descriptions.

    The percentile refers to the model's own comparison descriptions, so the borders hold for every model.
    """
    if percentile is None:
        return None
    return next(band for band in reversed(BANDS) if percentile >= band.lowest)


def share(per_cent: float) -> str:
    """A percentile or a probability, 0..100, in whole per cent. Only what is 0 or 100 rounds to that."""
    rounded = round(per_cent)
    if 0 < per_cent < 100:
        rounded = min(max(rounded, 1), 99)
    return f"{rounded} %"


@dataclass(frozen=True, repr=False)
class Score:
    """How well one text would replace one image; ``float(result)`` is ``score``.

    Scores sort by their cosines, so ``max(scores)`` is the best and ``sorted(scores)`` begins with the
    worst. Only scores with one signature can be compared.
    """

    score: float
    """``2.5 * max(cosine, 0)`` under the description-tuned model: 0..2.5."""
    cosine: float
    """Cosine of image and text, -1..1. Use it to compare and rank."""
    clip_score: float
    """``2.5 * max(cosine, 0)`` under the untuned base model: 0..2.5."""
    description_probability: float | None
    """Probability, 0..1, that the text is a description, read from the model's purpose subspace; None for
    a model without such a read-out."""
    percentile: float | None
    """Share of comparison descriptions with a lower score, 0..100, ties half; None for a model without
    comparison descriptions."""
    tokens: int
    """Length of the text in tokens, with start and end token."""
    truncated: bool
    """Whether tokens were cut off."""
    windows: int
    """Number of parts in which the text was encoded."""
    signature: str
    """Version, model, weights, preprocessing, precision and text policy, in one line."""
    contextual_score: float | None = None
    """How well the text fits image and context (:mod:`descscore.context`), on the scale of the model's
    embeddings. Compare it only for the same model, image and context. None without a context."""
    context_truncated: bool | None = None
    """Whether the context was cut; None without a context."""
    reference_score: float | None = None
    """Harmonic mean, 0..10/7, of score and likeness to a reference (:mod:`descscore.context`); None without
    references."""
    references_truncated: bool | None = None
    """Whether any reference was cut; None without references."""

    def __float__(self) -> float:
        return self.score

    def __format__(self, form: str) -> str:
        return format(self.score, form) if form else str(self)

    def __lt__(self, other: Score) -> bool:
        return self.cosine < other.cosine if isinstance(other, Score) else NotImplemented

    def __repr__(self) -> str:
        parts = [f"{self.score:.3f}", f"cosine {self.cosine:+.3f}"]
        if self.band and self.percentile is not None:
            parts.append(f"{self.band.name} {share(self.percentile)}")
        if self.description_probability is not None:
            parts.append(f"description {share(100 * self.description_probability)}")
        return f"Score({', '.join(parts)}, {self.tokens} tokens{', cut' if self.truncated else ''})"

    def _repr_html_(self) -> str:
        return html_table(repr(self), ("Number", "Value"), self.to_dict().items())

    @property
    def is_finite(self) -> bool:
        """Whether all its numbers are finite; those of a model with damaged weights may not be."""
        return all(math.isfinite(value) for value in vars(self).values() if isinstance(value, float))

    @property
    def band(self) -> Band | None:
        """Weak, fair or good, by the percentile; None for a model without comparison descriptions."""
        return band_of(self.percentile)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """The result of one pair of a stream."""

    status: str
    """``ok``; ``decorative`` for an empty text, if the options allow it; otherwise the error's ``kind``
    (:class:`descscore.errors.InputError`)."""
    error: str | None = None
    """The reason why the pair cannot be scored; None without one."""
    score: Score | None = None
    """None unless the status is ``ok``."""
    id: str | None = None
    """The pair's id; None for a pair without one."""

    @property
    def failed(self) -> bool:
        """Whether the pair could not be scored; a decorative one has not failed."""
        return self.status not in (OK, DECORATIVE)


@dataclass(frozen=True, repr=False)
class Comparison:
    """A description and a caption of one image, compared. Comparisons sort by their margins."""

    description: Score
    """The description's score."""
    caption: Score
    """The caption's score."""
    margin: float
    """Cosine of the description minus that of the caption: -2..2."""
    preferred: str
    """The text with the higher cosine: ``description``, ``caption`` or ``tie``."""
    probability: float
    """Probability, 0..1, that the description is preferred: the softmax of the two cosines times the
    model's logit scale, as in training."""
    signature: str
    """The signature of both scores."""
    contextual_margin: float | None = None
    """Contextual score of the description minus that of the caption; None without a context."""

    @property
    def description_preferred(self) -> bool:
        """Whether the description wins; a tie is not a win."""
        return self.preferred == "description"

    def __lt__(self, other: Comparison) -> bool:
        return self.margin < other.margin if isinstance(other, Comparison) else NotImplemented

    def __repr__(self) -> str:
        winner = self.preferred if self.preferred == "tie" else f"{self.preferred} preferred"
        return f"Comparison({winner}, margin {self.margin:+.3f}, probability {self.probability:.3f})"

    def _repr_html_(self) -> str:
        description, caption = self.description.to_dict(), self.caption.to_dict()
        rows = [(name, value, caption[name]) for name, value in description.items()]
        return html_table(repr(self), ("Number", "Description", "Caption"), rows)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON types."""
        return asdict(self)


def html_table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table for notebooks: a caption, heads of columns and rows, and no row without a value."""
    columns = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{html.escape(str(name))}</th>'
        + "".join(f"<td>{html.escape(_rounded(value))}</td>" for value in values)
        + "</tr>"
        for name, *values in rows
        if any(value is not None for value in values)
    )
    return f"<table><caption>{html.escape(title)}</caption><tr>{columns}</tr>{body}</table>"


def _rounded(value: object) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
