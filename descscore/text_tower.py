"""Run the causal text tower of an open_clip ``CLIP`` only as far as its texts reach.

open_clip's own ``encode_text`` always runs the full context length. Its text
transformer is causal: the state at the end-of-text token depends on nothing
after it, so columns that hold only padding can be cut without changing a
result, and most alt texts are several times shorter than the context.
"""

from __future__ import annotations

import torch
from open_clip import CLIP
from torch import Tensor, nn

from descscore.errors import ModelError


def check_text_tower(model: CLIP, source: str) -> None:
    """Raise :class:`ModelError` unless ``model`` has the text tower this package needs.

    Needed are open_clip's ``CLIP`` class (text weights at the top level of the
    module), a causal mask, and pooling at the end-of-text token.
    """
    missing = [n for n in ("transformer", "token_embedding", "ln_final") if not hasattr(model, n)]
    if missing:
        raise ModelError(
            f"{source}: this model keeps its text tower elsewhere ({type(model).__name__}); "
            "descscore needs an open_clip 'CLIP' with a causal text transformer, such as ViT-B-32"
        )
    if model.attn_mask is None or model.text_pool_type not in ("argmax", "eos"):
        raise ModelError(
            f"{source}: the text tower must be causal and pooled at the end-of-text token "
            f"(mask: {model.attn_mask is not None}, pooling: {model.text_pool_type!r})"
        )


def end_positions(model: CLIP, tokens: Tensor) -> Tensor:
    """Position of each row's end-of-text token: ``(batch, length)`` ints -> ``(batch,)``.

    With ``argmax`` pooling the end-of-text token is the one with the highest
    number (OpenAI's convention); with ``eos`` pooling its id is in the model.
    """
    if model.text_pool_type == "eos":
        return (tokens == model.text_eos_id).int().argmax(dim=-1)
    return tokens.argmax(dim=-1)


def trim(model: CLIP, tokens: Tensor) -> Tensor:
    """Drop the columns in which every row holds only padding."""
    return tokens[:, : int(end_positions(model, tokens).max()) + 1]


def embed_tokens(model: CLIP, tokens: Tensor) -> Tensor:
    """Token plus position embeddings: ``(batch, length)`` -> ``(batch, length, width)``."""
    dtype = model.transformer.get_cast_dtype()
    positions = model.positional_embedding[: tokens.shape[1]]
    return model.token_embedding(tokens).to(dtype) + positions.to(dtype)


def encode_tokens(model: CLIP, tokens: Tensor) -> Tensor:
    """Raw (not normalised) text features: ``(batch, length)`` tokens -> ``(batch, embed_dim)``.

    Equal to ``model.encode_text`` on the same rows padded to the full context
    length. Differentiable; the caller decides about ``no_grad``.
    """
    tokens = trim(model, tokens)
    length = tokens.shape[1]
    state = embed_tokens(model, tokens)
    state = model.transformer(state, attn_mask=model.attn_mask[:length, :length])
    return pool_state(model, state, tokens)


def pool_state(model: CLIP, state: Tensor, tokens: Tensor) -> Tensor:
    """Final norm and projection of the end-of-text state.

    ``(batch, length, width)`` -> ``(batch, embed_dim)``. Normalising only the pooled rows gives
    the same numbers as open_clip, which normalises every position first.
    """
    rows = torch.arange(tokens.shape[0], device=tokens.device)
    return project_end(model, state[rows, end_positions(model, tokens)])


def project_end(model: CLIP, ends: Tensor) -> Tensor:
    """Final norm and projection of end-of-text states ``(batch, width)`` -> ``(batch, embed_dim)``."""
    pooled = model.ln_final(ends)
    projection = model.text_projection
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
