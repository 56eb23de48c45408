"""The parts of open_clip's transformer block, so that a tower can skip unnecessary work.

Norms, activations and projections are the block's own modules; only attention is called
differently. It is torch's own, or :class:`UnpackedAttention` where the text tower is tuned by LoRA. A tower
with any other kind of block runs open_clip's own code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from descscore.clip import ResidualAttentionBlock, Transformer
from descscore.errors import UsageError

QUERIES_KEYS_VALUES, QUERIES, KEYS_VALUES = (0, 3), (0, 1), (1, 3)
"""Parts of a packed input projection, as ranges: number of the first part, and of the last part plus 1."""

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


def knows(transformer: Any) -> bool:
    """Whether this module can run all blocks of the transformer."""
    return type(transformer) is Transformer and all(map(_is_known, transformer.resblocks))


def _is_known(block: Any) -> bool:
    # Exact types, because a subclass (such as one with a parametrised weight) may compute anything.
    if type(block) is not ResidualAttentionBlock or hasattr(block, "ln_1_kv"):
        return False
    return type(block.attn) is UnpackedAttention or is_plain_attention(block.attn)


def is_plain_attention(attention: Any) -> bool:
    """Whether attention is torch's own, with one packed input projection and no other options."""
    return (
        type(attention) is nn.MultiheadAttention
        and attention.in_proj_weight is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
        and not attention.dropout
    )


def project(block: Any, states: Tensor, parts: tuple[int, int]) -> Tensor:
    """Queries, keys and values of states: ``(..., width)`` -> ``(..., parts, heads, width / heads)``.

    The states are normalised first. ``parts`` selects queries, keys and values. The result has the
    number format of the block's weights.
    """
    attention = block.attn
    normed = block.ln_1(states).to(attention.out_proj.weight.dtype)
    if type(attention) is UnpackedAttention:
        packed = torch.cat([getattr(attention, name)(normed) for name in PROJECTIONS[slice(*parts)]], dim=-1)
    else:
        width, weight, bias = states.shape[-1], attention.in_proj_weight, attention.in_proj_bias
        rows = slice(parts[0] * width, parts[1] * width)
        packed = F.linear(normed, weight[rows], None if bias is None else bias[rows])
    return packed.view(*states.shape[:-1], parts[1] - parts[0], attention.num_heads, -1)


def finish(block: Any, states: Tensor, mixed: Tensor) -> Tensor:
    """A block's output from its input ``states`` and its mixed values: ``(..., width)`` each."""
    projection = block.attn.out_proj
    states = states + block.ls_1(projection(mixed))
    normed = block.ln_2(states).to(projection.weight.dtype)
    output: Tensor = states + block.ls_2(block.mlp(normed))
    return output


def text_blocks(clip: Any) -> Any:
    """The residual blocks of the text tower, in order."""
    return clip.transformer.resblocks


def check_block(clip: nn.Module, block: int) -> None:
    """Raise :class:`UsageError` if the text tower has no block of that number (0-based)."""
    blocks = len(text_blocks(clip))
    if not 0 <= block < blocks:
        raise UsageError(f"block {block}: the text tower has blocks 0 to {blocks - 1}")
