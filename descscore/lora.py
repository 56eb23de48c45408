"""Tune a text tower's low-rank updates (LoRA) through peft, and merge them from peft's files.

torch packs an attention's query, key and value into one matrix, which would give the three one shared
low-rank input matrix A. For tuning, :func:`unpack_attention` turns each attention of the text tower into
four linear layers. So query, key, value and output have a pair A, B each, as in the code of Zur et al.
(2024), and peft's own linear layer does the rest. :func:`pack_attention` turns them back.

Import this module only where LoRA is used: it imports peft, which takes over a second.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from descscore.clip import CLIP
from descscore.errors import ModelError

LORA_CONFIG = "adapter_config.json"
LORA_WEIGHTS = "adapter_model.safetensors"
_SETTINGS = ("r", "lora_alpha", "target_modules", "bias", "lora_dropout", "rank_pattern", "alpha_pattern")
"""The settings that are read, which shape the low-rank matrices. Others could name a model to fetch."""


_MOST_SETTINGS = 1 << 20

_MOST_NAMES = 1000
"""Most names of layers in one setting: peft compares each with every layer."""

LARGEST_RANK = 4096
"""Largest rank that an adapter may ask for: memory is set aside before its weights are compared with it."""

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
"""Names of an unpacked attention's linear layers; the first three are packed in this order."""

_ATTENTION = "|".join(f"attn\\.{name}" for name in PROJECTIONS)
TARGETS = {
    "attention": rf"transformer\.resblocks\.\d+\.({_ATTENTION})",
    "tower": rf"transformer\.resblocks\.\d+\.({_ATTENTION}|mlp\.c_fc|mlp\.c_proj)|token_embedding",
}
"""Names of the modules that get LoRA; peft matches whole names, so ``visual.transformer...`` stays out."""


class UnpackedAttention(nn.Module):
    """Self-attention as four linear layers, of which peft can give each an update of its own.

    attention: torch's own, with one packed input projection. The layers share no memory with it.
    """

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    out_proj: nn.Linear

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        weights = [*attention.in_proj_weight.chunk(3), attention.out_proj.weight]
        packed: Any = attention.in_proj_bias
        biases = [*([None] * 3 if packed is None else packed.chunk(3)), attention.out_proj.bias]
        for name, weight, bias in zip(PROJECTIONS, weights, biases, strict=True):
            self.add_module(name, _linear(weight, bias))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """As ``nn.MultiheadAttention`` on ``(batch, length, width)``; never gives attention weights."""
        batch, length, width = query.shape
        parts = (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        q, k, v = (part.view(batch, length, self.num_heads, -1).transpose(1, 2) for part in parts)
        mask = None if attn_mask is None else attn_mask.to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, length, width)), None

    @torch.no_grad()
    def packed(self) -> nn.MultiheadAttention:
        """The same attention as torch packs it, on the same device. Updates must be merged before."""
        layers: list[Any] = [getattr(self, name) for name in PROJECTIONS]
        width, bias = layers[0].in_features, layers[0].bias is not None
        # Made without memory, so that no random start is drawn.
        out: Any = nn.MultiheadAttention(width, self.num_heads, bias=bias, batch_first=True, device="meta")
        for name in ("weight", "bias") if bias else ("weight",):
            values = [getattr(layer, name) for layer in layers]
            trained = values[3].requires_grad
            setattr(out, f"in_proj_{name}", nn.Parameter(torch.cat(values[:3]), trained))
            setattr(out.out_proj, name, nn.Parameter(values[3].clone(), trained))
        packed: nn.MultiheadAttention = out.train(self.training)
        return packed


@torch.no_grad()
def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, bias=bias is not None, device="meta", dtype=weight.dtype)
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    return layer


def unpack_attention(clip: CLIP) -> CLIP:
    """Unpack each attention of the text tower, in place; the tower computes the same as before.

    Raises :class:`ModelError` for a tower whose attention is not torch's plain one.
    """
    for number, block in enumerate(clip.transformer.resblocks):
        attention: Any = block.attn
        plain = type(attention) is nn.MultiheadAttention and attention.in_proj_weight is not None
        extras = plain and (attention.bias_k is not None, attention.add_zero_attn, attention.dropout)
        if not extras or any(extras) or not attention.batch_first:
            raise ModelError(f"text block {number}: LoRA needs torch's own plain attention")
        block.attn = UnpackedAttention(attention).train(attention.training)
    return clip


def pack_attention(clip: CLIP) -> CLIP:
    """Undo :func:`unpack_attention`, in place, keeping the weights as they are now."""
    for block in clip.transformer.resblocks:
        if isinstance(block.attn, UnpackedAttention):
            block.attn = block.attn.packed()
    return clip


def merge_lora(clip: CLIP, folder: Path) -> CLIP:
    """Merge the LoRA weights in ``folder`` into ``clip``, in place.

    Raises:
        ModelError: A file is missing, damaged or made for another model.
    """
    for name in (LORA_CONFIG, LORA_WEIGHTS):
        if not (folder / name).is_file():
            raise ModelError(f"adapter {folder}: {name} is missing")
    try:
        with (folder / LORA_CONFIG).open("rb") as file:
            settings = json.loads(file.read(_MOST_SETTINGS))  # a longer file is cut, and so no JSON
        if settings.get("peft_type") != "LORA":
            raise ValueError(f"peft_type {settings.get('peft_type')!r} is not LORA")
        config = LoraConfig(**_plain_settings(settings))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about names that no layer has, all of which it would print
            wrapped = get_peft_model(unpack_attention(clip), config)
        result: Any = set_peft_model_state_dict(wrapped, load_file(folder / LORA_WEIGHTS))
    except Exception as error:
        raise ModelError(
            f"adapter {folder}: damaged or made for another model ({str(error)[:300]})"
        ) from error
    lost = [key for key in result.missing_keys if "lora_" in key]
    if result.unexpected_keys or lost:
        raise ModelError(
            f"adapter {folder}: its weights do not fit its base "
            f"({len(result.unexpected_keys)} unknown, {len(lost)} missing)"
        )
    return pack_attention(wrapped.merge_and_unload())


def _plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that shape the low-rank matrices.

    Raises:
        ValueError: The layers are neither one of :data:`TARGETS` nor plain names. peft would read other
            names as regular expressions, and a stranger's expression may run for hours.
    """
    plain = {key: settings[key] for key in _SETTINGS if key in settings}
    for key in ("target_modules", "rank_pattern", "alpha_pattern"):
        names = plain.get(key) or []
        if not isinstance(names, str) and len(names) > _MOST_NAMES:
            raise ValueError(f"{key}: {len(names):,} names of layers, over {_MOST_NAMES:,}")
        if isinstance(names, str) and names in TARGETS.values():
            continue
        if isinstance(names, str) or not all(re.fullmatch(r"[\w.]{1,200}", str(name)) for name in names):
            raise ValueError(f"{key} {str(names)[:100]!r}: expected the plain names of layers")
    ranks = [plain.get("r", 1), *(plain.get("rank_pattern") or {}).values()]
    for rank in ranks:
        if not isinstance(rank, int) or not 1 <= rank <= LARGEST_RANK:
            raise ValueError(f"r {str(rank)[:100]}: expected a whole number from 1 to {LARGEST_RANK}")
    return plain
