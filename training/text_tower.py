"""The text tower in training: only what reaches a feature is run, with gradients and with LoRA.

Equal to plain open_clip on the full context length to rounding, gradients too. It skips padding, the
beginnings that another text has too (:mod:`descscore.towers.text`), and, in the last block, all positions
but the end-of-text token, for which the other tokens only supply keys and values. After the site
of an interchange, an interchanged text adds its end-of-text token alone: the tower is causal, so all
tokens before it keep the states that they have in the text as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from descscore.clip import CLIP, Transformer
from descscore.interchange import Exchange, Interchanged, interchange, interchange_texts
from descscore.lora import ExactAttention
from descscore.purpose import Site, check_site
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
    """As :func:`descscore.interchange.interchange_texts`, for less work.

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
    """All rows, and the rows ``rows`` ``(s,)`` once more, each with an end of its own.

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
    """A block's output from its input and from attention's mix, heads side by side: ``(m, width)`` each."""
    attention = block.attn
    if type(attention) is ExactAttention:
        moved = attention.project_out(mixed)
    else:
        moved = F.linear(mixed, attention.out_proj.weight, attention.out_proj.bias)
    states = states + block.ls_1(moved)
    finished: Tensor = states + block.ls_2(block.mlp(block.ln_2(states)))
    return finished


_PARTS = Parts(_project, _finish)
"""A block's two ends, with LoRA where there is any."""
