"""Text features of a causal tower, each distinct beginning of the texts run once.

Equal to ``clip.encode_text`` to rounding. Three things are left out: padding, beginnings
that another text has too (:mod:`descscore.towers.prefixes`), and, in the last block,
all positions but the end-of-text token, of which the others only provide keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from open_clip import CLIP
from torch import Tensor
from torch.nn import functional as F

from descscore.interventions import run_from_block, run_to_block
from descscore.text_tower import encode_tokens, end_positions, project_end
from descscore.towers.blocks import KEYS_VALUES, PLAIN, QUERIES, QUERIES_KEYS_VALUES, Parts, knows
from descscore.towers.prefixes import Prefixes, find_prefixes


@dataclass(frozen=True)
class TextRun:
    """raw: ``(n, embed_dim)``, features before they are normalised. state: ``(n, width)``, at the
    end-of-text tokens after the block asked for, None where none was.
    """

    raw: Tensor
    state: Tensor | None = None


def run_texts(clip: CLIP, tokens: Tensor, device: torch.device, block: int | None = None) -> TextRun:
    """Run token rows ``(n, length)``, which are on the CPU, on the model's device.

    block: after which text block (0-based) to take the state. Not differentiable. A tower
    of a form that :func:`descscore.towers.blocks.knows` does not know runs as open_clip wrote it.
    """
    if not knows(clip.transformer):
        return _as_written(clip, tokens.to(device), block)
    prefixes = find_prefixes(tokens, end_positions(clip, tokens) + 1).to(device)
    states, state = embed_prefixes(clip, prefixes), None
    blocks: Any = clip.transformer.resblocks
    for number, each in enumerate(blocks[:-1]):
        states = run_block(each, states, prefixes)
        if number == block:
            state = states[prefixes.ends]
    ends = run_ends(blocks[-1], states, prefixes)
    if block == len(blocks) - 1:
        state = ends
    return TextRun(project_end(clip, ends)[prefixes.back], None if state is None else state[prefixes.back])


def _as_written(clip: CLIP, tokens: Tensor, block: int | None) -> TextRun:
    if block is None:
        return TextRun(encode_tokens(clip, tokens))
    half = run_to_block(clip, tokens, block)
    return TextRun(run_from_block(clip, half), half.state)


def embed_prefixes(clip: CLIP, prefixes: Prefixes) -> Tensor:
    """Token plus position embeddings of each prefix's last token: ``(m, width)``."""
    embedded: Tensor = clip.token_embedding(prefixes.tokens) + clip.positional_embedding[prefixes.positions]
    return embedded


def run_block(block: Any, states: Tensor, prefixes: Prefixes, parts: Parts = PLAIN) -> Tensor:
    """One block: ``(m, width)`` -> ``(m, width)``. Attention alone sees whole rows."""
    packed = parts.project(block, states, QUERIES_KEYS_VALUES)
    queries, keys, values = _spread(packed, prefixes)
    mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    rows = mixed.transpose(1, 2).reshape(prefixes.places.numel(), -1)  # (n * longest, width)
    return parts.finish(block, states, rows.index_select(0, prefixes.first))


def run_ends(block: Any, states: Tensor, prefixes: Prefixes, parts: Parts = PLAIN) -> Tensor:
    """The last block, for the ends of the rows alone: ``(m, width)`` -> ``(n, width)``."""
    ends = states[prefixes.ends]
    queries = parts.project(block, ends, QUERIES).transpose(1, 2)  # (n, heads, 1, head width)
    keys, values = _spread(parts.project(block, states, KEYS_VALUES), prefixes)
    columns = torch.arange(prefixes.places.shape[1], device=states.device)
    seen = (columns < prefixes.lengths[:, None])[:, None, None]  # (n, 1, 1, longest)
    mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen)
    return parts.finish(block, ends, mixed.flatten(1))


def _spread(packed: Tensor, prefixes: Prefixes) -> Tensor:
    """Of prefixes to places of rows: ``(m, parts, heads, d)`` -> ``(parts, n, heads, longest, d)``."""
    rows = packed.index_select(0, prefixes.places.flatten())
    return rows.view(*prefixes.places.shape, *packed.shape[1:]).permute(2, 0, 3, 1, 4)
