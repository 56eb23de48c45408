"""Self-attention as torch packs it, and unpacked into four linear layers, which LoRA can tune one by one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
"""Names of an unpacked attention's linear layers; the first three are packed in this order."""


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
        if mask is not None and mask.ndim == 3:  # of each row and head
            mask = mask.view(batch, self.num_heads, length, length)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, length, width)), None


@torch.no_grad()
def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, bias=bias is not None, device="meta", dtype=weight.dtype)
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    return layer


def is_plain_attention(attention: Any) -> bool:
    """Whether attention is torch's own, with one packed input projection and no other options."""
    return (
        type(attention) is nn.MultiheadAttention
        and attention.in_proj_weight is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
        and not attention.dropout
    )
