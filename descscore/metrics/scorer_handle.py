"""A scorer as part of a metric: shared by copies, moved with the metric, pickled by name."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch

from descscore.errors import ModelError
from descscore.scorer import DescScorer
from descscore.shared_scorers import ModelSource, ScorerOptions, shared_scorer

_COPIES: WeakKeyDictionary[DescScorer, WeakValueDictionary[torch.device, DescScorer]] = WeakKeyDictionary()
"""Copies on other devices, and of a copy the original, for as long as anything uses them."""


class ScorerHandle:
    """Holds the scorer of a metric.

    name: the model's name or folder, None for a scorer that was handed over ready. A deep
    copy is the handle itself, since a scorer holds nothing that scoring changes.
    """

    def __init__(self, scorer: DescScorer, name: str | None) -> None:
        self.scorer, self.name = scorer, name

    @classmethod
    def of(cls, model: ModelSource, device: torch.device) -> ScorerHandle:
        """A ready scorer where it is; a model by name loaded on ``device``."""
        if isinstance(model, DescScorer):
            return cls(model, None)
        return cls(shared_scorer(model, ScorerOptions(device=str(device))), os.fspath(model))

    @property
    def device(self) -> torch.device:
        """Where the scorer's weights are, its number included."""
        return _numbered(self.scorer.model.device)

    def on(self, device: torch.device) -> ScorerHandle:
        """The same scorer on ``device``: this handle where it is there already."""
        if _numbered(device) == self.device:
            return self
        return ScorerHandle(scorer_on(self.scorer, device), self.name)

    def __deepcopy__(self, memo: dict[int, Any]) -> ScorerHandle:
        return self

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        if self.name is None:
            return (ScorerHandle, (self.scorer, None))
        return (_reloaded, (self.name, str(self.device), self.scorer.signature))


def _reloaded(name: str, device: str, signature: str) -> ScorerHandle:
    handle = ScorerHandle.of(name, torch.device(device))
    now = handle.scorer.signature
    if now != signature:
        raise ModelError(f"the metric was saved with {signature!r}, but the model {name!r} now is {now!r}")
    return handle


def scorer_on(scorer: DescScorer, device: torch.device) -> DescScorer:
    """A copy of ``scorer`` on ``device``; the one made before where that is still in use.

    ``scorer`` itself stays where it is, since others may use it.
    """
    copies = _COPIES.setdefault(scorer, WeakValueDictionary())
    device = _numbered(device)
    found = copies.get(device)
    if found is None:
        found = copies[device] = _copied(scorer, device)
        _COPIES[found] = WeakValueDictionary({_numbered(scorer.model.device): scorer})
    return found


def _copied(scorer: DescScorer, device: torch.device) -> DescScorer:
    model = scorer.model
    # Together, so that a model that is its own base stays so.
    clip, base = copy.deepcopy((model.clip, model.base))
    moved = replace(
        model,
        clip=clip.to(device),
        base=base.to(device),
        device=device,
        purpose=model.purpose and model.purpose.to(device),
    )
    return DescScorer(moved, scorer.text_policy, scorer.encoder.batch_size, model.precision)


def _numbered(device: torch.device) -> torch.device:
    """``cuda`` as ``cuda:0``, or whichever it stands for."""
    return torch.empty(0, device=device).device
