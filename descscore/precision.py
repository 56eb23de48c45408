"""Run a model in bfloat16 or float16: faster, a little less exact, and said in the signature."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Literal, TypeAlias, get_args

import torch

from descscore.errors import UsageError
from descscore.models import LoadedModel

Precision: TypeAlias = Literal["float32", "bf16", "fp16"]
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str) -> Precision:
    """``precision`` itself, or a :class:`UsageError` that lists the known ones."""
    if precision not in get_args(Precision):
        raise UsageError(f"precision {precision!r}: choose one of {', '.join(get_args(Precision))}")
    return precision  # type: ignore[return-value]


def with_precision(model: LoadedModel, precision: str) -> LoadedModel:
    """``model`` with its towers in ``precision``; a copy unless it is so already.

    What decides a score outside the towers stays in float32: normalising pixels and
    features, cosines, the purpose read-out and the logit scale.
    """
    if check_precision(precision) == model.precision:
        return model
    if model.precision != "float32":
        raise UsageError(f"model {model.name}: is in {model.precision} already; load it anew")
    clip, base = copy.deepcopy((model.clip, model.base))
    for tower, original in ((clip, model.clip), (base, model.base)):
        tower.to(dtype=DTYPES[precision])
        tower.logit_scale.data = original.logit_scale.data.clone()
    return replace(model, clip=clip, base=base, precision=precision)
