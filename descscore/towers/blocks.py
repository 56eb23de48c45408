"""The parts of open_clip's transformer block, so that a tower can skip unnecessary work.

Norms, activations and projections are the block's own modules; only attention is called differently. It is
torch's own, or :class:`descscore.attention.UnpackedAttention` while LoRA tunes the text tower. A tower with
any other kind of block runs open_clip's own code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from descscore.attention import PROJECTIONS, UnpackedAttention, is_plain_attention
from descscore.clip import CLIP, ResidualAttentionBlock, TextTransformer, Transformer, text_tower
from descscore.errors import ModelError, UsageError

QUERIES_KEYS_VALUES, QUERIES, KEYS_VALUES = (0, 3), (0, 1), (1, 3)
"""Parts of a packed input projection, as ranges: number of the first part, and of the last part plus 1."""


def knows(transformer: Any) -> bool:
    """Whether this module can run all blocks of the transformer."""
    return type(transformer) is Transformer and all(map(_is_known, transformer.resblocks))


def _is_known(block: Any) -> bool:
    # Exact types, because a subclass (such as one with a parametrised weight) may compute anything.
    if type(block) is not ResidualAttentionBlock or hasattr(block, "ln_1_kv"):
        return False
    return type(block.attn) is UnpackedAttention or is_plain_attention(block.attn)


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


def own_text_tower(clip: Any) -> Any:
    """As :func:`text_tower`, for a tower that is open_clip's own transformer.

    Raises:
        ModelError: It is another one, whose blocks this package cannot take apart.
    """
    tower = text_tower(clip)
    if not isinstance(tower, (CLIP, TextTransformer)):
        kind = type(getattr(tower, "transformer", tower)).__name__
        raise ModelError(
            f"the text tower is a {kind}, which can score; but fine-tuning, adapters and explanations need "
            "open_clip's own text transformer"
        )
    return tower


def text_blocks(clip: Any) -> Any:
    """The residual blocks of the text tower, in order; raises as :func:`own_text_tower`."""
    return own_text_tower(clip).transformer.resblocks


def check_block(clip: nn.Module, block: int) -> None:
    """Raise :class:`UsageError` if the text tower has no block of that number (0-based)."""
    blocks = len(text_blocks(clip))
    if not 0 <= block < blocks:
        raise UsageError(f"block {block}: the text tower has blocks 0 to {blocks - 1}")
