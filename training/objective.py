"""One batch through the model: its texts run once, the configured losses are added up.

The formulas of the losses are in :mod:`descscore.training.losses`. Validation measures the same
accuracies on pairs that are not trained on, and grounding.

A causal text tower runs only what reaches a feature, with gradients and with LoRA. Features and gradients
equal those of plain open_clip on the full context length, to rounding. It skips padding, the beginnings that
another text has too (:mod:`descscore.towers.text`), and, in the last block, all positions but the
end-of-text token, for which the other tokens only supply keys and values. After the site of an interchange,
an interchanged text adds its end-of-text token alone: the tower is causal, so all tokens before it keep the
states that they have in the text as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather
from torch import Tensor
from torch.nn import functional as F

from descscore.clip import CLIP
from descscore.eval.statistics.retrieval import count_others, grounding_over_texts, grounding_sampled
from descscore.interchange import Exchange, Interchanged, Rotation, interchange, interchange_texts
from descscore.purpose import Site, check_site
from descscore.towers.blocks import text_blocks
from descscore.towers.text import (
    Prefixes,
    embed_prefixes,
    encode_tokens,
    end_positions,
    find_prefixes,
    project_end,
    run_block,
    run_ends,
    runs_short,
)
from descscore.training.config import FinetuneConfig
from descscore.training.data import Batch, Examples, draw_sources
from descscore.training.losses import (
    ImageMoments,
    contrastive_loss,
    cosines,
    ending_loss,
    hold_loss,
    interchange_hits,
    interchange_loss,
    joint_loss,
    logit_shifts,
    outrank_loss,
    pair_logits,
    preference_hits,
    preference_loss,
    spread_loss,
)

_ROWS_AT_ONCE = 128


def encode(clip: CLIP, tokens: Tensor) -> Tensor:
    """Raw text features: token rows ``(n, length)`` on the model's device -> ``(n, embed_dim)``.

    Equal to ``clip.encode_text`` on the same rows padded to the full context length.
    """
    if not runs_short(clip):
        return encode_tokens(clip, tokens)
    prefixes = _prefixes(clip, tokens)
    blocks = text_blocks(clip)
    states = _run(blocks[:-1], embed_prefixes(clip, prefixes), prefixes)
    return project_end(clip, run_ends(blocks[-1], states, prefixes))[prefixes.back]


def unit_features(clip: CLIP, tokens: Tensor) -> Tensor:
    """As :func:`encode`, some rows at a time, of length 1 and float32: ``(n, embed_dim)``."""
    parts = [encode(clip, part).float() for part in torch.split(tokens, _ROWS_AT_ONCE)]
    return F.normalize(torch.cat(parts), dim=-1)


def encode_exchange(
    clip: CLIP, tokens: Tensor, exchange: Exchange, matrix: Tensor, site: Site
) -> Interchanged:
    """As :func:`descscore.interchange.interchange_texts`, for less work.

    Raises :class:`UsageError` for a site that the text tower lacks.
    """
    check_site(clip, site)
    blocks = text_blocks(clip)
    if not runs_short(clip) or site.block == len(blocks) - 1:
        return interchange_texts(clip, tokens, exchange, matrix, site)
    prefixes = _prefixes(clip, tokens)
    states = _run(blocks[: site.block + 1], embed_prefixes(clip, prefixes), prefixes)
    state = states[prefixes.ends][prefixes.back]
    new = interchange(state[exchange.base], state[exchange.source], matrix, site.k)
    both = _with_other_ends(prefixes, prefixes.back[exchange.base])
    states = _run(blocks[site.block + 1 : -1], torch.cat([states, new]), both)
    features = project_end(clip, run_ends(blocks[-1], states, both))
    return Interchanged(features[prefixes.back], features[len(tokens) :], state)


def _prefixes(clip: CLIP, tokens: Tensor) -> Prefixes:
    here = tokens.cpu()
    return find_prefixes(here, end_positions(clip, here) + 1).to(tokens.device)


def _with_other_ends(prefixes: Prefixes, rows: Tensor) -> Prefixes:
    """All rows, and the rows ``rows`` ``(s,)`` once more, each with an end of its own.

    The states of these ends stand behind the others, in the order of ``rows``.
    """
    count, longest = prefixes.places.shape
    own = len(prefixes.first) + torch.arange(len(rows), device=rows.device)
    lengths = prefixes.lengths[rows]
    places = prefixes.places[rows].scatter(1, lengths[:, None] - 1, own[:, None])
    first = (count + torch.arange(len(rows), device=rows.device)) * longest + lengths - 1
    return replace(
        prefixes,
        places=torch.cat([prefixes.places, places]),
        first=torch.cat([prefixes.first, first]),
        ends=torch.cat([prefixes.ends, own]),
        lengths=torch.cat([prefixes.lengths, lengths]),
    )


def _run(blocks: Any, states: Tensor, prefixes: Prefixes) -> Tensor:
    """Some blocks: ``(m, width)`` -> ``(m, width)``."""
    for block in blocks:
        states = run_block(block, states, prefixes)
    return states


@dataclass(frozen=True)
class TextRuns:
    """How texts run through the tower, plain and with interchanges."""

    encode: Callable[[CLIP, Tensor], Tensor]
    exchange: Callable[[CLIP, Tensor, Exchange, Tensor, Site], Interchanged]


SHORT = TextRuns(encode, encode_exchange)
"""Only what reaches a feature is run."""


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


def run_batch(objective: Objective, examples: Examples, batch: Batch, runs: TextRuns = SHORT) -> StepResult:
    """The loss of one batch; every text that occurs in it runs through the tower once."""
    n, pairs, swaps = len(examples), len(batch.pairs), len(batch.base)
    whole = [batch.pairs + kind * n for kind in range(examples.kinds)] if pairs else []
    rows, place = torch.unique(torch.cat([*whole, batch.base, batch.source]), return_inverse=True)
    *places_by_kind, base, source = torch.split(place, [*[pairs] * len(whole), swaps, swaps])
    tokens = examples.tokens[rows]
    if pairs and examples.twins is not None:
        tokens = torch.cat([tokens, examples.twins[torch.cat(whole)]])
    plain, swapped = _features(objective, tokens, Exchange(base, source), runs)
    config, scale = objective.config, objective.clip.logit_scale
    preference_right = interchange_right = torch.empty(0, dtype=torch.bool, device=plain.device)
    # The losses that tune the model, and those that hold what it should keep.
    learnt = kept = plain.new_zeros((), dtype=torch.float32)
    if pairs:
        images, texts = examples.images[batch.pairs], [plain[places] for places in places_by_kind]
        logits = pair_logits(images, texts[0], texts[1], scale)
        preference_right = preference_hits(logits)
        learnt = preference_loss(logits)
        kept = _grounding_losses(objective, examples, batch, texts)
        if len(tokens) > len(rows):
            ending = ending_loss(torch.cat(texts), plain[len(rows) :], gather(images), scale)
            kept = kept + config.ending_weight * ending
    if swaps:
        images, towards = examples.images[batch.base % len(examples)], batch.source < len(examples)
        logits = pair_logits(images, plain[base], swapped, scale)
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


def _grounding_losses(
    objective: Objective, examples: Examples, batch: Batch, features: Sequence[Tensor]
) -> Tensor:
    """The weighted losses that keep the score's hold on the image: features of each kind -> ``()``.

    features: ``(p, embed_dim)`` of descriptions, of captions, and of empty and jumbled texts if there are.
    """
    config, untuned, scale = objective.config, objective.untuned, objective.clip.logit_scale
    total = features[0].new_zeros((), dtype=torch.float32)
    # Every process needs all processes' texts as negatives.
    images, owner = gather(examples.images[batch.pairs]), gather(examples.owner[batch.pairs])
    descriptions, captions, *third = (GatherWithGradient.apply(kind.float()) for kind in features)
    if config.contrastive_weight:
        loss = contrastive_loss(images, descriptions, scale, owner)
        total = total + config.contrastive_weight * loss
    if config.caption_weight:
        same = owner[:, None] == owner[None, :]
        loss = outrank_loss(images, captions, descriptions, scale, same)
        total = total + config.caption_weight * loss
    if config.neither_weight and third:
        loss = outrank_loss(images, descriptions, torch.cat(third), scale)
        total = total + config.neither_weight * loss
    if untuned is not None:
        total = total + _staying_losses(objective, untuned, examples, batch, features[:2])
    return total


def _staying_losses(
    objective: Objective, untuned: Untuned, examples: Examples, batch: Batch, features: Sequence[Tensor]
) -> Tensor:
    """The weighted losses that keep each kind's texts near their untuned selves, mean over kinds -> ``()``.

    Each kind may gain or lose as a whole: only what tells texts or images of one kind apart is held.
    features: of descriptions and captions, ``(p, embed_dim)`` each.
    """
    config, scale, n = objective.config, objective.clip.logit_scale, len(examples)
    rows = torch.cat([batch.pairs + number * n for number in range(len(features))])
    with torch.no_grad():
        before = encode(untuned.clip, examples.tokens[rows]).chunk(len(features))
    total = features[0].new_zeros((), dtype=torch.float32)
    for now, then in zip(features, before, strict=True):
        shifts = logit_shifts(now, then, scale)
        everyone = GatherWithGradient.apply(shifts)
        hold = config.hold_weight * hold_loss(shifts, untuned.images)
        total = total + (hold + config.spread_weight * spread_loss(everyone, untuned.images))
    return total / len(features)


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
def validate(objective: Objective, examples: Examples) -> dict[str, float]:
    """Accuracies in 0..1, where a tie is not right, and the mean loss.

    Returns:
        ``loss``; these shares, as far as they are defined; and ``score``, their mean, to choose by:

        * ``preference``: a description over the caption.
        * ``interchange``: the logit moves the right way; sources are drawn as the settings say.
        * ``grounding``: a description's own image over 20 random other images.
        * ``text_grounding``: an image's own description over those of 20 other images. A model that likes
          some descriptions better than others loses here.
        * ``caption_grounding``: a caption over those descriptions, where the settings hold captions.
        * ``empty``, ``jumbled``: a description over texts of the third kind, where there are any.
    """
    n, config = len(examples), objective.config
    rng = torch.Generator().manual_seed(0)
    base = torch.arange(2 * n if config.loss != "preference" else 0)
    source = draw_sources(base, examples.owner.cpu(), config.source_image, rng) if len(base) else base
    preference_right, interchange_right, losses = [], [], []
    for rows in torch.split(torch.arange(n), _ROWS_AT_ONCE):
        # Text rows of the same images: their descriptions and captions are run anyway.
        texts = torch.cat([rows, rows + n]) if len(base) else base
        batch = Batch(rows, base[texts], source[texts])
        result = run_batch(objective, examples, batch.to(examples.images.device))
        preference_right.append(result.preference)
        interchange_right.append(result.interchange)
        losses.append(float(result.loss) * len(rows))
    measured = {"preference": _share(torch.cat(preference_right))}
    owner = examples.owner.cpu().numpy()
    if count_others(owner):
        unit = unit_features(objective.clip, examples.tokens[:n])
        for name, measure in (("grounding", grounding_sampled), ("text_grounding", grounding_over_texts)):
            measured[name] = _share(measure(examples.images, unit, owner))
        measured |= _over_the_rest(objective, examples, unit)
    if len(base):
        measured["interchange"] = _share(torch.cat(interchange_right))
    return {"loss": sum(losses) / n, **measured, "score": sum(measured.values()) / len(measured)}


def _over_the_rest(objective: Objective, examples: Examples, descriptions: Tensor) -> dict[str, float]:
    """What the settings hold beside the descriptions ``(n, embed_dim)``: captions, and the third kind."""
    tokens_by_kind, config = torch.split(examples.tokens, len(examples)), objective.config
    found: dict[str, float] = {}
    own = cosines(examples.images, descriptions)
    if config.caption_weight or config.hold_weight or config.spread_weight:
        captions = unit_features(objective.clip, tokens_by_kind[1])
        owner = examples.owner.cpu().numpy()
        hits = grounding_over_texts(examples.images, descriptions, owner, captions)
        found["caption_grounding"] = _share(hits)
    for name, tokens in zip(("empty", "jumbled"), tokens_by_kind[2:], strict=False):
        others = unit_features(objective.clip, tokens)
        found[name] = _share(own > cosines(examples.images, others))
    return found


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())
