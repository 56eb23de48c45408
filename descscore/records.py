"""What scoring returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from descscore.images import ImageSource


@dataclass(frozen=True)
class Pair:
    """An image and a text of a stream, with what may stand beside them (see ``DescScorer.score``)."""

    image: ImageSource
    text: str
    context: str | None = None
    references: Sequence[str] = ()


@dataclass(frozen=True)
class Score:
    """How well one text would replace one image; ``float(result)`` is ``score``.

    score: ``2.5 * max(cosine, 0)`` under the description-tuned model, 0..2.5.
    cosine: the raw cosine of image and text, -1..1; use it to compare and rank.
    clip_score: ``2.5 * max(cosine, 0)`` under the untuned base model.
    description_probability: probability, 0..1, that the text is a description, read
    from the model's purpose subspace; None where the model has no such read-out.
    percentile: share of reference descriptions with a lower score, 0..100, ties half;
    None where the model keeps no reference.
    tokens: length of the text with start and end token. truncated: whether some of
    them were cut off. windows: in how many parts the text was encoded.
    signature: model, weights, preprocessing, precision, text policy and version.
    contextual_score: how well the text serves in its context (:mod:`descscore.context`),
    on the scale of the model's embeddings: compare it for one model, image and context.
    context_truncated: whether the context was cut. Both None without a context.
    reference_score: the harmonic mean of score and likeness to a reference
    (:mod:`descscore.context`), 0..10/7. references_truncated: whether any of them was
    cut. Both None without references.
    """

    score: float
    cosine: float
    clip_score: float
    description_probability: float | None
    percentile: float | None
    tokens: int
    truncated: bool
    windows: int
    signature: str
    contextual_score: float | None = None
    context_truncated: bool | None = None
    reference_score: float | None = None
    references_truncated: bool | None = None

    def __float__(self) -> float:
        return self.score

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON types."""
        return asdict(self)


OK = "ok"
DECORATIVE = "decorative"


@dataclass(frozen=True)
class Outcome:
    """What became of one pair of a stream.

    status: ``ok``; ``decorative`` for an empty text where that was asked for; otherwise
    the kind of error, and ``error`` says more. score: None unless ``ok``.
    """

    status: str
    error: str | None = None
    score: Score | None = None

    @property
    def failed(self) -> bool:
        """Whether the pair should have been scored and could not be."""
        return self.status not in (OK, DECORATIVE)


@dataclass(frozen=True)
class Comparison:
    """A description and a caption of one image, side by side.

    margin: cosine of the description minus that of the caption, -2..2.
    preferred: which text has the higher cosine: ``description``, ``caption`` or ``tie``.
    probability: that the description is preferred, 0..1: the softmax of the two
    cosines times the model's logit scale, as in training.
    contextual_margin: contextual score of the description minus that of the caption; None
    without a context.
    """

    description: Score
    caption: Score
    margin: float
    preferred: str
    probability: float
    signature: str
    contextual_margin: float | None = None

    @property
    def description_preferred(self) -> bool:
        """Whether the description wins; a tie is not a win."""
        return self.preferred == "description"

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON types."""
        return asdict(self)
