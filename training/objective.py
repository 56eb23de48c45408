"""Validation during fine-tuning: preference, interchange and grounding on pairs that are not trained on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import gather
from open_clip import CLIP
from open_clip.transformer import Transformer
from torch import Tensor, nn
from torch.nn import functional as F

from descscore.adapters import ExactAttention
from descscore.eval.statistics.retrieval import grounding_over_texts, grounding_sampled
from descscore.purpose import (
    Exchange,
    Interchanged,
    Rotation,
    Site,
    check_site,
    interchange,
    interchange_texts,
)
from descscore.towers.blocks import Parts, is_plain_attention, is_plain_but_for_attention
from descscore.towers.text import (
    Prefixes,
    embed_prefixes,
    encode_tokens,
    end_positions,
    find_prefixes,
    project_end,
    run_block,
    run_ends,
)
from descscore.training.config import FinetuneConfig
from descscore.training.data import Examples, select
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

# The text tower in training: only what reaches a feature is run, and all of it has gradients.
#
# Equal to plain open_clip on the full context length to rounding, gradients too. Left out are padding,
# beginnings that another text has too (:mod:`descscore.towers.text`), and, in the last block, all
# positions but the end-of-text token, of which the others only provide keys and values. After the site
# of an interchange, an interchanged text adds its end-of-text token alone: the tower is causal, so all
# before it stays what it is in the text as such.


def encode(clip: CLIP, tokens: Tensor) -> Tensor:
    """Raw text features: token rows ``(n, length)`` on the model's device -> ``(n, embed_dim)``.

    Equal to ``clip.encode_text`` on the same rows padded to the full context length.
    """
    if not knows(clip.transformer):
        return encode_tokens(clip, tokens)
    prefixes = _prefixes(clip, tokens)
    blocks: Any = clip.transformer.resblocks
    states = _run(blocks[:-1], embed_prefixes(clip, prefixes), prefixes)
    return project_end(clip, run_ends(blocks[-1], states, prefixes, _PARTS))[prefixes.back]


def unit_features(clip: CLIP, tokens: Tensor, batch_size: int = 128) -> Tensor:
    """As :func:`encode`, some rows at a time, of length 1 and float32: ``(n, embed_dim)``."""
    parts = [encode(clip, part).float() for part in torch.split(tokens, batch_size)]
    return F.normalize(torch.cat(parts), dim=-1)


def encode_exchange(
    clip: CLIP, tokens: Tensor, exchange: Exchange, matrix: Tensor, site: Site
) -> Interchanged:
    """As :func:`descscore.purpose.interchange_texts`, for less work.

    Raises :class:`UsageError` for a site that the text tower lacks.
    """
    check_site(clip, site)
    blocks: Any = clip.transformer.resblocks
    if not knows(clip.transformer) or site.block == len(blocks) - 1:
        return interchange_texts(clip, tokens, exchange, matrix, site)
    prefixes = _prefixes(clip, tokens)
    states = _run(blocks[: site.block + 1], embed_prefixes(clip, prefixes), prefixes)
    state = states[prefixes.ends][prefixes.back]
    new = interchange(state[exchange.base], state[exchange.source], matrix, site.k)
    both = _with_other_ends(prefixes, prefixes.back[exchange.base])
    states = _run(blocks[site.block + 1 : -1], torch.cat([states, new]), both)
    features = project_end(clip, run_ends(blocks[-1], states, both, _PARTS))
    return Interchanged(features[prefixes.back], features[len(tokens) :], state)


def knows(transformer: nn.Module) -> bool:
    """Whether all blocks have the form that this module runs: open_clip's plain one, with LoRA or without."""
    blocks: Any = transformer.resblocks
    return type(transformer) is Transformer and all(map(_is_known, blocks))


def _is_known(block: nn.Module) -> bool:
    if not is_plain_but_for_attention(block):
        return False
    attention: Any = block.attn
    return is_plain_attention(attention.get_base_layer() if type(attention) is ExactAttention else attention)


def _prefixes(clip: CLIP, tokens: Tensor) -> Prefixes:
    here = tokens.cpu()
    return find_prefixes(here, end_positions(clip, here) + 1).to(tokens.device)


