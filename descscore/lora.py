"""Merge LoRA adapters in peft's format into a model; replaces peft's attention layer, which has two faults.

peft's layer for ``nn.MultiheadAttention`` adds the output projection's update twice, both when
it merges weights and in its forward pass (peft pull request 3774). Also, its forward pass adds
the updates to the frozen weights and subtracts them afterwards. In floating point this does not
restore the weights: they drift with every pass, and a resumed training run would differ from an
uninterrupted one. :class:`ExactAttention` replaces that layer. The format of peft's files stays
the same.

Import this module only where LoRA is used: it imports peft, which takes over a second.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora.layer import MultiheadAttention
from peft.tuners.tuners_utils import check_adapters_to_merge
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from descscore.clip import CLIP
from descscore.errors import ModelError

LORA_CONFIG = "adapter_config.json"
LORA_WEIGHTS = "adapter_model.safetensors"
_SETTINGS = ("r", "lora_alpha", "target_modules", "bias", "lora_dropout", "rank_pattern", "alpha_pattern")
"""The settings that are read, which shape the low-rank matrices. Others could name a model to fetch."""


_MOST_SETTINGS = 1 << 20

LARGEST_RANK = 4096
"""Largest rank that an adapter may ask for: memory is set aside before its weights are compared with it."""

TARGETS = {
    "attention": r"transformer\.resblocks\.\d+\.attn",
    "tower": r"transformer\.resblocks\.\d+\.(attn|mlp\.c_fc|mlp\.c_proj)|token_embedding",
}
"""Names of the modules that get LoRA; peft matches whole names, so ``visual.transformer...`` stays out."""


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


def _plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that shape the low-rank matrices.

    Raises:
        ValueError: The layers are neither one of :data:`TARGETS` nor plain names. peft would read other
            names as regular expressions, and a stranger's expression may run for hours.
    """
    plain = {key: settings[key] for key in _SETTINGS if key in settings}
    for key in ("target_modules", "rank_pattern", "alpha_pattern"):
        names = plain.get(key) or []
        if isinstance(names, str) and names in TARGETS.values():
            continue
        if isinstance(names, str) or not all(re.fullmatch(r"[\w.]+", str(name)) for name in names):
            raise ValueError(f"{key} {str(names)[:100]!r}: expected the plain names of layers")
    ranks = [plain.get("r", 1), *(plain.get("rank_pattern") or {}).values()]
    for rank in ranks:
        if not isinstance(rank, int) or not 1 <= rank <= LARGEST_RANK:
            raise ValueError(f"r {str(rank)[:100]}: expected a whole number from 1 to {LARGEST_RANK}")
    return plain


def use_exact_attention(config: LoraConfig) -> LoraConfig:
    """Return ``config``, changed to use :class:`ExactAttention` for the attention layers that it targets."""
    config._register_custom_module({nn.MultiheadAttention: ExactAttention})
    return config


class ExactAttention(MultiheadAttention):  # type: ignore[misc, unused-ignore]
    """Attention whose two projections, packed input and output, use the weights W + B A * alpha / r.

    A forward pass does not change the frozen weights. It adds into new tensors, so a layer may
    run any number of times in one graph.
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
        # The output projection is merged or disabled together with the input projection.
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
        """Subtract the merged updates; exact only up to rounding."""
        attention: Any = self.get_base_layer()
        weight = attention.in_proj_weight.detach()
        while self.merged_adapters:
            weight = weight - self.get_delta_weight(self.merged_adapters.pop()).detach().to(weight.dtype)
        attention.in_proj_weight = nn.Parameter(weight, requires_grad=False)
        attention.out_proj.unmerge()

    def _active(self) -> list[str]:
        """Names of the adapters whose updates a pass must add to the weights."""
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

    With gradients it computes B (A x) by two thin products, which cost less than the sum W + B A and
    its gradient (at a rank of a quarter of the width: for up to 6 times as many states as the layer is
    wide; at smaller ranks: always). Without gradients the sum costs less, except for few states.
    """
    if not torch.is_grad_enabled():
        return F.linear(states, _summed(layer, weight, names)[rows], bias)
    output = F.linear(states, weight[rows], bias)
    for name in names:
        thin = F.linear(states, layer.lora_A[name].weight)
        output = torch.addmm(output, thin, layer.lora_B[name].weight[rows].T, alpha=layer.scaling[name])
    return output
