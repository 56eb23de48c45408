"""Score how well texts would replace images.

:class:`DescScorer` scores a pair in four steps. :mod:`descscore.images` reads the image,
:mod:`descscore.tokenizer` tokenises the text, :mod:`descscore.encoder` turns both into unit
features, and :func:`pair_scores` turns the features into a :class:`descscore.Score`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from descscore import __version__
from descscore.context import (
    ContextEncoder,
    ContextTexts,
    ScoredPairs,
    extend_signature,
    row_cosines,
    tokenize_context_texts,
)
from descscore.encoder import Encoder, with_precision
from descscore.errors import InputError, ModelError, UsageError, rows_error
from descscore.explanations.explanation import Explanation
from descscore.explanations.reasons import ExplainOptions, explain_pair
from descscore.frames import outcome_columns, pair_dicts
from descscore.image_lists import AnyImage, ImageBatch, image_source, is_one_image
from descscore.images import image_identity, load_pixels
from descscore.models import LoadedModel, load_model
from descscore.purpose import Purpose
from descscore.records import NOT_FINITE, SCALE, Comparison, Outcome, Score
from descscore.stream.outcomes import Scoring, stream_pairs
from descscore.stream.pairs import StreamInput, StreamOptions
from descscore.stream.worker import Pixels
from descscore.texts import DEFAULT_POLICY, EncodedTexts, TextPolicy, TokenizedText, check_policy


class DescScorer:
    """Scores texts as replacements of images with one loaded model.

    Args:
        model: From :func:`descscore.models.load_model`.
        text_policy: What happens to texts over the context length (:data:`descscore.texts.TextPolicy`).
        batch_size: Images or texts per pass. Results do not depend on it.
        precision: ``float32``, or ``bf16`` or ``fp16``, which are faster and a little less exact.

    Raises:
        UsageError: One of the settings is not known or out of range.
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
        """Load a model and make its scorer.

        Args:
            name: A bundled name, a folder, a repository on the hub (``hf-hub:ORG/NAME``), or an open_clip
                model with its tag (``ViT-B-32/openai``).
            device: A torch device; by default a GPU if there is one.
            text_policy: As for :class:`DescScorer`.
            batch_size: As for :class:`DescScorer`.
            cache_dir: Folder for downloaded weights; by default the hub client's own folder.
            precision: As for :class:`DescScorer`.

        Raises:
            ModelError: The model cannot be loaded.
            UsageError: One of the settings is not known or out of range.
        """
        return cls(load_model(name, device, cache_dir), text_policy, batch_size, precision)

    def __repr__(self) -> str:
        name = self.model.name if len(self.model.name) <= 30 else f"...{self.model.name[-27:]}"
        settings = f"{self.text_policy}, {self.model.precision}, {self.model.device}"
        return f"DescScorer({name!r}, {settings})"

    def score(
        self,
        image: AnyImage,
        text: str,
        *,
        context: str | None = None,
        references: Sequence[str] = (),
    ) -> Score:
        """How well ``text`` would replace ``image``.

        Context and references only add scores; they change none of the others.

        Args:
            image: A path, the bytes of an image file, a PIL image, an array, a tensor
                ``(channels, height, width)``, uint8 or float in 0..1, or a struct of ``bytes`` and ``path``,
                as ``datasets`` writes an image.
            text: The text. The scorer's text policy applies to it, to the context and to references.
            context: The text around the image, for ``contextual_score``; a blank one counts as None.
            references: Good descriptions of the image, for ``reference_score``.

        Raises:
            ImageError: The image cannot be scored.
            TextError: The text, the context or a reference cannot be scored.
        """
        pixels, tokenized = self._pixels(image), self.tokenize(text)
        contexts = [tokenize_context_texts(self.tokenize, context, references)]
        encoded = self.encoder.tokenized([tokenized])
        return self.scores(self._features([pixels]), encoded, contexts)[0]

    def score_batch(
        self,
        images: ImageBatch,
        texts: Sequence[str],
        *,
        contexts: Sequence[str | None] | None = None,
        references: Sequence[Sequence[str] | None] | None = None,
    ) -> list[Score]:
        """Score pairs: image ``i`` with text ``i``, or one image with each text; a result per text, in order.

        A repeated image (the same path or object) is read once. A repeated text, context or
        reference is encoded once.

        Args:
            images: As for :meth:`score`, one per pair; or one image for all texts.
            texts: As for :meth:`score`, one per pair.
            contexts: As for :meth:`score`, one per pair; None for a pair without a context.
            references: As for :meth:`score`, one list per pair; None for a pair without references.

        Raises:
            UsageError: The lengths differ.
            InputError: Some rows cannot be scored; the message names them.
        """
        count = len(_check_pairs(images, texts))
        contexts = _check_column("contexts", contexts, count)
        references = _check_column("references", references, count)
        if not count:
            return []
        problems: dict[int, InputError] = {}
        both = list(zip(contexts, references, strict=True))
        context_texts = _each(both, lambda pair: tokenize_context_texts(self.tokenize, *pair), problems)
        return self.scores(*self.encode_pairs(images, texts, problems), context_texts)

    def score_stream(
        self, pairs: Iterable[StreamInput], options: StreamOptions | None = None
    ) -> Iterator[Outcome]:
        """Score a stream of any length: one outcome per pair, in order, in bounded memory.

        A pair that cannot be scored has an outcome with its error, and the stream continues.
        Worker processes decode images while the model runs. Images with the same content are
        encoded once (see :mod:`descscore.stream.outcomes`). Results equal those of :meth:`score`.

        Args:
            pairs: Image and text; a :class:`descscore.Pair` with context or references; or a dict with the
                keys ``image`` and ``text``, and if it has them ``context``, ``references`` and ``id``. The
                outcome of a dict carries its id.
            options: How the stream runs.

        Raises:
            UsageError: A dict has other keys, which may be misspelt. The message names them.
        """
        return stream_pairs(self.scoring, pairs, options)

    def score_frame(
        self,
        frame: Any,
        *,
        image: str = "image",
        text: str = "text",
        context: str | None = None,
        references: str | None = None,
        options: StreamOptions | None = None,
    ) -> Any:
        """Score the rows of a pandas frame: a copy of the frame with more columns, in its order and index.

        The new columns are ``score``, ``cosine``, ``clip_score``, ``description_probability``,
        ``percentile``, ``band``, ``tokens``, ``truncated``, ``windows``, ``signature``, those of context and
        references, ``status`` and ``error``. The scores of a row that cannot be scored are NaN or
        None, and ``error`` says why.

        Args:
            frame: A pandas frame, or one with its interface.
            image: Name of the column of images, as :meth:`score` takes them.
            text: Name of the column of texts.
            context: Name of the column of contexts; None without one.
            references: Name of the column of lists of references; None without one.
            options: How the stream runs.

        Raises:
            UsageError: This is no frame, a column is missing, or the frame already has a column of scores.
        """
        roles = {"image": image, "text": text, "context": context, "references": references}
        pairs = pair_dicts(frame, {role: column for role, column in roles.items() if column is not None})
        return frame.assign(**outcome_columns(list(self.score_stream(pairs, options)), roles))

    def rank(self, image: AnyImage, texts: Sequence[str]) -> list[tuple[str, Score]]:
        """The texts with their scores, the best first; equally good ones in the order given.

        Raises as :meth:`score_batch`.
        """
        texts = _as_list("texts", texts)
        scored = zip(texts, self.score_batch([image] * len(texts), texts), strict=True)
        return sorted(scored, key=lambda pair: pair[1], reverse=True)

    def explain(
        self, image: AnyImage, text: str, *, source: str | None = None, where: bool = False
    ) -> Explanation:
        """Why ``text`` gets its score with ``image``: :func:`descscore.explain` with this scorer."""
        return explain_pair(image, text, self, ExplainOptions(source, where))

    def compare(
        self, image: AnyImage, description: str, caption: str, *, context: str | None = None
    ) -> Comparison:
        """Whether ``description`` or ``caption`` would replace ``image`` better.

        The text with the higher cosine wins; a tie is not a win. A context, as for :meth:`score`,
        adds ``contextual_margin`` and does not change the winner.

        Raises:
            ImageError: The image cannot be scored.
            TextError: A text or the context cannot be scored.
        """
        pixels = self._pixels(image)
        contexts = [tokenize_context_texts(self.tokenize, context, ())] * 2
        encoded = self.encoder.tokenized([self.tokenize(description), self.tokenize(caption)])
        features = self._features([pixels]).expand(2, -1)
        first, second = self.scores(features, encoded, contexts)
        return comparison(first, second, self.model.logit_scale)

    def tokenize(self, text: str) -> TokenizedText:
        """Tokens of ``text`` under this scorer's policy; raises :class:`descscore.errors.TextError`."""
        return self.model.tokenizer.tokenize(text, self.text_policy)

    def encode_pairs(
        self, images: ImageBatch, texts: Sequence[str], problems: dict[int, InputError] | None = None
    ) -> tuple[Tensor, EncodedTexts]:
        """Unit image features ``(n, embed_dim)`` and texts of n pairs; raises as :meth:`score_batch`.

        problems: Errors that were found before, by row. They are raised together with those found here.
        """
        problems, pairs = dict(problems or {}), _check_pairs(images, texts)
        tokenized = _each([text for _, text in pairs], self.tokenize, problems)
        features = self._encode_images([image for image, _ in pairs], problems)
        if problems:
            raise rows_error(problems)
        return features, self.encoder.tokenized(tokenized)

    def scores(
        self,
        images: Tensor,
        encoded: EncodedTexts,
        contexts: Sequence[ContextTexts] | None = None,
    ) -> list[Score]:
        """Scores of n pairs from their features.

        Args:
            images: Unit image features ``(n, embed_dim)``.
            encoded: The n texts.
            contexts: Context and references of each pair; by default none.

        Raises:
            ModelError: A score is not finite.
        """
        contexts = contexts or [ContextTexts()] * len(encoded.texts)
        scores = self.scoring.scores(images, encoded, contexts, ContextEncoder(self.encoder.embeddings))
        if not all(score.is_finite for score in scores):
            raise ModelError(f"model {self.model.name}: {NOT_FINITE}")
        return scores

    @property
    def scoring(self) -> Scoring:
        """The parts of this scorer that a stream needs, where a score that is not finite costs its row."""
        scores = partial(pair_scores, purpose=self.model.purpose, signature=self.signature)
        return Scoring(self.encoder, self.tokenize, scores)

    def _encode_images(self, images: list[AnyImage], problems: dict[int, InputError]) -> Tensor:
        """Features ``(n, embed_dim)``, one batch at a time.

        After a problem it encodes nothing more, and only decodes to find the other bad images.
        """
        keys = [image_identity(image) for image in images]
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        unique = list(dict.fromkeys(keys))
        parts: list[Tensor] = []
        size = self.encoder.batch_size
        for start in range(0, len(unique), size):
            rows = [first[key] for key in unique[start : start + size]]
            pixels = _each([images[row] for row in rows], self._pixels, problems, rows)
            if not problems:
                parts.append(self._features(pixels))
        if problems:
            return torch.empty(0)
        place = {key: i for i, key in enumerate(unique)}
        return torch.cat(parts)[[place[key] for key in keys]]

    def _pixels(self, image: AnyImage) -> Pixels:
        """An image as the model takes it, which is far smaller than the picture of a photo."""
        return load_pixels(image_source(image), self.encoder.spec)

    def _features(self, pixels: Sequence[Pixels]) -> Tensor:
        return self.encoder.pixels(torch.from_numpy(np.stack(pixels)))


