"""Score how well texts would replace images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from descscore.context import ContextEncoder, ContextTexts, ScoredPairs, tokenize_sides
from descscore.encoder import Encoder, with_precision
from descscore.errors import InputError, UsageError
from descscore.images import ImageSource, load_image
from descscore.models import LoadedModel, load_model
from descscore.purpose import Purpose
from descscore.records import Comparison, Outcome, Pair, Score
from descscore.stream.pairs import Scoring, StreamOptions, stream_pairs
from descscore.texts import DEFAULT_POLICY, EncodedTexts, TextPolicy, TokenizedText, check_policy
from descscore.version import __version__

# Check lists of images and texts before they are scored, and gather what is wrong with each row.


def as_list(name: str, values: Sequence[Any]) -> list[Any]:
    """A list of the rows; one path or text where a list belongs would be taken letter by letter."""
    if isinstance(values, (str, bytes, os.PathLike, Image.Image)):
        raise UsageError(f"{name}: expected a list, got one {type(values).__name__}")
    return list(values)


def check_pairs(images: Sequence[ImageSource], texts: Sequence[str]) -> list[tuple[ImageSource, str]]:
    """Pairs of image and text, row by row; :class:`UsageError` where there is not one of each."""
    images, texts = as_list("images", images), as_list("texts", texts)
    if len(images) != len(texts):
        raise UsageError(f"{len(images)} images but {len(texts)} texts: a pair needs one of each")
    return list(zip(images, texts, strict=True))


def check_column(name: str, values: Sequence[Any] | None, count: int) -> list[Any]:
    """One value a pair, None for all where none are given; :class:`UsageError` for another number."""
    if values is None:
        return [None] * count
    column = as_list(name, values)
    if len(column) != count:
        raise UsageError(f"{len(column)} {name} but {count} pairs: give one a pair, None where there is none")
    return column


def image_identity(image: ImageSource) -> object:
    """What makes two image arguments the same image: the path, or the object itself."""
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    return id(image)


def each(
    values: Sequence[Any],
    function: Callable[[Any], Any],
    problems: dict[int, InputError],
    rows: Sequence[int] | None = None,
) -> list[Any]:
    """``function`` of each value; what cannot be used goes into ``problems`` by its row."""
    out = []
    for row, value in zip(rows or range(len(values)), values, strict=True):
        try:
            out.append(function(value))
        except InputError as error:
            problems.setdefault(row, error)
    return out


def rows_error(
    problems: Mapping[int, InputError], name: Callable[[int], str] = "row {}".format
) -> InputError:
    """One error for all rows that cannot be scored, of the first row's class and kind.

    name: what to call a row in the message.
    """
    shown = sorted(problems.items())[:10]
    lines = "; ".join(f"{name(row)}: {error}" for row, error in shown)
    more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
    first = shown[0][1]
    return type(first)(first.kind, lines + more, problems)


# From features of images and texts to what scoring returns.


SCALE = 2.5
"""CLIPScore's factor (Hessel et al. 2021): ``score = 2.5 * max(cosine, 0)``."""


def signature(model: LoadedModel, text_policy: TextPolicy) -> str:
    """All that a score depends on, in one line, so that it can be reproduced."""
    return "|".join(
        (
            f"descscore:{__version__}",
            f"model:{model.name}",
            f"weights:{model.weights_hash}",
            f"image:{model.preprocessing}",
            f"precision:{model.precision}",
            f"text:{text_policy}{model.tokenizer.context_length}",
        )
    )


def pair_scores(
    images: Tensor,
    encoded: EncodedTexts,
    sides: Sequence[ContextTexts],
    encoder: ContextEncoder,
    purpose: Purpose | None,
    signature: str,
) -> list[Score]:
    """Results of n pairs: unit image features ``(n, embed_dim)``, texts, and what stands beside them."""
    cosines = _cosines(images, encoded.features)
    scores = _scaled(cosines)
    columns = zip(
        scores.tolist(),
        cosines.tolist(),
        _scaled(_cosines(images, encoded.base_features)).tolist(),
        _listed(encoded.probabilities, len(scores)),
        _listed(purpose.percentile(cosines.float()) if purpose else None, len(scores)),
        strict=True,
    )
    beside = encoder.scores(ScoredPairs(encoded, cosines, scores), sides)
    return [
        Score(
            score=score,
            cosine=cosine,
            clip_score=clip_score,
            description_probability=probability,
            percentile=percentile,
            tokens=text.tokens,
            truncated=text.truncated,
            windows=len(text.rows),
            signature=side.sign(signature),
            **fields,
        )
        for (score, cosine, clip_score, probability, percentile), text, side, fields in zip(
            columns, encoded.texts, sides, beside, strict=True
        )
    ]


