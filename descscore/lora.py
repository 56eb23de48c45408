"""Merge the low-rank updates (LoRA) of a text tower from the files that peft writes; unpack it to be tuned.

An update of a layer is a pair of small matrices A ``(r, in)`` and B ``(out, r)``; the layer's weight grows by
``alpha / r * B @ A``. Training goes through peft (:mod:`descscore.training.lora`). peft takes seconds to
import, so scoring, which only adds the products once, does without it.

torch packs an attention's query, key and value into one matrix, which would give the three one shared A. So
:func:`unpack_attention` turns each attention into four linear layers for training. Query, key, value and
output then have a pair A, B each, as in the code of Zur et al. (2024).
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from descscore.attention import PROJECTIONS, UnpackedAttention, is_plain_attention
from descscore.clip import CLIP, text_tower
from descscore.errors import ModelError

LORA_CONFIG = "adapter_config.json"
LORA_WEIGHTS = "adapter_model.safetensors"

_MOST_SETTINGS = 1 << 20

_OTHER_UPDATES = (
    *("rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "use_qalora", "use_bdlora", "lora_bias"),
    *("fan_in_fan_out", "modules_to_save", "exclude_modules", "layers_to_transform", "layer_replication"),
    *("target_parameters", "trainable_token_indices", "alora_invocation_tokens", "arrow_config"),
)
"""peft's settings that make other updates than plain ones of all layers."""
_PLAIN_BEGINNINGS = (True, False, "gaussian", "eva", "orthogonal")
"""Beginnings of a training that leave the base's weights as they are. PiSSA, OLoRA and others change them."""

_ATTENTION = "|".join(f"attn\\.{name}" for name in PROJECTIONS)
TARGETS = {
    "attention": rf"transformer\.resblocks\.\d+\.({_ATTENTION})",
    "tower": rf"transformer\.resblocks\.\d+\.({_ATTENTION}|mlp\.c_fc|mlp\.c_proj)|token_embedding",
}
"""Names of the modules that get LoRA, inside the text tower."""

_INSIDE = r"text\."
"""Before these names, where the text tower is a part of its model."""

_PREFIX = "base_model.model."
"""peft's own, before the name of each layer."""


def targets(clip: Any, which: str) -> str:
    """The modules of ``clip`` that get LoRA, as peft takes them; ``which`` is a key of :data:`TARGETS`.

    peft matches whole names, so ``visual.transformer...`` stays out.
    """
    return TARGETS[which] if text_tower(clip) is clip else f"{_INSIDE}({TARGETS[which]})"


@torch.no_grad()
def merge_lora(clip: CLIP, folder: Path) -> CLIP:
    """Merge the LoRA weights in ``folder`` into ``clip``, in place.

    Raises:
        ModelError: A file is missing, damaged or made for another model.
    """
    for name in (LORA_CONFIG, LORA_WEIGHTS):
        if not (folder / name).is_file():
            raise ModelError(f"adapter {folder}: {name} is missing")
    try:
        with (folder / LORA_CONFIG).open("rb") as file:
            settings = json.loads(file.read(_MOST_SETTINGS))  # a longer file is cut, and so no JSON
        rank, alpha, layers = _read_settings(settings, clip)
        state = load_file(folder / LORA_WEIGHTS)
    except Exception as error:
        raise ModelError(
            f"adapter {folder}: damaged or made for another model ({str(error)[:300]})"
        ) from error
    expected = {name for layer in layers for name in _pair(layer)}
    unknown, missing = len(state.keys() - expected), len(expected - state.keys())
    if unknown or missing:
        raise ModelError(
            f"adapter {folder}: its weights do not fit its base ({unknown} unknown, {missing} missing)"
        )
    for layer in layers:
        a, b = (state[name] for name in _pair(layer))
        weight = _weight(clip, layer)
        weight = weight.T if layer.endswith("token_embedding") else weight
        shape = weight.shape
        if a.shape != (rank, shape[1]) or b.shape != (shape[0], rank):
            raise ModelError(
                f"adapter {folder}: made for another model ({layer}: {tuple(b.shape)} and {tuple(a.shape)} "
                f"do not fit {tuple(shape)} at rank {rank})"
            )
        weight += (b.float() @ a.float() * (alpha / rank)).to(weight)
    return clip


