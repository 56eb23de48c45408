"""One batch through the model: its texts run once, the configured losses are added up.

The formulas of the losses are in :mod:`descscore.training.losses`. Validation measures the same
accuracies on pairs that are not trained on, and grounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import gather
from torch import Tensor

from descscore.clip import CLIP
from descscore.eval.statistics.retrieval import grounding_over_texts, grounding_sampled
from descscore.interchange import Exchange, Interchanged, Rotation
from descscore.purpose import Site
from descscore.training.config import FinetuneConfig
from descscore.training.data import Examples
from descscore.training.losses import (
    ImageMoments,
    contrastive_loss,
    hold_loss,
    interchange_hits,
    interchange_logits,
    interchange_loss,
    joint_loss,
    logit_shifts,
    preference_hits,
    preference_logits,
    preference_loss,
    spread_loss,
)
from descscore.training.plan import Batch, draw_sources
from descscore.training.text_tower import encode, encode_exchange, unit_features

OTHERS = 20
"""Number of other images, and of other descriptions, that grounding in a validation compares with."""


@dataclass(frozen=True)
class Objective:
    """The model in training, and what to minimise."""

    clip: CLIP
    rotation: Rotation | None
    """The learned rotation; None with the preference loss."""
    config: FinetuneConfig
    untuned: Untuned | None = None
    """The model to stay near; None where no loss asks for it."""


def site_of(config: FinetuneConfig) -> Site | None:
    """Where purpose is interchanged; None with the preference loss."""
    return None if config.block is None or config.k is None else Site(config.block, config.k)


@dataclass(frozen=True)
class Untuned:
    """The model before training, and moments of the training images: the measure of how far tuning goes."""

    clip: CLIP
    images: ImageMoments

    @classmethod
    @torch.no_grad()
    def of(cls, clip: CLIP, examples: Examples) -> Untuned:
        """A copy of ``clip`` as it is now, and moments of the examples' images."""
        return cls(copy.deepcopy(clip).requires_grad_(False), ImageMoments.of(examples.images))


@dataclass(frozen=True)
class StepResult:
    """The loss of a batch, and which of its pairs and interchanges came out right."""

    loss: Tensor
    """``()``, to be minimised."""
    preference: Tensor
    """``(p,)`` bool, of the batch's image pairs."""
    interchange: Tensor
    """``(m,)`` bool, of its interchanges."""


@dataclass(frozen=True)
class TextRuns:
    """How texts run through the tower, plain and with interchanges."""

    encode: Callable[[CLIP, Tensor], Tensor]
    exchange: Callable[[CLIP, Tensor, Exchange, Tensor, Site], Interchanged]


SHORT = TextRuns(encode, encode_exchange)
"""Only what reaches a feature is run."""


def run_batch(objective: Objective, examples: Examples, batch: Batch, runs: TextRuns = SHORT) -> StepResult:
    """The loss of one batch; every text that occurs in it runs through the tower once."""
    texts = torch.cat([batch.pairs, batch.pairs + len(examples), batch.base, batch.source])
    rows, place = torch.unique(texts, return_inverse=True)
    pairs, swaps = len(batch.pairs), len(batch.base)
    description, caption, base, source = torch.split(place, [pairs, pairs, swaps, swaps])
    plain, swapped = _features(objective, examples.tokens[rows], Exchange(base, source), runs)
    config, scale = objective.config, objective.clip.logit_scale
    preference_right = interchange_right = torch.empty(0, dtype=torch.bool, device=plain.device)
    learnt = kept = plain.new_zeros((), dtype=torch.float32)  # the losses that change the model, and hold it
    if pairs:
        images = examples.images[batch.pairs]
        two = (plain[description], plain[caption])
        preference_right = preference_hits(preference_logits(images, *two, scale))
        learnt = preference_loss(images, *two, scale)
        kept = _grounding_losses(objective, examples, batch, two[0])
    if swaps:
        images, towards = examples.images[batch.base % len(examples)], batch.source < len(examples)
        logits = interchange_logits(images, plain[base], swapped, scale)
        interchange_right = interchange_hits(logits, towards)
        weight = config.joint_weight if config.loss == "joint" else 1.0
        learnt = joint_loss(interchange_loss(logits, towards), learnt, weight)
    return StepResult(kept + learnt, preference_right, interchange_right)


