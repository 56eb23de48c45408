"""Weights between the untuned model's and the tuned one's.

A part of the way back gives back more of what the untuned model could do than it takes of what
was learned. Source: WiSE-FT, Wortsman et al. 2022 (arXiv 2109.01903).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from open_clip import CLIP
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from descscore.adapters import use_exact_attention
from descscore.errors import ModelError, UsageError

# Which weights are trained: low-rank updates of the text tower's attention, or all of its weights.
#
# Both functions freeze everything else and then compare the number of trained
# values with one worked out from the tower's shape, so that a change in a library's
# naming cannot silently train too much or too little.
#
# LoRA goes on all four attention projections. torch packs query, key and value into
# one ``in_proj_weight`` ``(3d, d)``, and peft gives that matrix one pair: A ``(r, d)``
# and B ``(3d, r)``, besides A ``(r, d)`` and B ``(d, r)`` for the output projection:
# 6rd values a block. Four separate pairs, as published with the method, have 8rd:
# there, query, key and value read from the state through an A of their own; here they share it.
# Each of the four updates has rank r at most in both.
#
# The targets ``tower`` put LoRA on the blocks' feed-forward layers and on the token
# embedding too: A ``(r, vocabulary)`` and B ``(width, r)`` give every word r values of its
# own, so that what a single word says of a text's purpose can be learned.


TARGETS = {
    "attention": r"transformer\.resblocks\.\d+\.attn",
    "tower": r"transformer\.resblocks\.\d+\.(attn|mlp\.c_fc|mlp\.c_proj)|token_embedding",
}
"""Names of the modules that get LoRA; peft matches whole names, so ``visual.transformer...`` stays out."""

_FULL = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")


def attach_lora(
    clip: CLIP, rank: int, alpha: int | None = None, seed: int = 0, targets: str = "attention"
) -> PeftModel:
    """Put LoRA on ``clip``'s text tower, in place, and freeze all else (logit_scale too).

    alpha: ``rank`` by default, a scale of 1. targets: a key of :data:`TARGETS`. No
    dropout, no bias. One matrix of each pair starts random from ``seed`` alone, the
    other at zero, so that the model starts as its base. The result wraps ``clip`` and
    saves peft's files; ``clip`` itself runs as before.

    Raises :class:`UsageError` for a rank or alpha under 1, :class:`ModelError` where the number of
    trained values is not the expected one.
    """
    alpha = rank if alpha is None else alpha
    if rank < 1 or alpha < 1:
        raise UsageError(f"LoRA rank {rank}, alpha {alpha}: both must be at least 1")
    names = TARGETS[targets]
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, lora_dropout=0.0, bias="none")
    # peft draws on the CPU before it moves anything, so one seed serves every device.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        wrapped = get_peft_model(clip, use_exact_attention(config))
    check_trained(wrapped, lora_parameters(clip, rank, targets))
    return wrapped


def select_full(clip: CLIP) -> None:
    """Train all text weights: embeddings, blocks, final norm, projection and logit_scale; freeze the rest.

    Raises :class:`ModelError` where the number of trained values is not the expected one.
    """
    for name, parameter in clip.named_parameters():
        parameter.requires_grad_(name == "logit_scale" or name.startswith(_FULL))
    check_trained(clip, full_parameters(clip))


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that an optimiser must get, by name, in the model's order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def check_trained(model: nn.Module, expected: int) -> None:
    """Raise :class:`ModelError` unless exactly ``expected`` values are trained."""
    found = sum(p.numel() for p in trained_parameters(model).values())
    if found != expected:
        raise ModelError(f"{found:,} values would be trained, not the expected {expected:,}")


def lora_parameters(clip: CLIP, rank: int, targets: str = "attention") -> int:
    """Values in LoRA of ``rank`` on the text tower, from its shape alone (see the module's text)."""
    width, blocks = clip.transformer.width, len(clip.transformer.resblocks)
    attention = 6 * rank * width * blocks
    if targets == "attention":
        return attention
    hidden = clip.transformer.resblocks[0].mlp.c_fc.out_features
    feed_forward = 2 * rank * (width + hidden) * blocks
    return attention + feed_forward + rank * (clip.vocab_size + width)


def full_parameters(clip: CLIP) -> int:
    """Values in the whole text tower, logit_scale included, from its shape alone."""
    width, hidden = clip.transformer.width, clip.transformer.resblocks[0].mlp.c_fc.out_features
    attention = 4 * width * width + 4 * width
    mlp = 2 * width * hidden + hidden + width
    norms = 2 * 2 * width
    scales = 0 if isinstance(clip.transformer.resblocks[0].ls_1, nn.Identity) else 2 * width
    embeddings = (clip.vocab_size + clip.context_length) * width
    blocks = len(clip.transformer.resblocks) * (attention + mlp + norms + scales)
    return embeddings + blocks + 2 * width + _projection_parameters(clip) + 1


def _projection_parameters(clip: CLIP) -> int:
    projection = clip.text_projection
    if isinstance(projection, nn.Linear):
        return projection.in_features * projection.out_features + (
            projection.out_features if projection.bias is not None else 0
        )
    return 0 if projection is None else projection.numel()


def rotation_parameters(width: int) -> int:
    """Values in the rotation's parameter, ``width`` squared, of which those under the diagonal act."""
    return width * width


class Interpolation:
    """Weights as they are now, to be mixed with what they become.

    lora: whether the weights are pairs of low-rank updates. What changes the model is a pair's product,
    and one of each pair starts at zero: that one alone is mixed, and the product with it.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], lora: bool) -> None:
        start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self._start = {name: value for name, value in start.items() if not (lora and value.any())}

    @torch.no_grad()
    def apply(self, parameters: Mapping[str, nn.Parameter], share: float) -> None:
        """Keep ``share`` of the change of each, in place: 0 for the start, 1 for what they are."""
        for name, start in self._start.items():
            mixed: Tensor = torch.lerp(start, parameters[name], share)
            parameters[name].copy_(mixed)