def signature(model: LoadedModel, text_policy: TextPolicy) -> str:
    """Everything that a score depends on, in one line, so that the score can be reproduced."""
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
    contexts: Sequence[ContextTexts],
    context_encoder: ContextEncoder,
    purpose: Purpose | None,
    signature: str,
) -> list[Score]:
    """Scores of n pairs from unit image features ``(n, embed_dim)``, texts, contexts and references."""
    cosines = row_cosines(images, encoded.features)
    scores = _scaled(cosines)
    columns = zip(
        scores.tolist(),
        cosines.tolist(),
        _scaled(row_cosines(images, encoded.base_features)).tolist(),
        _listed(encoded.probabilities, len(scores)),
        _listed(purpose.percentile(cosines.float()) if purpose else None, len(scores)),
        strict=True,
    )
    context_fields = context_encoder.scores(ScoredPairs(encoded, cosines, scores), contexts)
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
            signature=extend_signature(signature, context.context is not None, bool(context.references)),
            **fields,
        )
        for (score, cosine, clip_score, probability, percentile), text, context, fields in zip(
            columns, encoded.texts, contexts, context_fields, strict=True
        )
    ]


def comparison(description: Score, caption: Score, logit_scale: float) -> Comparison:
    """Compare two texts for one image by their cosines; a tie is not a win.

    The probability is that of the description if one of the two texts is right, by the model's logits. With
    a softmax over the two logits, and with a sigmoid for each, it is the sigmoid of their difference. So the
    bias of models such as SigLIP, which both logits have, cancels out.
    """
    margin = description.cosine - caption.cosine
    logits = [logit_scale * score.cosine for score in (description, caption)]
    return Comparison(
        description=description,
        caption=caption,
        margin=margin,
        preferred="tie" if margin == 0 else "description" if margin > 0 else "caption",
        probability=float(torch.sigmoid(torch.tensor(logits[0] - logits[1], dtype=torch.float64))),
        signature=description.signature,
        contextual_margin=_difference(description.contextual_score, caption.contextual_score),
    )