def _read_settings(settings: Any, clip: CLIP) -> tuple[int, float, list[str]]:
    """Rank, alpha, and the names of the layers that have updates.

    Raises:
        ValueError: A setting would change the updates in a way that this module does not know, or the layers
            are neither one of :data:`TARGETS` nor plain names: a stranger's regular expression may run for
            hours.
    """
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"peft_type {settings.get('peft_type')!r} is not LORA")
    for key in _OTHER_UPDATES:
        if settings.get(key):
            raise ValueError(f"{key} is set; expected one rank and alpha for plain updates of all layers")
    if settings.get("init_lora_weights", True) not in _PLAIN_BEGINNINGS:
        begun = str(settings["init_lora_weights"])[:100]
        raise ValueError(
            f"init_lora_weights {begun!r}: such updates belong to a base that is changed, too; let peft save "
            "them as plain ones (path_initial_model_for_weight_conversion)"
        )
    if settings.get("bias", "none") != "none":
        raise ValueError(f"bias {str(settings['bias'])[:100]!r}: only 'none' can be merged")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise ValueError(f"r {str(rank)[:100]}: expected a whole number of at least 1")
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise ValueError(f"lora_alpha {str(alpha)[:100]}: expected a number")
    return rank, float(alpha), _layers(settings.get("target_modules"), clip)


def _layers(chosen: Any, clip: CLIP) -> list[str]:
    known = _known_layers(clip)
    if isinstance(chosen, str) and chosen in [targets(clip, which) for which in TARGETS]:
        return [layer for layer in known if re.fullmatch(chosen, layer)]
    named = chosen if isinstance(chosen, list) and all(isinstance(name, str) for name in chosen) else []
    found = [layer for layer in known if any(f".{layer}".endswith(f".{name}") for name in named)]
    wrong = [name for name in named if not any(f".{layer}".endswith(f".{name}") for layer in known)]
    if not found or wrong:
        what = str(wrong[0] if wrong else chosen)[:100]
        raise ValueError(f"target_modules {what!r}: expected names of the text tower's layers")
    return found


def _known_layers(clip: CLIP) -> list[str]:
    layers = [*(f"attn.{name}" for name in PROJECTIONS), "mlp.c_fc", "mlp.c_proj"]
    inside = "" if text_tower(clip) is clip else "text."
    blocks = range(len(text_tower(clip).transformer.resblocks))
    names = [f"transformer.resblocks.{i}.{layer}" for i in blocks for layer in layers] + ["token_embedding"]
    return [inside + name for name in names]


def _pair(layer: str) -> tuple[str, str]:
    """Names of a layer's A and B in peft's file; an embedding's A has a column for each word."""
    if layer.endswith("token_embedding"):
        return f"{_PREFIX}{layer}.lora_embedding_A", f"{_PREFIX}{layer}.lora_embedding_B"
    return f"{_PREFIX}{layer}.lora_A.weight", f"{_PREFIX}{layer}.lora_B.weight"


def _weight(clip: CLIP, layer: str) -> Tensor:
    """A layer's weight, as a view: of torch's packed attention, the part that is the layer's.

    Raises:
        ModelError: The attention is not torch's own.
    """
    if ".attn." not in layer:
        weight: Tensor = clip.get_submodule(layer).weight
        return weight.data
    block, _, name = layer.partition(".attn.")
    attention: Any = clip.get_submodule(f"{block}.attn")
    if not is_plain_attention(attention):
        raise ModelError(f"{block}: LoRA needs torch's own plain attention")
    if name == "out_proj":
        return attention.out_proj.weight.data
    return attention.in_proj_weight.data.chunk(3)[PROJECTIONS.index(name)]


def unpack_attention(clip: CLIP) -> CLIP:
    """Unpack each attention of the text tower, in place; the tower computes the same as before.

    Raises :class:`ModelError` for a tower whose attention is not torch's plain one.
    """
    for number, block in enumerate(text_tower(clip).transformer.resblocks):
        attention: Any = block.attn
        if not is_plain_attention(attention) or not attention.batch_first:
            raise ModelError(f"text block {number}: LoRA needs torch's own plain attention")
        block.attn = UnpackedAttention(attention).train(attention.training)
    return clip
