"""Read, merge and write adapters: folders that turn a base model into a description-tuned one.

An adapter's folder holds the tuned weights (peft's own LoRA files, or ``text_tower.safetensors``
after full tuning), ``purpose.safetensors`` if a purpose subspace was learned, and
``descscore_adapter.json``, which people can read. That file names the base, its pretrained
tag and the hash of its weights. The hash must match: on another base, an adapter would give
plausible but meaningless scores.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from descscore.clip import CLIP
from descscore.errors import ModelError
from descscore.files import atomic_write

ADAPTER_FILE = "descscore_adapter.json"
TEXT_WEIGHTS = "text_tower.safetensors"
FORMAT = 1
_ROWS, _CHANGED = "token_embedding.rows", "token_embedding.changed"
"""Names of two tensors: numbers ``(m,)`` of the tokens that training changed, and their embeddings
``(m, width)``."""


@dataclass(frozen=True)
class AdapterInfo:
    """The content of ``descscore_adapter.json``."""

    base: str
    """Bundled name, folder (absolute, or relative to the adapter's folder) or open_clip model."""
    base_weights: str
    """Hash of the base's weights, from :func:`weights_hash`."""
    pretrained: str | None = None
    """The base's pretrained tag; None unless the base is an open_clip model."""
    tuning: str = "lora"
    """``lora`` or ``full``."""
    block: int | None = None
    """Text block (0-based) after which the purpose is read; None without a purpose subspace."""
    k: int | None = None
    """Dimensions of the purpose subspace; None without one."""
    format: int = FORMAT
    """Version of the file's format."""

    def base_source(self, folder: Path) -> str:
        """The base in the form that :func:`descscore.models.load_model` takes."""
        if self.pretrained:
            return f"{self.base}/{self.pretrained}"
        neighbour = folder / self.base
        return str(neighbour) if self.base not in ("base", "default") and neighbour.is_dir() else self.base


def read_adapter(folder: Path) -> AdapterInfo:
    """Read ``descscore_adapter.json``; raises :class:`ModelError` with the file and the fault."""
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


def weights_hash(model: CLIP) -> str:
    """First 12 hex digits of the SHA-256 over the names, shapes and float32 values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        array = value.detach().cpu()
        array = array.float() if array.is_floating_point() else array
        digest.update(f"{name}{tuple(array.shape)}".encode())
        digest.update(array.contiguous().numpy())
    return digest.hexdigest()[:12]


def merge_adapter(base: CLIP, info: AdapterInfo, folder: Path) -> CLIP:
    """A copy of ``base`` with the adapter's weights; the two share the image tower.

    Raises:
        ModelError: The adapter was made for other weights, or its files are damaged.
    """
    actual = weights_hash(base)
    if actual != info.base_weights:
        raise ModelError(
            f"adapter {folder}: made for {info.base_source(folder)!r} with weights {info.base_weights}, "
            f"but that base has weights {actual}"
        )
    if info.tuning == "full":
        return _load_full(base, folder)
    from descscore.lora import merge_lora  # imports peft

    return merge_lora(copy.deepcopy(base, {id(base.visual): base.visual}), folder)


def _load_full(base: CLIP, folder: Path) -> CLIP:
    # The copy shares the base's weights; load_state_dict then assigns the new ones, so none is copied.
    shared: list[Any] = [base.visual, *base.parameters()]
    clip = copy.deepcopy(base, {id(value): value for value in shared})
    try:
        state = load_file(folder / TEXT_WEIGHTS)
        if _ROWS in state:
            table = clip.token_embedding.weight.detach().clone()
            table[state.pop(_ROWS).long()] = state.pop(_CHANGED).to(table.dtype)
            state["token_embedding.weight"] = table
        weights = clip.state_dict()
        state = {
            name: value.to(weights[name], copy=True) if name in weights else value
            for name, value in state.items()
        }
        result = clip.load_state_dict(state, strict=False, assign=True)
    except Exception as error:
        raise ModelError(f"adapter {folder}: {TEXT_WEIGHTS} cannot be loaded ({error})") from error
    missing = [key for key in result.missing_keys if not key.startswith("visual.")]
    if missing or result.unexpected_keys or any(key.startswith("visual.") for key in state):
        raise ModelError(f"adapter {folder}: {TEXT_WEIGHTS} does not hold exactly the text tower's weights")
    return clip


def save_lora(wrapped: Any, info: AdapterInfo, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a peft-wrapped CLIP's LoRA weights and the adapter's description, each file in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        wrapped.save_pretrained(name, safe_serialization=True, save_embedding_layers=False)
        if dtype != torch.float32:
            weights = Path(name) / "adapter_model.safetensors"
            save_file({k: v.to(dtype) for k, v in load_file(weights).items()}, weights, {"format": "pt"})
        for path in Path(name).iterdir():
            if path.name != "README.md":  # peft's empty template of a model card
                with atomic_write(folder / path.name) as part:
                    path.rename(part)
    _write_info(info, folder)


def save_full(
    clip: CLIP, base: CLIP, info: AdapterInfo, folder: Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write the weights of a CLIP's text tower and the adapter's description, each file in one step.

    Only the token embeddings that differ from ``base``'s are written. Training leaves the embeddings
    of unseen words unchanged, and most of a small tower's weights are such embeddings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.cpu() for k, v in clip.state_dict().items() if not k.startswith("visual.")}
    table, before = state.pop("token_embedding.weight"), base.token_embedding.weight.detach().cpu()
    rows = (table != before).any(1).nonzero()[:, 0]
    state |= {_ROWS: rows.int(), _CHANGED: table[rows]}
    weights = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    with atomic_write(folder / TEXT_WEIGHTS) as part:
        save_file(weights, part)
    _write_info(info, folder)


def _write_info(info: AdapterInfo, folder: Path) -> None:
    text = json.dumps(asdict(info), indent=2, sort_keys=True)
    with atomic_write(folder / ADAPTER_FILE) as part:
        part.write_text(text + "\n", encoding="utf-8")
