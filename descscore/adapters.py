"""Adapters: a folder that turns a base model into a description-tuned one.

It holds the tuned weights (peft's own LoRA files, or ``text_tower.safetensors`` after
full tuning), the rotation in ``purpose.safetensors`` where one was learned, and
``descscore_adapter.json``, readable by people, which names the base, its pretrained
tag and the hash of its weights. An adapter on another base would give plausible but
meaningless scores, so the hash decides.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from open_clip import CLIP
from peft import LoraConfig
from peft.tuners.lora.layer import MultiheadAttention
from peft.tuners.tuners_utils import check_adapters_to_merge
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from descscore.errors import ModelError

# LoRA on a packed attention layer, with each update added exactly once.
#
# peft's own layer for ``nn.MultiheadAttention`` has two faults that matter here.
# It adds the output projection's update twice, to the weights it merges and to those
# its forward pass uses (peft pull request 3774), and its forward pass adds the updates to the
# frozen weights and subtracts them afterwards, which in floating point does not
# return to the same weights: they drift a little with every pass, so that a resumed
# training run could not equal one never stopped. peft's files are read and written as they are.
#
# Import this module only where LoRA is used: it imports peft.


def use_exact_attention(config: LoraConfig) -> LoraConfig:
    """``config`` itself, told to put :class:`ExactAttention` on every attention layer it targets."""
    config._register_custom_module({nn.MultiheadAttention: ExactAttention})
    return config


class ExactAttention(MultiheadAttention):  # type: ignore[misc, unused-ignore]
    """Attention with W + B A * alpha / r for its packed input and its output projection.

    A forward pass leaves the frozen weights alone: the sums are fresh tensors, and
    a layer may run any number of times in one graph.
    """

    def forward(self, query: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As ``nn.MultiheadAttention``: queries ``(batch, length, width)`` -> outputs, attention weights."""
        attention: Any = self.get_base_layer()
        active = self._active()
        if not active:
            return attention(query, *args, **kwargs)
        weights = {
            "in_proj_weight": _summed(self, attention.in_proj_weight, active),
            "out_proj.base_layer.weight": _summed(
                attention.out_proj, attention.out_proj.base_layer.weight, active
            ),
        }
        return torch.func.functional_call(attention, weights, (query, *args), kwargs)

    def project_in(self, states: Tensor, rows: slice) -> Tensor:
        """Rows of the packed input projection, update included: ``(m, width)`` -> ``(m, rows)``."""
        active, attention = self._active(), cast(Any, self.get_base_layer())
        bias = attention.in_proj_bias
        bias = None if bias is None else bias[rows]
        return _updated(self, states, attention.in_proj_weight, bias, active, rows)

    def project_out(self, mixed: Tensor) -> Tensor:
        """The output projection, update included: ``(m, width)`` -> ``(m, width)``."""
        # Merged or disabled, it is so together with the input projection.
        active, layer = self._active(), cast(Any, self.get_base_layer()).out_proj
        return _updated(layer, mixed, layer.base_layer.weight, layer.base_layer.bias, active, slice(None))

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the active updates to the weights. safe_merge: check for NaN, as in peft."""
        names = self._known(check_adapters_to_merge(self, adapter_names))
        attention: Any = self.get_base_layer()
        total = _summed(self, attention.in_proj_weight.detach(), names)
        if safe_merge and not total.isfinite().all():
            raise ValueError(f"adapters {names}: the merged weights are not finite")
        if names:
            attention.out_proj.merge(safe_merge=safe_merge, adapter_names=names)
        attention.in_proj_weight = nn.Parameter(total.detach(), requires_grad=False)
        self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        """Subtract the merged updates; exact only to rounding, as every subtraction is."""
        attention: Any = self.get_base_layer()
        weight = attention.in_proj_weight.detach()
        while self.merged_adapters:
            weight = weight - self.get_delta_weight(self.merged_adapters.pop()).detach().to(weight.dtype)
        attention.in_proj_weight = nn.Parameter(weight, requires_grad=False)
        attention.out_proj.unmerge()

    def _active(self) -> list[str]:
        """Adapters whose updates a pass must add to the weights."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        return [] if self.disable_adapters or self.merged else self._known(self.active_adapters)

    def _known(self, names: list[str]) -> list[str]:
        return [name for name in names if name in self.lora_A]


