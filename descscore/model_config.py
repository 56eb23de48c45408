"""Check the configuration in a model's folder before open_clip reads it.

A model's folder may come from a stranger. open_clip passes some settings to other libraries. These may then
run code from the folder (``tokenizer_kwargs`` with ``trust_remote_code``) or fetch files (``hf_model_name``,
``timm_model_name`` with ``hf-hub:``). So this module refuses all keys that are not listed here, and values of
a wrong type.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import torch

from descscore.clip import CLIP, CustomTextCLIP, NoRandomWeights, get_model_config, list_models, timm_factory
from descscore.errors import ModelError
from descscore.files import read_json
from descscore.hub import TOKENIZER_FILE

LARGEST = 1 << 20
"""The largest whole number that a configuration may hold, such as a number of tokens."""
_WIDEST, _DEEPEST, _LONGEST = 16_384, 256, 4096
"""Largest width and number of layers of a tower, and the longest text or edge of an image that it takes."""

_SMALLEST_TOWER = {"layers": 1, "width": 64, "image_size": 16, "patch_size": 16}

Check: TypeAlias = Callable[[object], bool]


def is_flag(value: object) -> bool:
    return isinstance(value, bool)


def is_object(value: object) -> bool:
    return isinstance(value, dict)


def count(most: int = LARGEST) -> Check:
    """A whole number from 0 to ``most``."""
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def number(least: float = -LARGEST, most: float = LARGEST) -> Check:
    return lambda value: (
        isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most
    )


is_number = number()


def is_word(value: object) -> bool:
    """Letters, digits, dots, dashes and underscores: no path, no address, no ``hf-hub:``."""
    return isinstance(value, str) and re.fullmatch(r"[\w.-]{0,100}", value) is not None


def optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def listed(check: Check) -> Check:
    """One value, or a list of up to four."""
    return lambda value: (
        check(value)
        or (isinstance(value, list) and 0 < len(value) <= 4 and all(check(part) for part in value))
    )


def three(check: Check) -> Check:
    """A list of one value for each colour."""
    return lambda value: isinstance(value, list) and len(value) == 3 and all(map(check, value))


def is_plain_mapping(value: object) -> bool:
    """Settings of a layer: words with numbers, flags or words."""
    return isinstance(value, dict) and all(
        is_word(key) and (is_flag(part) or is_number(part) or is_word(part)) for key, part in value.items()
    )


def is_tokenizer_setting(value: object) -> bool:
    """Settings of open_clip's tokenizers that only choose how texts are cleaned, and one of CLIPA's."""
    ways = ("lower", "whitespace", "canonicalize")
    return isinstance(value, dict) and all(
        (key == "clean" and part in ways) or (key == "strip_sep_token" and is_flag(part))
        for key, part in value.items()
    )


@lru_cache
def known_repositories(key: str) -> frozenset[str]:
    """The names on the hub that open_clip's own models give for a key of ``text_cfg``."""
    return frozenset((get_model_config(name) or {})["text_cfg"].get(key) for name in list_models()) - {None}


def is_known_tower(value: object) -> bool:
    """A text tower of another library that one of open_clip's own models has."""
    return isinstance(value, str) and value in known_repositories("hf_model_name")


def is_repository(value: object) -> bool:
    """A name on the hub. What it leads to is decided in :mod:`descscore.models`."""
    return isinstance(value, str) and re.fullmatch(r"\w[\w.-]{0,95}(/[\w.-]{1,96})?", value) is not None


_TRANSFORMER: dict[str, Check] = {
    "width": count(_WIDEST),
    "layers": listed(count(_DEEPEST)),
    "mlp_ratio": number(0, 16),
    "ls_init_value": optional(is_number),
    "pool_type": is_word,
    "output_tokens": is_flag,
    "act_kwargs": optional(is_plain_mapping),
    "norm_kwargs": optional(is_plain_mapping),
    "block_type": optional(is_word),
    **dict.fromkeys(
        ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"),
        is_flag,
    ),
    "final_ln_after_pool": is_flag,
}

VISION: dict[str, Check] = {
    **_TRANSFORMER,
    "head_width": count(_WIDEST),
    "patch_size": listed(count(_LONGEST)),
    "image_size": listed(count(_LONGEST)),
    "patch_dropout": is_number,
    "attentional_pool": lambda value: is_flag(value) or is_word(value),
    "attn_pooler_queries": count(_LONGEST),
    "attn_pooler_heads": count(_LONGEST),
    "no_ln_pre": is_flag,
    "pos_embed_type": is_word,
    "timm_model_name": optional(is_word),
    "timm_model_pretrained": lambda value: value is False,
    "timm_pool": is_word,
    "timm_proj": optional(is_word),
    "timm_proj_bias": is_flag,
    "timm_drop": is_number,
    "timm_drop_path": optional(is_number),
}

TEXT: dict[str, Check] = {
    **_TRANSFORMER,
    "context_length": count(_LONGEST),
    "vocab_size": count(),
    "heads": count(_WIDEST),
    "embed_cls": is_flag,
    "pad_id": count(),
    "eos_id": count(),
    "no_causal_mask": is_flag,
    "proj_bias": is_flag,
    "proj_type": optional(is_word),
    "tokenizer_kwargs": optional(is_tokenizer_setting),
    "hf_tokenizer_name": is_repository,
    "hf_model_name": is_known_tower,
    "hf_model_pretrained": is_flag,  # open_clip sets it to False if it has all weights
    "hf_proj_type": optional(is_word),
    "hf_pooler_type": optional(is_word),
}

