"""What one batch is worth: the configured losses, and how often preference and interchange come out right."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate.utils import gather
from open_clip import CLIP
from torch import Tensor

from descscore.interventions import Exchange, Interchanged, Rotation, Site
from descscore.training.config import FinetuneConfig
from descscore.training.examples import Examples
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
from descscore.training.plan import Batch
from descscore.training.text_run import encode, encode_exchange


@dataclass(frozen=True)
class Held:
    """What a model may not leave far: its untuned copy, measured on moments of the training images."""

    clip: CLIP
    images: ImageMoments

    @classmethod
    @torch.no_grad()
    def of(cls, clip: CLIP, examples: Examples) -> Held:
        """A copy of ``clip`` as it is now, and moments of the examples' images."""
        untuned = copy.deepcopy(clip).requires_grad_(False)
        return cls(untuned, ImageMoments.of(examples.images))


@dataclass(frozen=True)
class Objective:
    """The model in training. rotation: None with the preference loss. held: what it stays near, if any."""

    clip: CLIP
    rotation: Rotation | None
    config: FinetuneConfig
    held: Held | None = None


@dataclass(frozen=True)
class Outcome:
    """loss: ``()``, to be minimised. preference ``(p,)``, interchange ``(m,)``: bool, what came out right."""

    loss: Tensor
    preference: Tensor
    interchange: Tensor


@dataclass(frozen=True)
class TextRuns:
    """How texts run through the tower, plain and with interchanges: :mod:`descscore.training.text_run`'s
    functions, or others to the same result."""

    encode: Callable[[CLIP, Tensor], Tensor]
    exchange: Callable[[CLIP, Tensor, Exchange, Tensor, Site], Interchanged]


SHORT = TextRuns(encode, encode_exchange)
"""Only what reaches a feature is run."""


def run_batch(objective: Objective, examples: Examples, batch: Batch, runs: TextRuns = SHORT) -> Outcome:
    """Losses of one batch; every text that occurs in it runs through the tower once."""
    texts = torch.cat([batch.pairs, batch.pairs + len(examples), batch.base, batch.source])
    rows, place = torch.unique(texts, return_inverse=True)
    pairs, swaps = len(batch.pairs), len(batch.base)
    description, caption, base, source = torch.split(place, [pairs, pairs, swaps, swaps])
    plain, swapped = _features(objective, examples.tokens[rows], Exchange(base, source), runs)
    clip, config = objective.clip, objective.config
    none = torch.empty(0, dtype=torch.bool, device=plain.device)
    preference, hits = plain.new_zeros((), dtype=torch.float32), none
    loss = plain.new_zeros((), dtype=torch.float32)
    if pairs:
        images = examples.images[batch.pairs]
        two = (plain[description], plain[caption])
        hits = preference_hits(preference_logits(images, *two, clip.logit_scale))
        preference = preference_loss(images, *two, clip.logit_scale)
        loss = loss + _grounding(objective, examples, batch, two)
    if not swaps:
        return Outcome(loss + preference, hits, none)
    logits = interchange_logits(
        examples.images[batch.base % len(examples)], plain[base], swapped, clip.logit_scale
    )
    towards = batch.source < len(examples)
    interchange = interchange_loss(logits, towards)
    weight = config.joint_weight if config.loss == "joint" else 1.0
    return Outcome(
        loss + joint_loss(interchange, preference, weight), hits, interchange_hits(logits, towards)
    )


def _features(
    objective: Objective, tokens: Tensor, exchange: Exchange, runs: TextRuns
) -> tuple[Tensor, Tensor]:
    """Raw features of the texts as they are, and of the interchanged ones."""
    site = objective.config.site
    if objective.rotation is None or site is None or not len(exchange.base):
        plain = runs.encode(objective.clip, tokens)
        return plain, plain[:0]
    out = runs.exchange(objective.clip, tokens, exchange, objective.rotation.matrix(), site)
    return out.plain, out.swapped


def _grounding(objective: Objective, examples: Examples, batch: Batch, two: tuple[Tensor, Tensor]) -> Tensor:
    """The losses that keep the score's hold on the image, with their weights."""
    config, total = objective.config, two[0].new_zeros((), dtype=torch.float32)
    if config.contrastive_weight:
        # Every process needs all processes' texts as negatives; gather passes gradients back.
        everyone = GatherWithGradient.apply(two[0].float())
        images, owner = gather(examples.images[batch.pairs]), gather(examples.owner[batch.pairs])
        loss = contrastive_loss(images, everyone, objective.clip.logit_scale, owner)
        total = total + config.contrastive_weight * loss
    if objective.held is not None:
        total = total + _drift(objective, objective.held, examples.tokens[batch.pairs], two[0])
    return total


def _drift(objective: Objective, held: Held, tokens: Tensor, descriptions: Tensor) -> Tensor:
    """The losses on how descriptions ``(p, embed_dim)`` moved away from the untuned model.

    Captions may go anywhere: nobody needs to tell images apart by them.
    """
    with torch.no_grad():
        untuned = encode(held.clip, tokens)
    config, shifts = objective.config, logit_shifts(descriptions, untuned, objective.clip.logit_scale)
    everyone = GatherWithGradient.apply(shifts)
    total: Tensor = config.hold_weight * hold_loss(shifts, held.images)
    return total + config.spread_weight * spread_loss(everyone, held.images)


class GatherWithGradient(torch.autograd.Function):
    """All processes' rows in one tensor: ``(n, d)`` -> ``(processes * n, d)``.

    Each process computes the same loss on it, and gradients are averaged over the
    processes afterwards; handing back only the own rows' gradient, times the number
    of processes, then gives the gradient of that one loss.
    """

    @staticmethod
    def forward(ctx, rows):  # type: ignore[no-untyped-def]
        everyone = gather(rows)
        ctx.own, ctx.count = len(rows), len(everyone) // len(rows)
        return everyone

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        from accelerate import PartialState

        first = PartialState().process_index * ctx.own
        return gradient[first : first + ctx.own] * ctx.count
