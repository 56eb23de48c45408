"""Explain scores: which words moved the cosine and the purpose, and by how much.

>>> from descscore import DescScorer, explain
>>> scorer = DescScorer.from_pretrained()
>>> found = explain("photo.jpg", "A brown dog runs over wet sand.", scorer=scorer)
>>> strongest = max(found.words, key=lambda word: word.value)
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from descscore.errors import UsageError
from descscore.explanations.attribution import STEPS, Attribution, Path, Values, attribute
from descscore.explanations.changes import evaluate_omissions, occlude, omissions, swap_purpose
from descscore.explanations.explanation import (
    Convergence,
    Counterfactual,
    Explanation,
    OcclusionMap,
    PurposePlace,
    WordParts,
)
from descscore.explanations.words import TextRows, Word, split_words
from descscore.images import ImageSource, load_image
from descscore.models import LoadedModel
from descscore.purpose import Purpose
from descscore.records import Score
from descscore.scorer import SCALE, DescScorer
from descscore.texts import EncodedTexts, TokenizedText

_TEXTS_AT_ONCE = 64


@dataclass(frozen=True)
class ExplainOptions:
    """source: text whose purpose the explained ones take on in a counterfactual, None for none.
    where: whether to map the image by occlusion, which takes 82 passes of the image tower an
    image. steps: numbers of path points, tried in turn until the parts add up."""

    source: str | None = None
    where: bool = False
    steps: tuple[int, ...] = STEPS


def explain(
    image: ImageSource,
    text: str,
    *,
    scorer: DescScorer | None = None,
    source: str | None = None,
    where: bool = False,
) -> Explanation:
    """Why ``text`` scores as it does with ``image``.

    scorer: by default one of the model ``default``, loaded for this call; give one to
    explain more than one text. source, where: see :class:`ExplainOptions`.

    Raises what :meth:`DescScorer.score` raises, and :class:`UsageError` for a model in
    another precision than float32, or a ``source`` where there is no purpose subspace.
    """
    return explain_batch(
        [image], [text], scorer or DescScorer.from_pretrained(), ExplainOptions(source, where)
    )[0]


def explain_batch(
    images: Sequence[ImageSource],
    texts: Sequence[str],
    scorer: DescScorer,
    options: ExplainOptions | None = None,
) -> list[Explanation]:
    """Explain pairs: image ``i`` with text ``i``, one result a pair, in the order given.

    Raises as :func:`explain`, and for rows that cannot be scored as :meth:`DescScorer.score_batch`.
    """
    options = options or ExplainOptions()
    model = scorer.model
    if model.precision != "float32":
        raise UsageError(f"precision {model.precision}: explanations need float32")
    if not len(images) and not len(texts):
        return []
    features, encoded = scorer.encode_pairs(images, texts)
    scores = scorer.scores(features, encoded)
    features = features.clone()  # no longer a tensor of inference mode, which gradients refuse
    words = [split_words(model.tokenizer, text, scorer.text_policy) for text in texts]
    batch = _Batch(model, encoded.texts, words, scores, features)
    reasons = [r for at in range(0, len(texts), _TEXTS_AT_ONCE) for r in _reasons(batch.part(at), options)]
    swapped = _counterfactuals(scorer, batch, options.source)
    maps = _maps(model, images, encoded) if options.where else [None] * len(texts)
    return [
        Explanation(text, score, r.words, r.convergence, r.purpose_convergence, r.purpose, swap, where)
        for text, score, r, swap, where in zip(texts, scores, reasons, swapped, maps, strict=True)
    ]


@dataclass(frozen=True)
class _Batch:
    """n texts with their words, scores, and unit image features ``(n, embed_dim)``."""

    model: LoadedModel
    texts: Sequence[TokenizedText]
    words: Sequence[tuple[Word, ...]]
    scores: Sequence[Score]
    images: Tensor

    def part(self, start: int) -> _Batch:
        some = slice(start, start + _TEXTS_AT_ONCE)
        return _Batch(self.model, self.texts[some], self.words[some], self.scores[some], self.images[some])

    def rows(self) -> TextRows:
        return TextRows.of(self.texts, self.images.to(self.model.device))


@dataclass(frozen=True)
class _Reasons:
    words: tuple[WordParts, ...]
    convergence: Convergence
    purpose_convergence: Convergence | None
    purpose: PurposePlace | None


def _reasons(batch: _Batch, options: ExplainOptions) -> list[_Reasons]:
    model = batch.model
    rows = batch.rows()
    found = attribute(model.clip, rows, model.purpose, options.steps)
    omitted = omissions(batch.texts, batch.words)
    values = evaluate_omissions(model, omitted, batch.images)
    losses = _losses(found, values, [item.text for item in omitted])
    left_out = {(item.text, item.word): loss for item, loss in zip(omitted, losses, strict=True)}
    first = _first_rows(rows.owner)
    return [
        _Reasons(
            tuple(
                _word_parts(word, found, first[i], left_out.get((i, j), (0.0, 0.0)))
                for j, word in enumerate(words)
            ),
            _convergence(found, found.cosine_path, i),
            _convergence(found, found.log_odds_path, i) if found.log_odds_path else None,
            _place(model.purpose, found.log_odds_path, i, batch.scores[i]),
        )
        for i, words in enumerate(batch.words)
    ]


def _first_rows(owner: Tensor) -> list[int]:
    """The first row of each text."""
    owners = owner.tolist()
    return [owners.index(text) for text in range(owners[-1] + 1)]


def _losses(found: Attribution, without: Values, texts: list[int]) -> list[tuple[float, float]]:
    """What cosine and log-odds of ``texts`` lose, the log-odds 0 where there is no read-out."""
    cosine = (found.cosine_path.value[texts] - without.cosine).tolist()
    if found.log_odds_path is None or without.log_odds is None:
        return [(loss, 0.0) for loss in cosine]
    log_odds = (found.log_odds_path.value[texts] - without.log_odds).tolist()
    return list(zip(cosine, log_odds, strict=True))


def _word_parts(word: Word, found: Attribution, first: int, left_out: tuple[float, float]) -> WordParts:
    def total(parts: Tensor) -> float:
        return sum(float(parts[first + row, column]) for row, column in word.tokens)

    value = total(found.cosine)
    through = None if found.through is None else total(found.through)
    return WordParts(
        text=word.text,
        start=word.start,
        end=word.end,
        tokens=len(word.tokens),
        value=value,
        through=through,
        around=None if through is None else value - through,
        purpose=None if found.log_odds is None else total(found.log_odds),
        leave_one_out=left_out[0],
        leave_one_out_purpose=None if found.log_odds is None else left_out[1],
    )


def _convergence(found: Attribution, path: Path, text: int) -> Convergence:
    return Convergence(
        float(path.difference[text]),
        float(path.delta[text]),
        int(found.steps[text]),
        bool(path.converged[text]),
    )


def _place(purpose: Purpose | None, path: Path | None, text: int, score: Score) -> PurposePlace | None:
    if purpose is None or path is None or score.description_probability is None:
        return None
    log_odds = float(path.value[text])
    places = [None, None] if purpose.places is None else [tuple(row) for row in purpose.places.tolist()]
    above = [None if row is None else _percent_below(row, log_odds) for row in places]
    return PurposePlace(
        log_odds=log_odds,
        probability=score.description_probability,
        block=purpose.site.block,
        k=purpose.site.k,
        above_descriptions=above[0],
        above_captions=above[1],
        descriptions=places[0],
        captions=places[1],
    )


def _percent_below(ascending: Sequence[float], value: float) -> float:
    """Per cent of numbers below ``value``, ties half."""
    return 50 * (bisect_left(ascending, value) + bisect_right(ascending, value)) / len(ascending)


def _counterfactuals(scorer: DescScorer, batch: _Batch, source: str | None) -> list[Counterfactual | None]:
    if source is None:
        return [None] * len(batch.texts)
    swapped = swap_purpose(batch.model, batch.texts, scorer.tokenize(source))
    cosines = (swapped.features.double() * batch.images.double()).sum(-1).clamp(-1, 1).tolist()
    found = swapped.source_probability
    return [
        Counterfactual(source, found, SCALE * max(cosine, 0.0), cosine, cosine - score.cosine)
        for cosine, score in zip(cosines, batch.scores, strict=True)
    ]


def _maps(
    model: LoadedModel, images: Sequence[ImageSource], encoded: EncodedTexts
) -> list[OcclusionMap | None]:
    """A map for each pair; an image that occurs again is covered once for all its texts."""
    keys = [os.fspath(image) if isinstance(image, (str, os.PathLike)) else id(image) for image in images]
    maps: list[OcclusionMap | None] = [None] * len(keys)
    for key in dict.fromkeys(keys):
        pairs = [i for i, other in enumerate(keys) if other == key]
        found = occlude(model, load_image(images[pairs[0]]), encoded.features[pairs])
        for i, values in zip(pairs, found.values.tolist(), strict=True):
            maps[i] = OcclusionMap(tuple(map(tuple, values)), found.box)
    return maps
