"""Cut a split into folds of whole groups, such as textbooks, and train on all but one of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from open_clip import CLIP

from descscore.errors import DataError
from descscore.training.config import FinetuneConfig
from descscore.training.examples import Examples, select
from descscore.training.trainer import RunData, Trainer

Array: TypeAlias = "np.ndarray[Any, Any]"


def fold_of(groups: Sequence[str], folds: int) -> Array:
    """Fold of each example ``(n,)``: whole groups, sizes evened out, the same for any order of examples.

    Raises :class:`DataError` for fewer groups than folds.
    """
    names, counts = np.unique(np.asarray(groups), return_counts=True)
    if len(names) < folds:
        raise DataError(f"{len(names)} groups cannot be cut into {folds} folds")
    sizes, place = np.zeros(folds, int), {}
    for name, count in sorted(zip(names, counts, strict=True), key=lambda item: (-item[1], item[0])):
        place[name] = int(sizes.argmin())
        sizes[place[name]] += count
    return np.array([place[name] for name in groups])


def part(examples: Examples, keep: Array) -> Examples:
    """The pairs where ``keep`` ``(n,)`` is true."""
    return select(examples, torch.from_numpy(np.flatnonzero(keep)))


def train_without(
    clip: CLIP, examples: Examples, keep: Array, config: FinetuneConfig, folder: Path
) -> Trainer:
    """Train a copy of the untuned ``clip`` where ``keep`` ``(n,)`` is true; no validation, one checkpoint."""
    never = 10**9
    quiet = replace(config, save_every=never, validate_every=never, patience=None)
    fresh = copy.deepcopy(clip).requires_grad_(True)
    trainer = Trainer(fresh, RunData(part(examples, keep), None), quiet, folder)
    trainer.train()
    return trainer