DECODER: dict[str, Check] = {
    **TEXT,
    **dict.fromkeys(("dim_head", "n_queries", "attn_pooler_heads"), count(_WIDEST)),
}

MODEL: dict[str, Check] = {
    "embed_dim": count(_WIDEST),
    "quick_gelu": is_flag,
    "custom_text": is_flag,
    "init_logit_scale": is_number,
    "init_logit_bias": optional(is_number),
    "nonscalar_logit_scale": is_flag,
    "cast_dtype": optional(is_word),
    "output_dict": is_flag,
    **dict.fromkeys(("vision_cfg", "text_cfg", "multimodal_cfg"), is_object),
}

PREPROCESSING: dict[str, Check] = {
    "size": listed(count(_LONGEST)),
    "mode": is_word,
    "mean": three(is_number),
    "std": three(number(1e-3)),  # pixels from 0 to 1 are divided by it
    "interpolation": is_word,
    "resize_mode": is_word,
    "fill_color": count(),
}


def check_config(path: Path, weights: int, tower_folder: Callable[[str], Path]) -> dict[str, Any]:
    """Read ``open_clip_config.json`` and check every key and value.

    Args:
        path: The file.
        weights: Bytes of the model's weights. A model for which they cannot be enough is not built, since
            its memory would have no bound.
        tower_folder: Gives the folder with the configuration of a text tower of another library, by its name.

    Returns:
        The settings of the text tower, with the folder for the name of such a tower.

    Raises:
        ModelError: The file cannot be read, lacks a part, holds a key or a value that is not allowed, or asks
            for more weights than there are. The message names the file, the key and the value.
    """
    try:
        config = read_json(path)
        model = config["model_cfg"]
        vision, text = model["vision_cfg"], model["text_cfg"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not an open_clip configuration ({error!r})") from None
    _check_part(path, "model_cfg", model, MODEL)
    _check_part(path, "vision_cfg", vision, VISION)
    _check_part(path, "text_cfg", text, TEXT)
    _check_part(path, "preprocess_cfg", config.get("preprocess_cfg", {}), PREPROCESSING)
    if "multimodal_cfg" in model:
        if not model.get("custom_text"):
            raise ModelError(f"{path}: model_cfg has multimodal_cfg, which needs custom_text")
        _check_part(path, "multimodal_cfg", model["multimodal_cfg"], DECODER)
    name = text.get("hf_tokenizer_name")
    known = known_repositories("hf_tokenizer_name")
    if name and name not in known and not (path.parent / TOKENIZER_FILE).is_file():
        raise ModelError(
            f"{path}: text_cfg has hf_tokenizer_name = {json.dumps(name)}, a name that none of "
            f"open_clip's own models has, and no {TOKENIZER_FILE} stands beside it"
        )
    if text.get("hf_model_name"):
        folder = str(tower_folder(text["hf_model_name"]))
        text = text | {"hf_model_name": folder, "hf_model_pretrained": False}
    asked = _weights(path, model | {"text_cfg": text})
    if asked > weights:  # of one byte each
        raise ModelError(
            f"{path}: asks for {asked:,} weights, but the model's files hold {weights:,} bytes; they are "
            "damaged, or of another model"
        )
    return dict(text)


def _weights(path: Path, model: Mapping[str, Any]) -> int:
    """The number of a model's weights, from a model that is built without memory for them.

    Older versions of timm read values while they build a tower, which fails without memory. A model with such
    a tower counts with a tower smaller than any of timm's.
    """
    settings = {key: value for key, value in model.items() if key != "custom_text"}
    kind: Any = CustomTextCLIP if model.get("custom_text") or model["text_cfg"].get("hf_model_name") else CLIP
    if "multimodal_cfg" in model:
        kind = importlib.import_module("open_clip.coca_model").CoCa
    try:
        if name := model["vision_cfg"].get("timm_model_name"):
            timm_factory(name)  # its imports make tensors, which need memory
        with torch.device("meta"), NoRandomWeights():
            try:
                clip = kind(**settings)
            except (RuntimeError, NotImplementedError):
                if not model["vision_cfg"].get("timm_model_name"):
                    raise
                clip = kind(**settings | {"vision_cfg": _SMALLEST_TOWER})
    except Exception as error:
        raise ModelError(f"{path}: no model can be built from it ({str(error)[:200]})") from error
    return sum(parameter.numel() for parameter in clip.parameters())


def _check_part(path: Path, part: str, values: object, allowed: Mapping[str, Check]) -> None:
    if not isinstance(values, dict):
        raise ModelError(f"{path}: {part} is not a JSON object")
    for key, value in values.items():
        # An empty setting of a Hugging Face tower means that the model has no such tower.
        if key.startswith("hf_") and value in (None, "", False):
            continue
        check: Any = allowed.get(key)
        if check is None:
            raise ModelError(f"{path}: {part} has the key {key[:100]!r}, which descscore does not allow")
        if not check(value):
            text = json.dumps(value)[:100]
            raise ModelError(f"{path}: {part} has {key} = {text}, which descscore does not allow")