def comparison(description: Score, caption: Score, logit_scale: float) -> Comparison:
    """Two texts of one image side by side; decided by the raw cosines, a tie is not a win."""
    margin = description.cosine - caption.cosine
    return Comparison(
        description=description,
        caption=caption,
        margin=margin,
        preferred="tie" if margin == 0 else "description" if margin > 0 else "caption",
        probability=float(torch.sigmoid(torch.tensor(logit_scale * margin, dtype=torch.float64))),
        signature=description.signature,
        contextual_margin=_difference(description.contextual_score, caption.contextual_score),
    )


def _cosines(images: Tensor, texts: Tensor) -> Tensor:
    """Cosines of unit features row by row, within -1..1: ``(n, embed_dim)`` twice -> ``(n,)`` float64."""
    return (images.double() * texts.double()).sum(-1).clamp(-1, 1)


def _scaled(cosines: Tensor) -> Tensor:
    return SCALE * cosines.clamp(min=0)


def _listed(values: Tensor | None, count: int) -> list[float] | list[None]:
    return [None] * count if values is None else values.tolist()


def _difference(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


class DescScorer:
    """Scores texts as replacements of images with one loaded model.

    model: from :func:`descscore.models.load_model`. text_policy: what happens to
    texts over the context length (:data:`descscore.texts.TextPolicy`).
    batch_size: images or texts per pass; results do not depend on it. precision:
    ``float32``, or ``bf16`` or ``fp16``, which are faster and a little less exact.
    """

    def __init__(
        self,
        model: LoadedModel,
        text_policy: TextPolicy = DEFAULT_POLICY,
        batch_size: int = 64,
        precision: str = "float32",
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch size {batch_size}: must be at least 1")
        model = with_precision(model, precision)
        self.model = model
        self.text_policy = check_policy(text_policy)
        self.encoder = Encoder(model, batch_size)
        self.signature = signature(model, self.text_policy)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "default",
        *,
        device: str | None = None,
        text_policy: TextPolicy = DEFAULT_POLICY,
        batch_size: int = 64,
        cache_dir: str | Path | None = None,
        precision: str = "float32",
    ) -> DescScorer:
        """Load a model (bundled, folder, or open_clip name with tag) and make its scorer."""
        return cls(load_model(name, device, cache_dir), text_policy, batch_size, precision)

    def score(
        self,
        image: ImageSource,
        text: str,
        *,
        context: str | None = None,
        references: Sequence[str] = (),
    ) -> Score:
        """How well ``text`` would replace ``image`` (a path, bytes, a PIL image or an array).

        context: the text around the image, for ``contextual_score``; a blank one is none.
        references: good descriptions of the image, for ``reference_score``. Neither
        changes any other number. Both go through the scorer's text policy.
        Raises :class:`descscore.errors.ImageError` or :class:`descscore.errors.TextError`.
        """
        picture, tokenized = load_image(image), self.tokenize(text)
        sides = [tokenize_sides(self.tokenize, context, references)]
        encoded = self.encoder.tokenized([tokenized])
        return self.scores(self.encoder.images([picture]), encoded, sides)[0]

    def score_batch(
        self,
        images: Sequence[ImageSource],
        texts: Sequence[str],
        *,
        contexts: Sequence[str | None] | None = None,
        references: Sequence[Sequence[str] | None] | None = None,
    ) -> list[Score]:
        """Score pairs: image ``i`` with text ``i``, one result a pair, in the order given.

        An image that occurs again (same path or same object) is read once, a text, context
        or reference that occurs again encoded once. contexts, references: as for
        :meth:`score`, one value a pair, None where a pair has none.
        Raises :class:`UsageError` where the lengths differ, and an
        :class:`InputError` that names every row that cannot be scored.
        """
        count = len(check_pairs(images, texts))
        columns = check_column("contexts", contexts, count), check_column("references", references, count)
        if not count:
            return []
        problems: dict[int, InputError] = {}
        beside = list(zip(*columns, strict=True))
        sides = each(beside, lambda pair: tokenize_sides(self.tokenize, *pair), problems)
        return self.scores(*self._encode_pairs(images, texts, problems), sides)

    def encode_pairs(
        self, images: Sequence[ImageSource], texts: Sequence[str]
    ) -> tuple[Tensor, EncodedTexts]:
        """Unit image features ``(n, embed_dim)`` and texts of n pairs; raises as :meth:`score_batch`."""
        return self._encode_pairs(images, texts, {})

    def _encode_pairs(
        self, images: Sequence[ImageSource], texts: Sequence[str], problems: dict[int, InputError]
    ) -> tuple[Tensor, EncodedTexts]:
        """problems: what is known to be wrong already, by row."""
        pairs = check_pairs(images, texts)
        tokenized = each([text for _, text in pairs], self.tokenize, problems)
        features = self._encode_images([image for image, _ in pairs], problems)
        if problems:
            raise rows_error(problems)
        return features, self.encoder.tokenized(tokenized)

    def score_stream(
        self, pairs: Iterable[tuple[ImageSource, str] | Pair], options: StreamOptions | None = None
    ) -> Iterator[Outcome]:
        """Score pairs without end: one outcome a pair, in the order given, in bounded memory.

        pairs: image and text, or a :class:`descscore.Pair` where context or references belong to it.
        A pair that cannot be scored is an outcome with its error; the others go on.
        Images are decoded by worker processes while the model runs, and images of the
        same content are encoded once (see :mod:`descscore.stream.pairs`). Results equal
        :meth:`score`.
        """
        return stream_pairs(self.scoring, pairs, options)

    @property
    def scoring(self) -> Scoring:
        """What a stream scores with."""
        return Scoring(self.encoder, self.tokenize, self.scores)

    def compare(
        self, image: ImageSource, description: str, caption: str, *, context: str | None = None
    ) -> Comparison:
        """Whether ``description`` or ``caption`` would replace ``image`` better.

        Decided by the raw cosines; a tie is not a win. context: as for :meth:`score`; it
        decides nothing, and ``contextual_margin`` says what it makes of the two.
        """
        picture = load_image(image)
        sides = [tokenize_sides(self.tokenize, context, ())] * 2
        encoded = self.encoder.tokenized([self.tokenize(description), self.tokenize(caption)])
        first, second = self.scores(self.encoder.images([picture]).expand(2, -1), encoded, sides)
        return comparison(first, second, float(self.model.clip.logit_scale.exp()))

    def tokenize(self, text: str) -> TokenizedText:
        """Tokens of ``text`` under this scorer's policy; raises :class:`descscore.errors.TextError`."""
        return self.model.tokenizer.tokenize(text, self.text_policy)

    def _encode_images(self, images: list[ImageSource], problems: dict[int, InputError]) -> Tensor:
        """Features ``(n, embed_dim)``, a batch decoded at a time; only decodes once anything failed."""
        keys = [image_identity(image) for image in images]
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        unique = list(dict.fromkeys(keys))
        parts: list[Tensor] = []
        size = self.encoder.batch_size
        for start in range(0, len(unique), size):
            rows = [first[key] for key in unique[start : start + size]]
            loaded = each([images[i] for i in rows], load_image, problems, rows)
            if not problems:
                parts.append(self.encoder.images(loaded))
        if problems:
            return torch.empty(0)
        place = {key: i for i, key in enumerate(unique)}
        return torch.cat(parts)[[place[key] for key in keys]]

    def scores(
        self,
        images: Tensor,
        encoded: EncodedTexts,
        sides: Sequence[ContextTexts] | None = None,
        side_encoder: ContextEncoder | None = None,
    ) -> list[Score]:
        """Results for unit image features ``(n, embed_dim)`` and as many encoded texts.

        sides: what stands beside each pair, by default nothing. side_encoder: one that
        remembers contexts and references, where more calls follow.
        """
        beside = sides or [ContextTexts()] * len(encoded.texts)
        encoder = side_encoder or ContextEncoder(self.encoder.embeddings)
        return pair_scores(images, encoded, beside, encoder, self.model.purpose, self.signature)
