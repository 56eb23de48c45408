"""The parts of open_clip's transformer block, so that a tower can skip unnecessary work.

Norms, activations and projections are the block's own modules; only attention is called
differently. A tower with any other kind of block runs open_clip's own code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from descscore.clip import ResidualAttentionBlock, Transformer
from descscore.errors import UsageError

QUERIES_KEYS_VALUES, QUERIES, KEYS_VALUES = (0, 3), (0, 1), (1, 3)
"""Parts of a packed input projection, as ranges: number of the first part, and of the last part plus 1."""


def knows(transformer: Any) -> bool:
    """Whether this module can run all blocks of the transformer."""
    return type(transformer) is Transformer and all(map(_is_plain, transformer.resblocks))


def _is_plain(block: nn.Module) -> bool:
    # Exact types, because a subclass (an unmerged LoRA layer, a parametrised weight) may compute anything.
    return is_plain_but_for_attention(block) and is_plain_attention(block.attn)


def is_plain_but_for_attention(block: nn.Module) -> bool:
    """Whether a block is open_clip's plain one; its attention may be of any kind."""
    return type(block) is ResidualAttentionBlock and not hasattr(block, "ln_1_kv")


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
    attention, width = block.attn, states.shape[-1]
    rows = slice(parts[0] * width, parts[1] * width)
    weight, bias = attention.in_proj_weight[rows], attention.in_proj_bias
    packed = F.linear(block.ln_1(states).to(weight.dtype), weight, None if bias is None else bias[rows])
    return packed.view(*states.shape[:-1], parts[1] - parts[0], attention.num_heads, -1)


def finish(block: Any, states: Tensor, mixed: Tensor) -> Tensor:
    """A block's output from its input ``states`` and its mixed values: ``(..., width)`` each."""
    projection = block.attn.out_proj
    states = states + block.ls_1(F.linear(mixed, projection.weight, projection.bias))
    normed = block.ln_2(states).to(projection.weight.dtype)
    output: Tensor = states + block.ls_2(block.mlp(normed))
    return output


@dataclass(frozen=True)
class Parts:
    """The two functions that run a block before and after attention, such as :func:`project` and
    :func:`finish`."""

    project: Callable[[Any, Tensor, tuple[int, int]], Tensor]
    finish: Callable[[Any, Tensor, Tensor], Tensor]


PLAIN = Parts(project, finish)


def text_blocks(clip: Any) -> Any:
    """The residual blocks of the text tower, in order."""
    return clip.transformer.resblocks


def check_block(clip: nn.Module, block: int) -> None:
    """Raise :class:`UsageError` if the text tower has no block of that number (0-based)."""
    blocks = len(text_blocks(clip))
    if not 0 <= block < blocks:
        raise UsageError(f"block {block}: the text tower has blocks 0 to {blocks - 1}")
