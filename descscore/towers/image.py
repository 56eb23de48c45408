"""Run the image tower of an open_clip model with less work.

The features equal those of ``clip.encode_image`` up to rounding. The last block of a vision
transformer computes only the class token; the other positions supply keys and values. This saves
nearly one block of work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from descscore.clip import CLIP, VisionTransformer
from descscore.errors import ModelError
from descscore.towers.blocks import KEYS_VALUES, QUERIES, QUERIES_KEYS_VALUES, finish, knows, project


def encode_images(clip: CLIP, pixels: Tensor) -> Tensor:
    """Raw features of normalised pixels: ``(n, 3, height, width)`` -> ``(n, embed_dim)``.

    Another kind of image tower (a convolutional one, or one that pools by attention) runs
    open_clip's own code.
    """
    visual: Any = clip.visual
    if not is_plain(visual):
        features: Tensor = clip.encode_image(pixels)
        return features
    states = _embed(visual, pixels)
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        states = _run(block, states)
    pooled = visual.ln_post(_run_class_token(last, states))
    return pooled if visual.proj is None else pooled @ visual.proj


def is_plain(visual: nn.Module) -> bool:
    """Whether ``visual`` is open_clip's vision transformer with a class token, which this module can run."""
    return (
        type(visual) is VisionTransformer
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and not visual.output_tokens
        and knows(visual.transformer)
    )


def _embed(visual: Any, pixels: Tensor) -> Tensor:
    """Embed class token and patches: ``(n, 3, height, width)`` -> ``(n, positions, width)``."""
    positions = visual.positional_embedding
    patches = _patches(visual.conv1, pixels).to(positions.dtype)
    states = torch.cat([visual.class_embedding.expand(len(patches), 1, -1), patches], dim=1) + positions
    embedded: Tensor = visual.ln_pre(visual.patch_dropout(states))
    return embedded


def _patches(conv: Any, pixels: Tensor) -> Tensor:
    """Embedded patches: ``(n, 3, height, width)`` -> ``(n, patches, width)``.

    Patches without overlaps and gaps need one matrix product, which on a GPU is many times faster
    than a convolution over three colours.
    """
    if not _tiles(conv, pixels):
        embedded: Tensor = conv(pixels).flatten(2).transpose(1, 2)
        return embedded
    high, wide = conv.kernel_size
    rows, columns = pixels.shape[2] // high, pixels.shape[3] // wide
    # Colours last within a patch, as in memory: each row of a patch is then contiguous.
    patches = pixels.permute(0, 2, 3, 1).reshape(-1, rows, high, columns, wide * pixels.shape[1])
    flat = patches.transpose(2, 3).flatten(3).flatten(1, 2)
    return F.linear(flat, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias)


def _tiles(conv: Any, pixels: Tensor) -> bool:
    """Whether the patches cover the image without overlaps and gaps."""
    return (
        type(conv) is nn.Conv2d
        and (conv.stride, conv.padding, conv.dilation, conv.groups) == (conv.kernel_size, (0, 0), (1, 1), 1)
        and not any(size % patch for size, patch in zip(pixels.shape[2:], conv.kernel_size, strict=True))
    )


def _run(block: Any, states: Tensor) -> Tensor:
    """One block: ``(n, positions, width)`` -> the same."""
    queries, keys, values = project(block, states, QUERIES_KEYS_VALUES).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(queries, keys, values)
    return finish(block, states, mixed.transpose(1, 2).flatten(2))


def _run_class_token(block: Any, states: Tensor) -> Tensor:
    """The last block, only for the class token: ``(n, positions, width)`` -> ``(n, width)``."""
    token = states[:, 0]
    queries = project(block, token, QUERIES).transpose(1, 2)  # (n, heads, 1, head width)
    keys, values = project(block, states, KEYS_VALUES).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(queries, keys, values)
    return finish(block, token, mixed.flatten(1))


def compiled(tower: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
    """``tower``, from ``(n, ...)`` to ``(n, ...)``, compiled by torch for inputs of any length.

    example: Input of at least two rows. It runs once, so that errors are raised now.

    Raises:
        ModelError: torch cannot compile ``tower``, usually because there is no C++ compiler.
    """
    run: Callable[[Tensor], Tensor] = torch.compile(tower)
    # Without this mark, torch would compile again for a second length.
    torch._dynamo.mark_dynamic(example, 0)
    try:
        run(example)
    except Exception as error:  # torch raises many kinds if the compiler is missing or fails
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"the image tower cannot be compiled ({reason}); torch.compile needs a C++ compiler "
            "such as g++, or run without --compile"
        ) from error

    def run_rows(rows: Tensor) -> Tensor:
        # For a single row, torch would compile a second program.
        return run(rows) if len(rows) > 1 else run(torch.cat([rows, rows]))[:1]

    return run_rows
