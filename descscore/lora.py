"""Tune a text tower's low-rank updates (LoRA) through peft, and merge them from peft's files.

torch packs an attention's query, key and value into one matrix, which would give the three one shared
low-rank input matrix A. For tuning, :func:`unpack_attention` turns each attention of the text tower into
four linear layers. So query, key, value and output have a pair A, B each, as in the code of Zur et al.
(2024), and peft's own linear layer does the rest. :func:`pack_attention` turns them back.

Import this module only where LoRA is used: it imports peft, which takes over a second.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file

from descscore.attention import PROJECTIONS, UnpackedAttention, is_plain_attention
from descscore.clip import CLIP
from descscore.errors import ModelError

LORA_CONFIG = "adapter_config.json"
LORA_WEIGHTS = "adapter_model.safetensors"
_SETTINGS = ("r", "lora_alpha", "target_modules", "bias", "lora_dropout", "rank_pattern", "alpha_pattern")
"""The settings that are read, which shape the low-rank matrices. Others could name a model to fetch."""


_MOST_SETTINGS = 1 << 20

_MOST_NAMES = 1000
"""Most names of layers in one setting: peft compares each with every layer."""

LARGEST_RANK = 4096
"""Largest rank that an adapter may ask for: memory is set aside before its weights are compared with it."""

_ATTENTION = "|".join(f"attn\\.{name}" for name in PROJECTIONS)
TARGETS = {
    "attention": rf"transformer\.resblocks\.\d+\.({_ATTENTION})",
    "tower": rf"transformer\.resblocks\.\d+\.({_ATTENTION}|mlp\.c_fc|mlp\.c_proj)|token_embedding",
}
"""Names of the modules that get LoRA; peft matches whole names, so ``visual.transformer...`` stays out."""


def unpack_attention(clip: CLIP) -> CLIP:
    """Unpack each attention of the text tower, in place; the tower computes the same as before.

    Raises :class:`ModelError` for a tower whose attention is not torch's plain one.
    """
    for number, block in enumerate(clip.transformer.resblocks):
        attention: Any = block.attn
        if not is_plain_attention(attention) or not attention.batch_first:
            raise ModelError(f"text block {number}: LoRA needs torch's own plain attention")
        block.attn = UnpackedAttention(attention).train(attention.training)
    return clip


def pack_attention(clip: CLIP) -> CLIP:
    """Undo :func:`unpack_attention`, in place, keeping the weights as they are now."""
    for block in clip.transformer.resblocks:
        if isinstance(block.attn, UnpackedAttention):
            block.attn = block.attn.packed()
    return clip


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
        if settings.get("peft_type") != "LORA":
            raise ValueError(f"peft_type {settings.get('peft_type')!r} is not LORA")
        config = LoraConfig(**_plain_settings(settings))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about names that no layer has, all of which it would print
            wrapped = get_peft_model(unpack_attention(clip), config)
        result: Any = set_peft_model_state_dict(wrapped, load_file(folder / LORA_WEIGHTS))
    except Exception as error:
        raise ModelError(
            f"adapter {folder}: damaged or made for another model ({str(error)[:300]})"
        ) from error
    lost = [key for key in result.missing_keys if "lora_" in key]
    if result.unexpected_keys or lost:
        raise ModelError(
            f"adapter {folder}: its weights do not fit its base "
            f"({len(result.unexpected_keys)} unknown, {len(lost)} missing)"
        )
    return pack_attention(wrapped.merge_and_unload())


def _plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that shape the low-rank matrices.

    Raises:
        ValueError: The layers are neither one of :data:`TARGETS` nor plain names. peft would read other
            names as regular expressions, and a stranger's expression may run for hours.
    """
    plain = {key: settings[key] for key in _SETTINGS if key in settings}
    for key in ("target_modules", "rank_pattern", "alpha_pattern"):
        names = plain.get(key) or []
        if not isinstance(names, str) and len(names) > _MOST_NAMES:
            raise ValueError(f"{key}: {len(names):,} names of layers, over {_MOST_NAMES:,}")
        if isinstance(names, str) and names in TARGETS.values():
            continue
        if isinstance(names, str) or not all(re.fullmatch(r"[\w.]{1,200}", str(name)) for name in names):
            raise ValueError(f"{key} {str(names)[:100]!r}: expected the plain names of layers")
    ranks = [plain.get("r", 1), *(plain.get("rank_pattern") or {}).values()]
    for rank in ranks:
        if not isinstance(rank, int) or not 1 <= rank <= LARGEST_RANK:
            raise ValueError(f"r {str(rank)[:100]}: expected a whole number from 1 to {LARGEST_RANK}")
    return plain
