"""From features of images and texts to what scoring returns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from descscore.encoder import EncodedTexts
from descscore.models import LoadedModel
from descscore.readout import Purpose
from descscore.records import Comparison, Score
from descscore.side_texts import ScoredPairs, SideEncoder, SideTexts
from descscore.texts import TextPolicy
from descscore.version import __version__

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
    sides: Sequence[SideTexts],
    encoder: SideEncoder,
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
