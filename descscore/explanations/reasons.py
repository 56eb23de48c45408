"""Why pairs get their scores: which words moved the cosine and the purpose, and by how much.

This works with any scorer that has what :class:`PairScorer` asks for, and does not know
:class:`descscore.DescScorer`, which offers explanations itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from descscore.context import row_cosines
from descscore.errors import InputError, UsageError, rows_error
from descscore.explanations.attribution import (
    FILLER,
    STEPS,
    Attribution,
    Filler,
    PathEnds,
    Progress,
    TextRows,
    attribute,
    evaluate,
    no_progress,
)
from descscore.explanations.explanation import (
    Convergence,
    Counterfactual,
    Explanation,
    TextPurpose,
    WordParts,
)
from descscore.explanations.occlusion import PixelEncoder, occlusion_maps
from descscore.explanations.words import Word, split_words, without_word
from descscore.image_lists import AnyImage, ImageBatch, image_source
from descscore.images import image_identity, load_image
from descscore.interchange import Exchange, interchange_texts
from descscore.models import LoadedModel
from descscore.purpose import Purpose
from descscore.records import SCALE, Score
from descscore.texts import EncodedTexts, TokenizedText, pad
from descscore.towers.text import can_shorten, join_tokens

_TEXTS_AT_ONCE = 64


@dataclass(frozen=True)
class ExplainOptions:
    """Settings of explanations."""

    source: str | None = None
    """A text whose purpose the counterfactual gives to the explained texts; None for no counterfactual."""
    where: bool = False
    """Whether to map the image by occlusion, which takes 82 passes of the image tower for each image."""
    steps: tuple[int, ...] = STEPS
    """Numbers of path points, tried one after another until the parts add up."""
    filler: Filler = FILLER
    """What takes the place of words in the text without words, from which all parts are measured."""
    progress: Progress = no_progress
    """Called after each pass of the text tower."""


class PairScorer(Protocol):
    """The part of :class:`descscore.DescScorer` that explanations use."""

    @property
    def model(self) -> LoadedModel: ...

    @property
    def encoder(self) -> PixelEncoder: ...

    def tokenize(self, text: str) -> TokenizedText: ...

    def encode_pairs(self, images: ImageBatch, texts: Sequence[str]) -> tuple[Tensor, EncodedTexts]: ...

    def scores(self, images: Tensor, encoded: EncodedTexts) -> list[Score]: ...


def explain_pair(
    image: AnyImage, text: str, scorer: PairScorer, options: ExplainOptions | None = None
) -> Explanation:
    """Explain one pair. Raises as :func:`explain_batch`, but no message names a row."""
    try:
        return explain_batch([image], [text], scorer, options)[0]
    except InputError as error:
        if not error.rows:
            raise
        raise rows_error(error.rows, name=None) from None


def explain_batch(
    images: Sequence[AnyImage],
    texts: Sequence[str],
    scorer: PairScorer,
    options: ExplainOptions | None = None,
) -> list[Explanation]:
    """Explain pairs: image ``i`` with text ``i``, one result per pair, in order.

    Raises:
        InputError: Some rows cannot be scored; the message names them.
        UsageError: The model's precision is not float32, its text tower is not causal or has a tokenizer of
            another library, or there is a ``source`` but the model has no purpose subspace.
    """
    _check_explains(scorer.model)
    if not len(images) and not len(texts):
        return []
    where = options is not None and options.where
    pictures = _pictures(images) if where else []  # the map needs them, too
    features, encoded = scorer.encode_pairs(pictures or images, texts)
    explanations = explain_encoded(scorer, texts, features, encoded, options)
    if not where:
        return explanations
    maps = occlusion_maps(scorer.encoder, pictures, encoded.features)
    return [replace(each, occlusion=occlusion) for each, occlusion in zip(explanations, maps, strict=True)]


def explain_encoded(
    scorer: PairScorer,
    texts: Sequence[str],
    features: Tensor,
    encoded: EncodedTexts,
    options: ExplainOptions | None = None,
) -> list[Explanation]:
    """As :func:`explain_batch`, for n pairs that are encoded, and without mapping their images.

    Args:
        scorer: The scorer whose scores are explained.
        texts: The n texts.
        features: Unit features of their images, ``(n, embed_dim)``.
        encoded: The texts under ``scorer``.
        options: ``where`` has no effect.
    """
    options, model = options or ExplainOptions(), scorer.model
    _check_explains(model)
    scores = scorer.scores(features, encoded)
    features = features.clone()  # gradients refuse tensors of inference mode; a copy is none
    words = [split_words(model.tokenizer, text, one) for text, one in zip(texts, encoded.texts, strict=True)]
    reasons: list[_Reasons] = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        part = slice(start, start + _TEXTS_AT_ONCE)
        reasons += _reasons(model, encoded.texts[part], words[part], features[part], options)
    counterfactuals: Sequence[Counterfactual | None] = [None] * len(texts)
    if options.source is not None:
        counterfactuals = _counterfactuals(scorer, encoded.texts, scores, features, options.source)
    return [
        Explanation(
            text=text,
            score=score,
            words=reason.words,
            convergence=reason.convergence,
            purpose_convergence=reason.purpose_convergence,
            purpose=_text_purpose(model.purpose, reason.log_odds, score),
            counterfactual=counterfactual,
        )
        for text, score, reason, counterfactual in zip(texts, scores, reasons, counterfactuals, strict=True)
    ]


def explains(model: LoadedModel) -> bool:
    """Whether scores of this model can be explained."""
    return not _obstacle(model)


def _obstacle(model: LoadedModel) -> str:
    """Why scores of this model cannot be explained; empty if they can."""
    if model.precision != "float32":
        return f"precision {model.precision}: explanations need float32"
    if model.tokenizer.padding is not None or not can_shorten(model.clip):
        return (
            f"model {model.name}: explanations need open_clip's own tokenizer, and a causal text tower whose "
            "feature is read at the end-of-text token; this model can score and compare"
        )
    return ""


def _check_explains(model: LoadedModel) -> None:
    if obstacle := _obstacle(model):
        raise UsageError(obstacle)


def _pictures(images: Sequence[AnyImage]) -> list[Any]:
    """The images, each distinct one decoded once.

    One that cannot be decoded stays as it is: encoding names all errors of the pairs together.
    """
    held = list(images)  # a sequence may make images as it is read, and one that is gone lends its identity
    pictures: dict[object, Any] = {}
    for image in held:
        key = image_identity(image)
        if key not in pictures:
            try:
                pictures[key] = load_image(image_source(image))
            except InputError:
                pictures[key] = image
    return [pictures[image_identity(image)] for image in held]


@dataclass(frozen=True)
class _Reasons:
    """The explanation of one text by its words."""

    words: tuple[WordParts, ...]
    convergence: Convergence
    purpose_convergence: Convergence | None
    log_odds: float | None
    """Log-odds of being a description; None without a read-out."""


def _reasons(
    model: LoadedModel,
    texts: Sequence[TokenizedText],
    words: Sequence[Sequence[Word]],
    images: Tensor,
    options: ExplainOptions,
) -> list[_Reasons]:
    """Reasons of n texts with their words and unit image features ``(n, embed_dim)``."""
    shortened = {
        (i, j): without_word(text, word)
        for i, (text, text_words) in enumerate(zip(texts, words, strict=True))
        for j, word in enumerate(text_words)
        if word.tokens
    }
    images = images.to(model.device)
    rows = TextRows.of(texts, images)
    attribution = attribute(model.clip, rows, model.purpose, options.steps, options.filler, options.progress)
    losses = _losses(model, shortened, images, attribution, options.progress)
    owners = rows.owner.tolist()
    cosine_path, log_odds_path = attribution.cosine_path, attribution.log_odds_path
    reasons = []
    for i, text_words in enumerate(words):
        first, steps_used = owners.index(i), int(attribution.steps[i])
        parts = [
            _word_parts(word, attribution, first, losses.get((i, j), (0.0, 0.0)))
            for j, word in enumerate(text_words)
        ]
        reasons.append(
            _Reasons(
                tuple(parts),
                _convergence(cosine_path, i, steps_used),
                _convergence(log_odds_path, i, steps_used) if log_odds_path else None,
                float(log_odds_path.value[i]) if log_odds_path else None,
            )
        )
    return reasons


def _losses(
    model: LoadedModel,
    shortened: Mapping[tuple[int, int], TokenizedText],
    images: Tensor,
    attribution: Attribution,
    progress: Progress,
) -> Mapping[tuple[int, int], tuple[float, float]]:
    """Losses of cosine and log-odds (0 without a read-out) without a word, by numbers of text and word.

    shortened: Texts without one word, by the same numbers; images: unit features of the whole texts' images.
    """
    owner = [i for i, _ in shortened]
    rows = TextRows.of(list(shortened.values()), images[owner])
    without = evaluate(model.clip, rows, model.purpose, progress)
    cosine = attribution.cosine_path.value[owner] - without.cosine
    log_odds = torch.zeros_like(cosine)
    if attribution.log_odds_path is not None and without.log_odds is not None:
        log_odds = attribution.log_odds_path.value[owner] - without.log_odds
    return dict(zip(shortened, zip(cosine.tolist(), log_odds.tolist(), strict=True), strict=True))


def _word_parts(word: Word, attribution: Attribution, first: int, losses: tuple[float, float]) -> WordParts:
    """The parts of one word.

    first: The first token row of the word's text; losses: those of cosine and log-odds without the word.
    """

    def total(parts: Tensor) -> float:
        return sum(float(parts[first + row, column]) for row, column in word.tokens)

    value = total(attribution.cosine)
    through = None if attribution.through is None else total(attribution.through)
    return WordParts(
        text=word.text,
        start=word.start,
        end=word.end,
        tokens=len(word.tokens),
        value=value,
        through=through,
        around=None if through is None else value - through,
        purpose=None if attribution.log_odds is None else total(attribution.log_odds),
        leave_one_out=losses[0],
        leave_one_out_purpose=None if attribution.log_odds is None else losses[1],
    )


def _convergence(path: PathEnds, text: int, steps: int) -> Convergence:
    return Convergence(
        float(path.difference[text]), float(path.delta[text]), steps, bool(path.converged[text])
    )


def _text_purpose(purpose: Purpose | None, log_odds: float | None, score: Score) -> TextPurpose | None:
    if purpose is None or log_odds is None or score.description_probability is None:
        return None
    return TextPurpose(
        log_odds=log_odds,
        probability=score.description_probability,
        block=purpose.site.block,
        k=purpose.site.k,
    )


@torch.no_grad()
def _counterfactuals(
    scorer: PairScorer,
    texts: Sequence[TokenizedText],
    scores: Sequence[Score],
    images: Tensor,
    source: str,
) -> list[Counterfactual]:
    """The scores of n texts with the purpose of ``source``; images: ``(n, embed_dim)`` unit features.

    Every window of a text gets the purpose of the source's first window. Raises
    :class:`UsageError` for a model without a purpose subspace.
    """
    model, source_rows = scorer.model, scorer.tokenize(source).rows
    purpose = model.purpose
    if purpose is None:
        raise UsageError(
            f"model {model.name}: has no purpose subspace, so texts cannot exchange their purposes"
        )
    first = pad(source_rows[:1]).to(model.device)
    counterfactuals = []
    for text, score, image in zip(texts, scores, images, strict=True):
        windows = torch.arange(len(text.rows), device=model.device)
        exchange = Exchange(windows, torch.full_like(windows, len(windows)))
        tokens = join_tokens([pad(text.rows).to(model.device), first])
        run = interchange_texts(model.clip, tokens, exchange, purpose.rotation, purpose.site)
        unit = F.normalize(run.swapped.float(), dim=-1)
        feature = F.normalize(torch.tensor(text.weights, device=unit.device) @ unit, dim=-1)
        cosine = float(row_cosines(feature, image))
        probability = purpose.probability(run.state[-1:].float())
        counterfactuals.append(
            Counterfactual(
                source=source,
                source_probability=None if probability is None else float(probability),
                score=SCALE * max(cosine, 0.0),
                cosine=cosine,
                change=cosine - score.cosine,
            )
        )
    return counterfactuals