def _with_other_ends(prefixes: Prefixes, rows: Tensor) -> Prefixes:
    """The same, and besides the rows ``rows`` ``(s,)`` once more, each with an end of its own.

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
        states = run_block(block, states, prefixes, _PARTS)
    return states


def _project(block: Any, states: Tensor, parts: tuple[int, int]) -> Tensor:
    """Normalised states' queries, keys, values: ``(m, width)`` -> ``(m, parts, heads, width / heads)``."""
    attention, width = block.attn, states.shape[-1]
    rows, normed = slice(parts[0] * width, parts[1] * width), block.ln_1(states)
    if type(attention) is ExactAttention:
        packed = attention.project_in(normed, rows)
    else:
        bias = attention.in_proj_bias
        packed = F.linear(normed, attention.in_proj_weight[rows], None if bias is None else bias[rows])
    return packed.view(len(states), parts[1] - parts[0], attention.num_heads, -1)


def _finish(block: Any, states: Tensor, mixed: Tensor) -> Tensor:
    """A block's output from its input and what attention mixed, heads side by side: ``(m, width)`` each."""
    attention = block.attn
    if type(attention) is ExactAttention:
        moved = attention.project_out(mixed)
    else:
        moved = F.linear(mixed, attention.out_proj.weight, attention.out_proj.bias)
    states = states + block.ls_1(moved)
    finished: Tensor = states + block.ls_2(block.mlp(block.ln_2(states)))
    return finished


_PARTS = Parts(_project, _finish)
"""With LoRA, where there is any, and with gradients."""


# What one batch is worth: the configured losses, and how often preference and interchange come out right.


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
class StepResult:
    """loss: ``()``, to be minimised. preference ``(p,)``, interchange ``(m,)``: bool, what came out right."""

    loss: Tensor
    preference: Tensor
    interchange: Tensor


@dataclass(frozen=True)
class TextRuns:
    """How texts run through the tower, plain and with interchanges: :mod:`descscore.training.objective`'s
    functions, or others to the same result."""

    encode: Callable[[CLIP, Tensor], Tensor]
    exchange: Callable[[CLIP, Tensor, Exchange, Tensor, Site], Interchanged]


SHORT = TextRuns(encode, encode_exchange)
"""Only what reaches a feature is run."""


def run_batch(objective: Objective, examples: Examples, batch: Batch, runs: TextRuns = SHORT) -> StepResult:
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
        return StepResult(loss + preference, hits, none)
    logits = interchange_logits(
        examples.images[batch.base % len(examples)], plain[base], swapped, clip.logit_scale
    )
    towards = batch.source < len(examples)
    interchange = interchange_loss(logits, towards)
    weight = config.joint_weight if config.loss == "joint" else 1.0
    return StepResult(
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


OTHERS = 20


def subset(examples: Examples, most: int, seed: int) -> Examples:
    """At most ``most`` pairs, drawn by a fixed seed, in their own order."""
    n = len(examples)
    if n <= most:
        return examples
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:most].sort().values
    return select(examples, chosen)


@torch.no_grad()
def validate(objective: Objective, examples: Examples, batch_size: int = 128) -> dict[str, float]:
    """Accuracies in 0..1, ties not counted as right, and the mean loss.

    ``preference``: description over caption. ``grounding``: a description's own image over 20
    random other images; ``text_grounding``: an image's own description over those of 20 others,
    which liking some descriptions better than others costs. ``interchange``: with the purpose
    subspace, sources from other images. ``score``: the mean of those that are defined, to choose by.
    """
    n, config = len(examples), objective.config
    rng = torch.Generator().manual_seed(0)
    base = torch.arange(2 * n if config.loss != "preference" else 0)
    source = draw_sources(base, examples.owner.cpu(), config.source_image, rng) if len(base) else base
    pairs, swaps, losses = [], [], []
    for start in range(0, n, batch_size):
        rows = torch.arange(start, min(start + batch_size, n))
        # Text rows of the same images: their descriptions and captions are run anyway.
        texts = torch.cat([rows, rows + n]) if len(base) else base
        batch = Batch(rows, base[texts], source[texts])
        outcome = run_batch(objective, examples, batch.to(examples.images.device))
        pairs.append(outcome.preference)
        swaps.append(outcome.interchange)
        losses.append(float(outcome.loss) * len(rows))
    measured = {"loss": sum(losses) / n, "preference": _share(torch.cat(pairs))}
    if n > 1:
        measured |= _grounding_validation(objective, examples, batch_size)
    if len(base):
        measured["interchange"] = _share(torch.cat(swaps))
    accuracies = [value for name, value in measured.items() if name != "loss"]
    return measured | {"score": sum(accuracies) / len(accuracies)}


def _grounding_validation(objective: Objective, examples: Examples, batch_size: int) -> dict[str, float]:
    unit = unit_features(objective.clip, examples.tokens[: len(examples)], batch_size)
    measures = {"grounding": grounding_sampled, "text_grounding": grounding_over_texts}
    return {name: float(f(examples.images, unit, OTHERS, 0).mean()) for name, f in measures.items()}


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())