def _scaled(cosines: Tensor) -> Tensor:
    return SCALE * cosines.clamp(min=0)


def _listed(values: Tensor | None, count: int) -> list[float] | list[None]:
    return [None] * count if values is None else values.tolist()


def _difference(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def _as_list(name: str, values: Any) -> list[Any]:
    """The values as a list; refuses a single path or text, which would be split into letters."""
    if isinstance(values, (str, bytes, os.PathLike, Image.Image)):
        raise UsageError(f"{name}: expected a list, got one {type(values).__name__}")
    return list(values)


def _check_pairs(images: ImageBatch, texts: Sequence[str]) -> list[tuple[AnyImage, str]]:
    """Pairs of image and text; :class:`UsageError` unless the lists have equal lengths."""
    texts = _as_list("texts", texts)
    images = [cast(AnyImage, images)] * len(texts) if is_one_image(images) else _as_list("images", images)
    if len(images) != len(texts):
        hint = "; for one image with many texts, give the image, not a list" if len(images) == 1 else ""
        raise UsageError(f"{len(images)} images but {len(texts)} texts: a pair needs one of each{hint}")
    return list(zip(images, texts, strict=True))


def _check_column(name: str, values: Sequence[Any] | None, count: int) -> list[Any]:
    """One value per pair, all None by default; :class:`UsageError` for a list of another length."""
    if values is None:
        return [None] * count
    column = _as_list(name, values)
    if len(column) != count:
        raise UsageError(f"{len(column)} {name} but {count} pairs: give one per pair, or None")
    return column


def _each(
    values: Sequence[Any],
    function: Callable[[Any], Any],
    problems: dict[int, InputError],
    rows: Sequence[int] | None = None,
) -> list[Any]:
    """``function`` of each value; errors go into ``problems``, by row."""
    results = []
    for row, value in zip(rows or range(len(values)), values, strict=True):
        try:
            results.append(function(value))
        except InputError as error:
            problems.setdefault(row, error)
    return results
