"""Run the text tower of an open_clip model with less work, or up to one block.

open_clip's ``encode_text`` always runs the full context length, but most alt texts are several
times shorter. In most models the transformer is causal: a state depends only on the tokens up to its
position. So :func:`run_texts`, which scoring uses, can skip three things. Its results equal those of
``encode_text`` up to rounding. It skips:

* padding;
* repeated prefixes: each distinct prefix runs once (all texts share the start token, and many
  captions begin with "A man in");
* in the last block, all positions except the end-of-text token; the others supply keys and values.

All other towers (:func:`can_shorten`) run as open_clip wrote them, on rows of the full context length:
those without a causal mask (SigLIP), with a class token (CoCa), or from another library.

Training and explanations run the tower in two halves, with gradients (:class:`HalfRun`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from descscore.clip import CLIP, TextTransformer, text_tower
from descscore.errors import ModelError
from descscore.towers.blocks import (
    KEYS_VALUES,
    QUERIES,
    QUERIES_KEYS_VALUES,
    check_block,
    finish,
    knows,
    own_text_tower,
    project,
    text_blocks,
)


def can_shorten(clip: Any) -> bool:
    """Whether a text's feature depends on nothing behind its end-of-text token.

    So it is with a causal mask, if the feature is read at that token.
    """
    tower = text_tower(clip)
    return (
        isinstance(tower, (CLIP, TextTransformer))
        and tower.attn_mask is not None
        and _pool_type(clip) in ("argmax", "eos")
        and getattr(tower, "cls_emb", None) is None
    )


def runs_short(clip: Any) -> bool:
    """Whether :func:`run_texts` can skip anything in the text tower."""
    return can_shorten(clip) and knows(text_tower(clip).transformer)


def _pool_type(clip: Any) -> str:
    """Where the feature is read: ``class`` at a class token that the tower adds, or as open_clip says."""
    tower = text_tower(clip)
    if getattr(tower, "cls_emb", None) is not None:
        return "class"
    pool_type: str = tower.text_pool_type if tower is clip else tower.pool_type
    return pool_type


@dataclass(frozen=True)
class TextRun:
    """The results of texts that ran through the whole tower."""

    raw: Tensor
    """Features before they are normalised: ``(n, embed_dim)``."""
    state: Tensor | None = None
    """States at the end-of-text tokens after the chosen block: ``(n, width)``; None without a block."""


def run_texts(clip: CLIP, tokens: Tensor, device: torch.device, block: int | None = None) -> TextRun:
    """Run texts through the whole tower; not differentiable.

    A tower that cannot be shortened, or that :func:`descscore.towers.blocks.knows` does not know, runs
    open_clip's own code.

    Args:
        clip: The model.
        tokens: ``(n, length)`` on the CPU.
        device: The model's device.
        block: Text block (0-based) after which to take the state; None for no state.
    """
    if not runs_short(clip):
        return _as_written(clip, tokens.to(device), block)
    prefixes = find_prefixes(tokens, end_positions(clip, tokens) + 1).to(device)
    states, state = embed_prefixes(clip, prefixes), None
    blocks = text_blocks(clip)
    for number, residual_block in enumerate(blocks[:-1]):
        states = run_block(residual_block, states, prefixes)
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
    tower = text_tower(clip)
    embedded: Tensor = tower.token_embedding(prefixes.tokens) + tower.positional_embedding[prefixes.positions]
    return embedded


def run_block(block: Any, states: Tensor, prefixes: Prefixes) -> Tensor:
    """One block: ``(m, width)`` -> ``(m, width)``. Only attention needs whole rows."""
    packed = project(block, states, QUERIES_KEYS_VALUES)
    queries, keys, values = _spread(packed, prefixes)
    mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    rows = mixed.transpose(1, 2).reshape(prefixes.places.numel(), -1)  # (n * longest, width)
    return finish(block, states, rows.index_select(0, prefixes.first))


def run_ends(block: Any, states: Tensor, prefixes: Prefixes) -> Tensor:
    """The last block, only for the ends of the rows: ``(m, width)`` -> ``(n, width)``."""
    ends = states[prefixes.ends]
    queries = project(block, ends, QUERIES).transpose(1, 2)  # (n, heads, 1, head width)
    keys, values = _spread(project(block, states, KEYS_VALUES), prefixes)
    columns = torch.arange(prefixes.places.shape[1], device=states.device)
    seen = (columns < prefixes.lengths[:, None])[:, None, None]  # (n, 1, 1, longest)
    mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen)
    return finish(block, ends, mixed.flatten(1))


def _spread(packed: Tensor, prefixes: Prefixes) -> Tensor:
    """From prefixes to places in rows: ``(m, parts, heads, d)`` -> ``(parts, n, heads, longest, d)``."""
    rows = packed.index_select(0, prefixes.places.flatten())
    return rows.view(*prefixes.places.shape, *packed.shape[1:]).permute(2, 0, 3, 1, 4)


@dataclass(frozen=True)
class Prefixes:
    """The m distinct prefixes of n token rows, which are sorted; all tensors are int64."""

    tokens: Tensor
    """Each prefix's last token: ``(m,)``."""
    positions: Tensor
    """The position of that token: ``(m,)``."""
    places: Tensor
    """The number of the prefix that ends at each place of each row: ``(n, longest)``. After a row's end, the
    numbers mean nothing."""
    first: Tensor
    """Index of each prefix's first occurrence in ``places.flatten()``: ``(m,)``."""
    ends: Tensor
    """The number of the prefix that is the whole row, for each row: ``(n,)``."""
    lengths: Tensor
    """Number of tokens of each row: ``(n,)``."""
    back: Tensor
    """The position of each input row among the sorted rows: ``(n,)``."""

    def to(self, device: torch.device) -> Prefixes:
        """A copy on another device."""
        return Prefixes(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def find_prefixes(tokens: Tensor, lengths: Tensor) -> Prefixes:
    """The distinct prefixes of token rows ``(n, columns)`` of these lengths ``(n,)``, on the CPU.

    After sorting, rows with a common prefix are neighbours. So a prefix is new if its row differs in it
    from the row before.
    """
    longest = int(lengths.max())
    inside = np.arange(longest) < lengths.numpy()[:, None]
    rows = np.where(inside, tokens.numpy()[:, :longest], -1)
    order = np.lexsort(rows.T[::-1])
    rows, inside = rows[order], inside[order]
    differs = np.ones_like(inside)
    differs[1:] = np.logical_or.accumulate(rows[1:] != rows[:-1], axis=1)
    new = differs & inside
    numbers = np.where(new, np.cumsum(new).reshape(new.shape) - 1, 0)
    # Numbers grow from row to row. So a repeated prefix has the largest number so far in its column.
    places = np.maximum.accumulate(numbers, axis=0)
    return _as_tensors(rows, places, np.flatnonzero(new), order, inside.sum(axis=1))


def _as_tensors(rows: Any, places: Any, first: Any, order: Any, lengths: Any) -> Prefixes:
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    ends = places[np.arange(len(places)), lengths - 1]
    arrays = (rows.reshape(-1)[first], first % rows.shape[1], places, first, ends, lengths, back)
    return Prefixes(*(torch.from_numpy(np.ascontiguousarray(array, np.int64)) for array in arrays))


def end_positions(model: CLIP, tokens: Tensor) -> Tensor:
    """The position at which each row's feature is read: ``(batch, length)`` ints -> ``(batch,)``.

    This is the end-of-text token in most models. With ``argmax`` pooling, it has the highest token id
    (OpenAI's convention). With ``eos`` pooling, the model stores its id. Other models read the first or the
    last position, or a class token behind the row.
    """
    kind, tower = _pool_type(model), text_tower(model)
    if kind == "argmax":
        return tokens.argmax(dim=-1)
    if kind == "eos":
        return (tokens == (tower.text_eos_id if tower is model else tower.eos_id)).int().argmax(dim=-1)
    places = {"first": 0, "last": tokens.shape[1] - 1, "class": tokens.shape[1]}
    return torch.full((len(tokens),), places[kind], device=tokens.device)


def trim(model: CLIP, tokens: Tensor) -> Tensor:
    """Drop the columns in which all rows have only padding, unless the tower reads it."""
    if not can_shorten(model):
        return tokens
    return tokens[:, : int(end_positions(model, tokens).max()) + 1]


def embed_tokens(model: CLIP, tokens: Tensor) -> Tensor:
    """Token plus position embeddings: ``(batch, length)`` -> ``(batch, length, width)``.

    A tower with a class token adds its embedding behind the row.
    """
    tower = own_text_tower(model)
    if getattr(tower, "cls_emb", None) is not None:
        embedded: Tensor = tower._embeds(tokens)[0]
        return embedded
    dtype = tower.transformer.get_cast_dtype()
    positions = tower.positional_embedding[: tokens.shape[1]]
    return tower.token_embedding(tokens).to(dtype) + positions.to(dtype)


def _attention_mask(model: CLIP, tokens: Tensor) -> Tensor | None:
    """What the blocks take as mask for these token rows ``(n, length)``."""
    tower = own_text_tower(model)
    if getattr(tower, "cls_emb", None) is not None:
        by_row: Tensor | None = tower._embeds(tokens)[1]
        return by_row
    length = tokens.shape[1]
    return None if tower.attn_mask is None else tower.attn_mask[:length, :length]


def encode_tokens(model: CLIP, tokens: Tensor) -> Tensor:
    """Raw (not normalised) text features: ``(batch, length)`` tokens -> ``(batch, embed_dim)``.

    Equal to ``model.encode_text`` on the same rows padded to the full context
    length. Differentiable; the caller decides about ``no_grad``.
    """
    if not can_shorten(model):
        features: Tensor = model.encode_text(tokens, normalize=False)
        return features
    tokens = trim(model, tokens)
    state = embed_tokens(model, tokens)
    state = text_tower(model).transformer(state, attn_mask=_attention_mask(model, tokens))
    return pool_state(model, state, tokens)


def pool_state(model: CLIP, state: Tensor, tokens: Tensor) -> Tensor:
    """Final norm and projection of the end-of-text state.

    ``(batch, length, width)`` -> ``(batch, embed_dim)``. The numbers equal those of open_clip, which
    normalises all positions before pooling.
    """
    rows = torch.arange(tokens.shape[0], device=tokens.device)
    return project_end(model, state[rows, end_positions(model, tokens)])


def project_end(model: CLIP, ends: Tensor) -> Tensor:
    """Final norm and projection of end-of-text states ``(batch, width)`` -> ``(batch, embed_dim)``."""
    tower = own_text_tower(model)
    pooled: Tensor = tower.ln_final(ends)
    projection = tower.text_projection
    if projection is None:
        return pooled
    features: Tensor = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
    return features


@dataclass(frozen=True)
class HalfRun:
    """The states of texts that ran through the text tower up to one block."""

    tokens: Tensor
    """``(n, length)``, cut to the longest text where the tower can be shortened."""
    end: Tensor
    """Positions at which the features are read (:func:`end_positions`): ``(n,)``."""
    hidden: Tensor
    """Residual stream after ``block``: ``(n, length, width)``, with a class token one more."""
    block: int
    """The last block that ran (0-based); -1 before the first."""

    @property
    def state(self) -> Tensor:
        """The state at each end-of-text token: ``(n, width)``."""
        rows = torch.arange(self.tokens.shape[0], device=self.tokens.device)
        return self.hidden[rows, self.end]

    def replaced(self, rows: Tensor, state: Tensor) -> HalfRun:
        """The texts ``rows``, ``(m,)``, with ``state``, ``(m, width)``, at their end-of-text tokens."""
        end = self.end[rows]
        positions = (torch.arange(len(rows), device=rows.device), end)
        hidden = self.hidden[rows].index_put(positions, state.to(self.hidden.dtype))
        return HalfRun(self.tokens[rows], end, hidden, self.block)

    def joined(self, other: HalfRun) -> HalfRun:
        """The texts of both runs, which must have the same length and block, in one batch."""
        return HalfRun(
            torch.cat([self.tokens, other.tokens]),
            torch.cat([self.end, other.end]),
            torch.cat([self.hidden, other.hidden]),
            self.block,
        )


def run_to_block(clip: nn.Module, tokens: Tensor, block: int) -> HalfRun:
    """Run token rows ``(n, length)`` through embeddings and blocks 0 to ``block``, both included.

    Raises :class:`UsageError` for a block that the text tower lacks.
    """
    check_block(clip, block)
    return carry_on(clip, begin(clip, trim(clip, tokens)), block)


def begin(clip: Any, tokens: Tensor) -> HalfRun:
    """A run before its first block: embeddings of token rows ``(n, length)``, padding included."""
    return HalfRun(tokens, end_positions(clip, tokens), embed_tokens(clip, tokens), -1)


def carry_on(clip: nn.Module, run: HalfRun, block: int) -> HalfRun:
    """Continue ``run`` through the blocks after ``run.block``, up to and including ``block``."""
    return replace(run, hidden=_run_blocks(clip, run, block + 1), block=block)


def run_from_block(clip: nn.Module, run: HalfRun) -> Tensor:
    """Finish a run: the blocks after ``run.block``, final norm and projection -> ``(n, embed_dim)``.

    If no state was changed after :func:`run_to_block`, the result equals ``clip.encode_text``.
    """
    hidden = _run_blocks(clip, run, len(text_blocks(clip)))
    return pool_state(clip, hidden, run.tokens)


def _run_blocks(clip: Any, run: HalfRun, last: int) -> Tensor:
    """The residual stream after the blocks behind ``run.block``, up to but not including ``last``."""
    hidden, mask = run.hidden, _attention_mask(clip, run.tokens)
    for block in text_blocks(clip)[run.block + 1 : last]:
        hidden = block(hidden, attn_mask=mask)
    return hidden


def join_tokens(parts: Sequence[Tensor]) -> Tensor:
    """Join token rows in one batch, padded with 0: ``(n, length)`` each -> ``(sum, longest)``."""
    longest = max(part.shape[1] for part in parts)
    return torch.cat([nn.functional.pad(part, (0, longest - part.shape[1])) for part in parts])


def check_text_tower(model: Any, source: str) -> None:
    """Raise :class:`ModelError` unless ``model`` gives a feature for an image, and one for a text."""
    missing = [name for name in ("visual", "encode_image", "encode_text") if not hasattr(model, name)]
    if missing:
        raise ModelError(
            f"{source}: {type(model).__name__} has no {missing[0]}; descscore needs an image and a text tower"
        )
    if isinstance(text_tower(model), (CLIP, TextTransformer)) and _pool_type(model) == "none":
        raise ModelError(f"{source}: the text tower gives a feature for each token, not one for the text")