def _summed(layer: Any, weight: Tensor, names: list[str]) -> Tensor:
    # Autocast would round the update to half precision before it is added.
    with torch.autocast(weight.device.type, enabled=False):
        for name in names:
            weight = weight + layer.get_delta_weight(name).to(weight.dtype)
    return weight


def _updated(
    layer: Any, states: Tensor, weight: Tensor, bias: Tensor | None, names: list[str], rows: slice
) -> Tensor:
    """Some rows of a linear layer with its updates: ``(m, width)`` -> ``(m, rows)``.

    With gradients, B (A x) by two thin products: the sum W + B A, and its gradient, would cost more
    up to 6 times as many states as the layer is wide (rank a quarter of the width; any number for
    smaller ranks). Without gradients the sum soon costs less.
    """
    if not torch.is_grad_enabled():
        return F.linear(states, _summed(layer, weight, names)[rows], bias)
    out = F.linear(states, weight[rows], bias)
    for name in names:
        thin = F.linear(states, layer.lora_A[name].weight)
        out = torch.addmm(out, thin, layer.lora_B[name].weight[rows].T, alpha=layer.scaling[name])
    return out


ADAPTER_FILE = "descscore_adapter.json"


def weights_hash(model: CLIP) -> str:
    """First 12 hex digits of the SHA-256 over names, shapes and float32 values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        array = value.detach().cpu()
        array = array.float() if array.is_floating_point() else array
        digest.update(f"{name}{tuple(array.shape)}".encode())
        digest.update(array.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


FORMAT = 1
LORA_CONFIG = "adapter_config.json"
LORA_WEIGHTS = "adapter_model.safetensors"
TEXT_WEIGHTS = "text_tower.safetensors"
ROWS, CHANGED = "token_embedding.rows", "token_embedding.changed"
"""Token numbers ``(m,)`` and their embeddings ``(m, width)``, where only some words' have changed."""
_LORA_KEYS = ("r", "lora_alpha", "target_modules", "bias", "lora_dropout", "rank_pattern", "alpha_pattern")


@dataclass(frozen=True)
class AdapterInfo:
    """What ``descscore_adapter.json`` says.

    base: bundled name, folder (absolute or relative to the adapter's) or open_clip
    model; pretrained: its tag, None unless it is an open_clip model; base_weights:
    hash of the base's weights (:func:`descscore.adapters.weights_hash`). tuning: ``lora``
    or ``full``. block (0-based), k: the site of the purpose subspace, None without one.
    """

    base: str
    base_weights: str
    pretrained: str | None = None
    tuning: str = "lora"
    block: int | None = None
    k: int | None = None
    format: int = FORMAT

    def base_source(self, folder: Path) -> str:
        """The base in the form that :func:`descscore.models.load_model` takes."""
        if self.pretrained:
            return f"{self.base}/{self.pretrained}"
        beside = folder / self.base
        return str(beside) if self.base not in ("base", "default") and beside.is_dir() else self.base


def read_adapter(folder: Path) -> AdapterInfo:
    """Read ``descscore_adapter.json``; raises :class:`ModelError` naming the file and what is wrong."""
    path = folder / ADAPTER_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise TypeError(f"a JSON object was expected, not {type(data).__name__}")
        known = {field.name for field in fields(AdapterInfo)}
        info = AdapterInfo(**{"format": None} | {k: v for k, v in data.items() if k in known})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not an adapter description ({error!r})") from None
    if info.tuning not in ("lora", "full"):
        raise ModelError(f"{path}: tuning {info.tuning!r} is neither 'lora' nor 'full'")
    if info.format != FORMAT:
        raise ModelError(f"{path}: format {info.format!r}; this version of descscore reads {FORMAT}")
    if info.base == "default":
        raise ModelError(f"{path}: names 'default' as its base; an adapter needs an untuned model")
    return info


