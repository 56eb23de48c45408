"""Run a model in bfloat16 or float16: faster, a little less exact, and said in the signature.

What takes the time is in reduced precision: the matrix products and convolutions. What
would lose most by it and takes little time stays in float32: the residual stream, norms,
embeddings, the last projections; and outside the towers normalising of pixels and
features, cosines, the purpose read-out and the logit scale.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal, TypeAlias, get_args

import torch
from open_clip import CLIP
from torch import Tensor, nn

from descscore.errors import UsageError
from descscore.models import LoadedModel
from descscore.towers.blocks import knows
from descscore.towers.image import is_plain

Precision: TypeAlias = Literal["float32", "bf16", "fp16"]
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str) -> Precision:
    """``precision`` itself, or a :class:`UsageError` that lists the known ones."""
    if precision not in get_args(Precision):
        raise UsageError(f"precision {precision!r}: choose one of {', '.join(get_args(Precision))}")
    return precision  # type: ignore[return-value]


def with_precision(model: LoadedModel, precision: str) -> LoadedModel:
    """``model`` with its towers in ``precision``; a copy unless it is so already.

    The copy is for :class:`descscore.encoder.Encoder` alone: its towers mix number formats,
    which their own modules cannot run.
    """
    if check_precision(precision) == model.precision:
        return model
    if model.precision != "float32":
        raise UsageError(f"model {model.name}: is in {model.precision} already; load it anew")
    clip, base = copy.deepcopy((model.clip, model.base))
    for each in {id(tower): tower for tower in (clip, base)}.values():
        _reduce_texts(each, DTYPES[precision])
        _reduce_images(each.visual, DTYPES[precision])
    return replace(model, clip=clip, base=base, precision=precision)


def _reduce_texts(clip: CLIP, dtype: torch.dtype) -> None:
    if knows(clip.transformer):
        _reduce_blocks(clip.transformer, dtype)
        return
    modules = (clip.token_embedding, clip.transformer, clip.ln_final, clip.text_projection)
    for part in modules:
        if isinstance(part, nn.Module):
            part.to(dtype)
    for weight in (clip.positional_embedding, clip.text_projection):
        if isinstance(weight, Tensor):
            weight.data = weight.data.to(dtype)
    clip.attn_mask = clip.attn_mask.to(dtype)


def _reduce_images(visual: Any, dtype: torch.dtype) -> None:
    if is_plain(visual):
        visual.conv1.to(dtype)
        _reduce_blocks(visual.transformer, dtype)
        return
    # torch normalises a batch in half precision by float32 statistics.
    _reduce((part for part in visual.modules() if not isinstance(part, nn.BatchNorm2d)), dtype)


def _reduce_blocks(transformer: Any, dtype: torch.dtype) -> None:
    for block in transformer.resblocks:
        block.attn.to(dtype)
        block.mlp.to(dtype)


def _reduce(modules: Iterable[nn.Module], dtype: torch.dtype) -> None:
    """The weights of ``modules`` themselves, without those of their parts."""
    for module in modules:
        for weight in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if weight.is_floating_point():
                weight.data = weight.data.to(dtype)
