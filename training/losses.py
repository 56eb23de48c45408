"""The losses of fine-tuning and the hits that accuracies count, each a pure function on tensors.

:mod:`descscore.training.objective` adds them up for a batch. Text features may be raw: every function
computes cosines, in float32 under any autocast (float64 tensors stay float64). ``logit_scale`` is the
model's own parameter, a logarithm: logits are exp(logit_scale) * cosine. Source: Zur et al. 2024
(arXiv 2406.09458).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from descscore.errors import UsageError


def _unit(features: Tensor) -> Tensor:
    wide = torch.promote_types(features.dtype, torch.float32)
    return F.normalize(features.to(wide), dim=-1)


def cosines(images: Tensor, texts: Tensor) -> Tensor:
    """Cosine of each image with its text: ``(n, embed_dim)`` twice -> ``(n,)`` in -1..1."""
    return (_unit(images) * _unit(texts)).sum(-1)


def pair_logits(images: Tensor, first: Tensor, second: Tensor, logit_scale: Tensor) -> Tensor:
    """exp(logit_scale) * cosine of each image with two texts: ``(n, embed_dim)`` x 3 -> ``(n, 2)``.

    The two are an image's description and caption, or a text as it is and with its source's purpose.
    """
    both = torch.stack([cosines(images, first), cosines(images, second)], dim=1)
    return logit_scale.exp() * both


def preference_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of choosing the description, mean over images -> ``()``, at least 0.

    logits: ``(n, 2)`` from :func:`pair_logits` of descriptions and captions.
    """
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


def interchange_loss(logits: Tensor, source_is_description: Tensor) -> Tensor:
    """IIT-DAS: cross-entropy of [logit(b), logit(b <- z')], mean over the n interchanges -> ``()``.

    logits: ``(n, 2)`` from :func:`pair_logits`. source_is_description:
    ``(n,)`` bool. With a description's purpose the base must fit its image better
    than before (class 1), with a caption's worse (class 0).
    """
    return F.cross_entropy(logits, source_is_description.to(torch.int64))


def joint_loss(interchange: Tensor, preference: Tensor, weight: float) -> Tensor:
    """weight * interchange + (1 - weight) * preference, for a weight in 0..1.

    Raises :class:`UsageError` for any other weight.
    """
    if not 0 <= weight <= 1:
        raise UsageError(f"joint weight {weight}: must lie in 0 to 1")
    return weight * interchange + (1 - weight) * preference


def contrastive_loss(
    images: Tensor, texts: Tensor, logit_scale: Tensor, owners: Tensor | None = None
) -> Tensor:
    """InfoNCE of images against descriptions, with other images' descriptions as negatives -> ``()``.

    The mean of the two directions' cross-entropies, over ``(n, n)`` logits with the matches on the
    diagonal. Source: Radford et al. 2021 (arXiv 2103.00020).

    Args:
        images: ``(n, embed_dim)``.
        texts: ``(n, embed_dim)``.
        logit_scale: ``()``.
        owners: ``(n,)`` ints, the image that each row shows. Rows of the same image, as in a batch drawn
            with replacement, are not negatives of each other.
    """
    with torch.autocast(images.device.type, enabled=False):  # it would multiply in half precision
        logits = logit_scale.exp() * (_unit(images) @ _unit(texts).T)
    if owners is not None:
        same = owners[:, None] == owners[None, :]
        same.fill_diagonal_(False)
        logits = logits.masked_fill(same, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def outrank_loss(
    images: Tensor, texts: Tensor, rivals: Tensor, logit_scale: Tensor, ignored: Tensor | None = None
) -> Tensor:
    """Cross-entropy of choosing each image's own text among it and all rivals, mean over images -> ``()``.

    Args:
        images: ``(n, embed_dim)``.
        texts: Each image's own text, ``(n, embed_dim)``.
        rivals: Texts that must not score over it, ``(m, embed_dim)``.
        logit_scale: ``()``.
        ignored: Rivals that do not count, such as an image's own description: ``(n, m)`` bool.
    """
    with torch.autocast(images.device.type, enabled=False):
        others = _unit(images) @ _unit(rivals).T
    logits = logit_scale.exp() * torch.cat([cosines(images, texts)[:, None], others], dim=1)
    if ignored is not None:
        logits = logits.masked_fill(F.pad(ignored, (1, 0)), float("-inf"))
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


def ending_loss(texts: Tensor, twins: Tensor, images: Tensor, logit_scale: Tensor) -> Tensor:
    """Mean square over texts and images of the difference of logit between texts and their twins -> ``()``.

    texts, twins: ``(m, embed_dim)``. images: ``(n, embed_dim)``. As in :func:`logit_shifts`, no gradient
    reaches the scale.
    """
    with torch.autocast(images.device.type, enabled=False):
        return (logit_shifts(texts, twins, logit_scale) @ _unit(images).T).square().mean()


@dataclass(frozen=True)
class ImageMoments:
    """Mean ``(d,)`` and covariance ``(d, d)`` of unit image features, both float32."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, images: Tensor) -> ImageMoments:
        """Moments of unit image features ``(n, d)``."""
        wide = images.double()
        mean = wide.mean(0)
        covariance = (wide - mean).T @ (wide - mean) / len(wide)
        return cls(mean.float(), covariance.float())


def logit_shifts(texts: Tensor, untuned: Tensor, logit_scale: Tensor) -> Tensor:
    """How tuning moved texts, in logits: ``shifts @ image`` is the change of the logit with an image.

    texts, untuned: ``(m, d)`` features of the same texts under the model in training and under its
    base -> ``(m, d)``. No gradient reaches the scale: else a model could stay near its base by shrinking it.
    """
    return logit_scale.detach().exp() * (_unit(texts) - _unit(untuned))


def hold_loss(shifts: Tensor, images: ImageMoments) -> Tensor:
    """Variance over images of a text's change of logit, mean over texts -> ``()``, at least 0.

    shifts: ``(m, d)`` from :func:`logit_shifts`. 0 where tuning moves a text's logits with
    all images alike: the text may score higher or lower with all of them, and still tells one image
    from another exactly as under the base.
    """
    with torch.autocast(shifts.device.type, enabled=False):
        return ((shifts @ images.covariance) * shifts).sum(-1).mean()


def spread_loss(shifts: Tensor, images: ImageMoments) -> Tensor:
    """Variance over texts of one kind of their mean change of logit -> ``()``, at least 0.

    shifts: ``(m, d)`` of descriptions only, or of captions only. 0 where all gain alike: another
    description that reads more like one must not win over an image's own.
    """
    with torch.autocast(shifts.device.type, enabled=False):
        return (shifts @ images.mean).var(unbiased=False)


def preference_hits(logits: Tensor) -> Tensor:
    """Whether the description wins: :func:`pair_logits` ``(n, 2)`` -> ``(n,)``; a tie is no win."""
    return logits[:, 0] > logits[:, 1]


def interchange_hits(logits: Tensor, source_is_description: Tensor) -> Tensor:
    """Whether an interchange moved the logit the right way -> ``(n,)`` bool; staying put is wrong."""
    moved = logits[:, 1] - logits[:, 0]
    return torch.where(source_is_description, moved > 0, moved < 0)
