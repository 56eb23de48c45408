"""Which weights are tuned: low-rank updates (LoRA) of the text tower, or all of its weights.

LoRA goes on all four attention projections, as published: each has an A ``(r, d)`` and a B ``(d, r)`` of its
own, 8rd values a block.

The targets ``tower`` put LoRA on the blocks' feed-forward layers and on the token embedding too:
A ``(r, vocabulary)`` and B ``(width, r)`` give every word r values of its own, so that training can
learn what a single word says about a text's purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from descscore.clip import CLIP
from descscore.errors import ModelError, UsageError
from descscore.lora import targets as lora_targets
from descscore.lora import unpack_attention
from descscore.towers.blocks import own_text_tower, text_blocks
from descscore.training.config import Tower


def attach_lora(
    clip: CLIP, rank: int, alpha: int | None = None, seed: int = 0, targets: str = "attention"
) -> PeftModel:
    """Put LoRA on the text tower of ``clip``, in place, and freeze all else (logit_scale too).

    The tower's attention is unpacked (:func:`descscore.lora.unpack_attention`).

    Args:
        clip: The untuned model. It runs as before, now with the updates.
        rank: Rank of each update, at least 1.
        alpha: The updates are scaled by ``alpha / rank``; by default the rank, which is a scale of 1.
        seed: One matrix of each pair starts random from this seed alone, the other at zero, so that
            the model starts as its base.
        targets: A key of :data:`descscore.lora.TARGETS`.

    Returns:
        A wrapper of ``clip`` that saves peft's files. It has no dropout and no bias.

    Raises:
        UsageError: The rank or alpha is below 1.
        ModelError: The text tower is not open_clip's, its attention is not torch's plain one, or the number
            of trained values is not the one that the tower's shape gives, as happens when a library renames
            its layers.
    """
    alpha = rank if alpha is None else alpha
    if rank < 1 or alpha < 1:
        raise UsageError(f"LoRA rank {rank}, alpha {alpha}: both must be at least 1")
    own_text_tower(clip)
    names = lora_targets(clip, targets)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, lora_dropout=0.0, bias="none")
    # peft draws on the CPU before it moves anything, so one seed serves every device.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        wrapped = get_peft_model(unpack_attention(clip), config)
    trained = sum(parameter.numel() for parameter in trained_parameters(wrapped).values())
    expected = lora_parameters(clip, rank, targets)
    if trained != expected:
        raise ModelError(f"{trained:,} values would be trained, not the expected {expected:,}")
    return wrapped


def lora_parameters(clip: CLIP, rank: int, targets: str = "attention") -> int:
    """Number of values in LoRA of ``rank`` on the text tower, from its shape alone."""
    tower, layers = own_text_tower(clip), text_blocks(clip)
    width, blocks = tower.transformer.width, len(layers)
    attention = 8 * rank * width * blocks
    if targets == "attention":
        return attention
    hidden = layers[0].mlp.c_fc.out_features
    feed_forward = 2 * rank * (width + hidden) * blocks
    return attention + feed_forward + rank * (tower.vocab_size + width)


def tower_shape(clip: Any) -> Tower:
    """The shape of an open_clip model's text tower. Raises :class:`ModelError` for one of another library."""
    transformer = own_text_tower(clip).transformer
    return Tower(int(transformer.width), len(transformer.resblocks))


def select_full(clip: CLIP) -> None:
    """Train all weights of the text tower, embeddings included, and logit_scale; freeze the rest."""
    own_text_tower(clip)
    for name, parameter in clip.named_parameters():
        parameter.requires_grad_(not name.startswith(("visual.", "text_decoder.", "logit_bias")))


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that an optimiser must get, by name, in the model's order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


class Interpolation:
    """The weights before training, to be blended with the tuned ones: WiSE-FT.

    A blend restores more of the original's ability than it costs. Source: Wortsman et al. 2022
    (arXiv 2109.01903).

    lora: whether the weights are pairs of low-rank updates. The product of a pair changes the model,
    and one of the two starts at zero: only that one is blended, and the product with it.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], lora: bool) -> None:
        start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self._start = {name: value for name, value in start.items() if not (lora and value.any())}

    @torch.no_grad()
    def apply(self, parameters: Mapping[str, nn.Parameter], share: float) -> None:
        """Keep ``share`` of each weight's change, in place: 0 restores the start, 1 changes nothing."""
        for name, start in self._start.items():
            blend: Tensor = torch.lerp(start, parameters[name], share)
            parameters[name].copy_(blend)
