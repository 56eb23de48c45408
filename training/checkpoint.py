"""Checkpoints that a kill at any moment leaves whole: tensors and readable JSON, never a pickle.

A checkpoint is a folder that :func:`descscore.files.atomic_write` puts in place; only then the one before
it is removed.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from descscore.errors import DataError
from descscore.files import atomic_write, remove_unfinished

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run at one step."""

    groups: dict[str, Tensors]
    """Named sets of tensors: ``weights``, ``optimizer``, ``best``."""
    state: dict[str, Any]
    """Plain JSON values."""


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write ``folder/step-N``, then remove older ones.

    Raises :class:`DataError` naming the place when the disk is full or read-only;
    the last checkpoint is untouched then.
    """
    final = folder / f"step-{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        with atomic_write(final) as part:
            part.mkdir()
            for name, tensors in checkpoint.groups.items():
                whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
                save_file(whole, part / f"{name}.safetensors")
            text = json.dumps(checkpoint.state, indent=1) + "\n"
            (part / "state.json").write_text(text, encoding="utf-8")
    except Exception as error:
        raise DataError(
            f"{final}: checkpoint cannot be written ({error}); the last one stands: {latest(folder)}"
        ) from error
    for old in _complete(folder)[:-1]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint in ``folder``, or None."""
    return next(reversed(_complete(folder)), None)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises :class:`DataError` naming it where it is damaged."""
    try:
        groups = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
        return Checkpoint(groups, json.loads((path / "state.json").read_text(encoding="utf-8")))
    except Exception as error:
        raise DataError(f"{path}: damaged checkpoint ({error})") from error


def _complete(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.startswith("step-"))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """An optimizer's per-parameter state as named tensors, ``<parameter>.<entry>``."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": value for i, entries in state.items() for key, value in entries.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Restore the state that :func:`optimizer_tensors` returned."""
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**whole, "state": state})