def _features(
    objective: Objective, tokens: Tensor, exchange: Exchange, runs: TextRuns
) -> tuple[Tensor, Tensor]:
    """Raw features of the texts as they are, and of the interchanged ones."""
    site = site_of(objective.config)
    if objective.rotation is None or site is None or not len(exchange.base):
        plain = runs.encode(objective.clip, tokens)
        return plain, plain[:0]
    out = runs.exchange(objective.clip, tokens, exchange, objective.rotation.matrix(), site)
    return out.plain, out.swapped


def _grounding_losses(objective: Objective, examples: Examples, batch: Batch, descriptions: Tensor) -> Tensor:
    """The weighted losses that keep the score's hold on the image: descriptions ``(p, embed_dim)`` -> ``()``.

    Captions may go anywhere: nobody needs to tell images apart by them.
    """
    config, untuned, scale = objective.config, objective.untuned, objective.clip.logit_scale
    total = descriptions.new_zeros((), dtype=torch.float32)
    if config.contrastive_weight:
        # Every process needs all processes' texts as negatives.
        texts = GatherWithGradient.apply(descriptions.float())
        images, owner = gather(examples.images[batch.pairs]), gather(examples.owner[batch.pairs])
        total = total + config.contrastive_weight * contrastive_loss(images, texts, scale, owner)
    if untuned is not None:
        with torch.no_grad():
            before = encode(untuned.clip, examples.tokens[batch.pairs])
        shifts = logit_shifts(descriptions, before, scale)
        everyone = GatherWithGradient.apply(shifts)
        hold = config.hold_weight * hold_loss(shifts, untuned.images)
        total = total + (hold + config.spread_weight * spread_loss(everyone, untuned.images))
    return total


class GatherWithGradient(torch.autograd.Function):
    """All processes' rows in one tensor: ``(n, d)`` -> ``(processes * n, d)``.

    Each process computes the same loss on it, and gradients are averaged over the processes
    afterwards. So the gradient of the own rows, times the number of processes, becomes the
    gradient of that one loss.
    """

    @staticmethod
    def forward(ctx, rows):  # type: ignore[no-untyped-def]
        everyone = gather(rows)
        ctx.own, ctx.count = len(rows), len(everyone) // len(rows)
        return everyone

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        first = PartialState().process_index * ctx.own
        return gradient[first : first + ctx.own] * ctx.count


@torch.no_grad()
def validate(objective: Objective, examples: Examples, batch_size: int = 128) -> dict[str, float]:
    """Accuracies in 0..1, where a tie is not right, and the mean loss.

    Returns:
        ``loss``; ``preference``, description over caption; ``interchange``, with sources from other
        images, where there is a purpose subspace; ``grounding``, a description's own image over 20 random
        other images, and ``text_grounding``, an image's own description over those of 20 others (a model
        that likes some descriptions better than others loses here), where there is more than one image;
        ``score``, the mean of those that are defined, to choose by.
    """
    n, config = len(examples), objective.config
    rng = torch.Generator().manual_seed(0)
    base = torch.arange(2 * n if config.loss != "preference" else 0)
    source = draw_sources(base, examples.owner.cpu(), config.source_image, rng) if len(base) else base
    preference, interchange, losses = [], [], []
    for start in range(0, n, batch_size):
        rows = torch.arange(start, min(start + batch_size, n))
        # Text rows of the same images: their descriptions and captions are run anyway.
        texts = torch.cat([rows, rows + n]) if len(base) else base
        batch = Batch(rows, base[texts], source[texts])
        result = run_batch(objective, examples, batch.to(examples.images.device))
        preference.append(result.preference)
        interchange.append(result.interchange)
        losses.append(float(result.loss) * len(rows))
    measured = {"preference": _share(torch.cat(preference))}
    if n > 1:
        unit = unit_features(objective.clip, examples.tokens[:n], batch_size)
        for name, measure in (("grounding", grounding_sampled), ("text_grounding", grounding_over_texts)):
            measured[name] = _share(measure(examples.images, unit, OTHERS, 0))
    if len(base):
        measured["interchange"] = _share(torch.cat(interchange))
    return {"loss": sum(losses) / n, **measured, "score": sum(measured.values()) / len(measured)}


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())
