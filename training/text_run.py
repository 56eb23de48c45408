"""The text tower in training: only what reaches a feature is run, and all of it has gradients.

Equal to plain open_clip on the full context length to rounding, gradients too. Left out are padding,
beginnings that another text has too (:mod:`descscore.towers.prefixes`), and, in the last block, all
positions but the end-of-text token, of which the others only provide keys and values. After the site
of an interchange, an interchanged text adds its end-of-text token alone: the tower is causal, so all
before it stays what it is in the text as such.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from open_clip import CLIP
from open_clip.transformer import ResidualAttentionBlock, Transformer
from torch import Tensor, nn
from torch.nn import functional as F

from descscore.interventions import Exchange, Interchanged, Site, check_site, interchange, interchange_texts
from descscore.lora_attention import ExactAttention
from descscore.text_tower import encode_tokens, end_positions, project_end
from descscore.towers.prefixes import Prefixes, find_prefixes

_QUERIES, _KEYS_VALUES, _ALL = (0, 1), (1, 3), (0, 3)
"""Parts of a packed input projection, from and to."""


def encode(clip: CLIP, tokens: Tensor) -> Tensor:
    """Raw text features: token rows ``(n, length)`` on the model's device -> ``(n, embed_dim)``.

    Equal to ``clip.encode_text`` on the same rows padded to the full context length.
    """
    if not knows(clip.transformer):
        return encode_tokens(clip, tokens)
    prefixes = _prefixes(clip, tokens)
    blocks: Any = clip.transformer.resblocks
    states = _run(blocks[:-1], _embed(clip, prefixes), prefixes)
    return project_end(clip, _run_ends(blocks[-1], states, prefixes))[prefixes.back]


def encode_exchange(
    clip: CLIP, tokens: Tensor, exchange: Exchange, matrix: Tensor, site: Site
) -> Interchanged:
    """As :func:`descscore.interventions.interchange_texts`, for less work.

    Raises :class:`UsageError` for a site that the text tower lacks.
    """
    check_site(clip, site)
    blocks: Any = clip.transformer.resblocks
    if not knows(clip.transformer) or site.block == len(blocks) - 1:
        return interchange_texts(clip, tokens, exchange, matrix, site)
    prefixes = _prefixes(clip, tokens)
    states = _run(blocks[: site.block + 1], _embed(clip, prefixes), prefixes)
    state = states[prefixes.ends][prefixes.back]
    new = interchange(state[exchange.base], state[exchange.source], matrix, site.k)
    both = _with_other_ends(prefixes, prefixes.back[exchange.base])
    states = _run(blocks[site.block + 1 : -1], torch.cat([states, new]), both)
    features = project_end(clip, _run_ends(blocks[-1], states, both))
    return Interchanged(features[prefixes.back], features[len(tokens) :], state)


def knows(transformer: nn.Module) -> bool:
    """Whether all blocks have the form that this module runs: open_clip's plain one, with LoRA or without."""
    blocks: Any = transformer.resblocks
    return type(transformer) is Transformer and all(map(_is_known, blocks))


def _is_known(block: nn.Module) -> bool:
    if type(block) is not ResidualAttentionBlock or hasattr(block, "ln_1_kv"):
        return False
    attention: Any = block.attn
    if type(attention) is ExactAttention:
        attention = attention.get_base_layer()
    # An exact type: a subclass, a parametrised one too, may compute anything.
    return (
        type(attention) is nn.MultiheadAttention
        and attention.in_proj_weight is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
        and not attention.dropout
    )


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


def _embed(clip: CLIP, prefixes: Prefixes) -> Tensor:
    """Token plus position embeddings of each prefix's last token: ``(m, width)``."""
    embedded: Tensor = clip.token_embedding(prefixes.tokens) + clip.positional_embedding[prefixes.positions]
    return embedded


def _run(blocks: Any, states: Tensor, prefixes: Prefixes) -> Tensor:
    """Some blocks: ``(m, width)`` -> ``(m, width)``. Attention alone sees whole rows."""
    for block in blocks:
        queries, keys, values = _spread(_project(block, states, _ALL), prefixes)
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        rows = mixed.transpose(1, 2).reshape(prefixes.places.numel(), -1)  # (n * longest, width)
        states = _finish(block, states, rows.index_select(0, prefixes.first))
    return states


def _run_ends(block: Any, states: Tensor, prefixes: Prefixes) -> Tensor:
    """The last block, for the ends of the rows alone: ``(m, width)`` -> ``(n, width)``."""
    ends = states[prefixes.ends]
    queries = _project(block, ends, _QUERIES).transpose(1, 2)  # (n, heads, 1, head width)
    keys, values = _spread(_project(block, states, _KEYS_VALUES), prefixes)
    columns = torch.arange(prefixes.places.shape[1], device=states.device)
    seen = (columns < prefixes.lengths[:, None])[:, None, None]  # (n, 1, 1, longest)
    mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen)
    return _finish(block, ends, mixed.flatten(1))


def _spread(packed: Tensor, prefixes: Prefixes) -> Tensor:
    """Of prefixes to places of rows: ``(m, parts, heads, d)`` -> ``(parts, n, heads, longest, d)``."""
    rows = packed.index_select(0, prefixes.places.flatten())
    return rows.view(*prefixes.places.shape, *packed.shape[1:]).permute(2, 0, 3, 1, 4)


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