def merge_adapter(base: CLIP, info: AdapterInfo, folder: Path) -> CLIP:
    """A copy of ``base`` with the LoRA weights in ``folder`` merged; the image tower is shared."""
    found = weights_hash(base)
    if found != info.base_weights:
        raise ModelError(
            f"adapter {folder}: made for {info.base_source(folder)!r} with weights {info.base_weights}, "
            f"but that base has weights {found}"
        )
    clip = copy.deepcopy(base, {id(base.visual): base.visual})
    return _merge_lora(clip, folder) if info.tuning == "lora" else _load_full(clip, folder)


def _load_full(clip: CLIP, folder: Path) -> CLIP:
    try:
        state = load_file(folder / TEXT_WEIGHTS)
        if ROWS in state:
            table = clip.token_embedding.weight.detach().clone()
            table[state.pop(ROWS).long()] = state.pop(CHANGED).to(table.dtype)
            state["token_embedding.weight"] = table
        result = clip.load_state_dict(state, strict=False)
    except Exception as error:
        raise ModelError(f"adapter {folder}: {TEXT_WEIGHTS} cannot be loaded ({error})") from error
    missing = [key for key in result.missing_keys if not key.startswith("visual.")]
    if missing or result.unexpected_keys or any(key.startswith("visual.") for key in state):
        raise ModelError(f"adapter {folder}: {TEXT_WEIGHTS} does not hold exactly the text tower's weights")
    return clip


def _merge_lora(clip: CLIP, folder: Path) -> CLIP:
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    pass  # import of own

    for name in (LORA_CONFIG, LORA_WEIGHTS):
        if not (folder / name).is_file():
            raise ModelError(f"adapter {folder}: {name} is missing")
    try:
        settings = json.loads((folder / LORA_CONFIG).read_text(encoding="utf-8"))
        if settings.get("peft_type") != "LORA":
            raise ValueError(f"peft_type {settings.get('peft_type')!r} is not LORA")
        # Only what shapes the low-rank matrices is taken over: the rest of peft's
        # file could name a model to fetch.
        config = LoraConfig(**{key: settings[key] for key in _LORA_KEYS if key in settings})
        wrapped = get_peft_model(clip, use_exact_attention(config))
        result: Any = set_peft_model_state_dict(wrapped, load_file(folder / LORA_WEIGHTS))
    except Exception as error:
        raise ModelError(f"adapter {folder}: damaged or made for another model ({error})") from error
    lost = [key for key in result.missing_keys if "lora_" in key]
    if result.unexpected_keys or lost:
        raise ModelError(
            f"adapter {folder}: its weights do not fit its base "
            f"({len(result.unexpected_keys)} unknown, {len(lost)} missing)"
        )
    return wrapped.merge_and_unload()


def save_lora(wrapped: Any, info: AdapterInfo, folder: Path) -> None:
    """Write a peft-wrapped CLIP's LoRA weights and the description beside them."""
    wrapped.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's model card template, of no use here
    _write_info(info, folder)


def save_full(
    clip: CLIP, base: CLIP, info: AdapterInfo, folder: Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write a CLIP's text tower (all weights but the image tower's) and the description beside it.

    Of the token embedding only the rows that differ from ``base``'s are kept: words that
    training never saw have not moved, and most of a small tower's weights are words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.cpu() for k, v in clip.state_dict().items() if not k.startswith("visual.")}
    table, before = state.pop("token_embedding.weight"), base.token_embedding.weight.detach().cpu()
    rows = (table != before).any(1).nonzero()[:, 0]
    state |= {ROWS: rows.int(), CHANGED: table[rows]}
    kept = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    save_file(kept, folder / TEXT_WEIGHTS)
    _write_info(info, folder)


def _write_info(info: AdapterInfo, folder: Path) -> None:
    text = json.dumps(asdict(info), indent=2, sort_keys=True)
    (folder / ADAPTER_FILE).write_text(text + "\n", encoding="utf-8")
