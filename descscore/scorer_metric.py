"""The base class of descscore's torchmetrics metrics, whose copies share one scorer.

:mod:`descscore.metrics` holds the metrics themselves.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor
from torch.nn import Module

from descscore.errors import ModelError, UsageError
from descscore.scorer import DescScorer
from descscore.shared_scorers import ModelSource, ScorerOptions, shared_scorer

try:
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_cat
except ImportError as error:
    raise ImportError(
        f'descscore.metrics needs torchmetrics ({error}): pip install "descscore[metrics]"'
    ) from error


class ScorerMetric(Metric):
    """The mean of a value over items, computed by one scorer.

    If the metric is cast to another type, its states keep their types. The scorer is not part of
    ``state_dict``. Copies of the metric share it, and it moves with the metric to another device.

    Attributes:
        scored_by: ``(8,)`` int64 digest of class and signature.
        total: scalar, float64 or int64 as the subclass chooses; sum over the items.
        count: scalar int64; number of items.
        items: with ``per_item``, float64 tensors of the items' values.
        per_item: whether ``items`` are kept.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0

    scored_by: Tensor
    total: Tensor
    count: Tensor
    items: list[Tensor]

    def __init__(self, model: ModelSource, per_item: bool, total: Tensor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._handle = ScorerHandle.of(model, self.device)
        self.per_item = per_item
        # The first state: torchmetrics synchronises states in order, so a wrong model is noticed first.
        self.add_state(
            "scored_by", _digest(f"{type(self).__name__}|{self.signature}"), dist_reduce_fx=_same_model
        )
        self.add_state("total", total, dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")
        if per_item:
            self.add_state("items", [], dist_reduce_fx="cat")
        self.to(self._handle.device)

    @property
    def scorer(self) -> DescScorer:
        """The scorer in use, on the metric's device."""
        return self._handle.scorer

    @property
    def signature(self) -> str:
        """Everything that the value depends on, in one line."""
        return self.scorer.signature

    @property
    def dtype(self) -> torch.dtype:
        """Type of the items; torchmetrics uses it for the empty tensor of a process without items."""
        return torch.float64

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Add a batch to the earlier ones, and return the value of this batch alone.

        If the batch cannot be scored, nothing is added.
        """
        before = {
            name: list(value) if isinstance(value, list) else value for name, value in vars(self).items()
        }
        try:
            return super().forward(*args, **kwargs)
        except BaseException:
            vars(self).update(before)
            raise

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the items of another metric of the same class and model; they come after this metric's items.

        Raises:
            ValueError: The other metric has another class, or its state is incomplete.
            UsageError: The other metric has another model, precision or text policy.
        """
        if isinstance(incoming_state, Metric) and not isinstance(incoming_state, type(self)):
            raise ValueError(
                f"expected the state of a {type(self).__name__}, got a {type(incoming_state).__name__}"
            )
        # torchmetrics declares each state as a tensor or a list.
        incoming: dict[str, Any] = (
            incoming_state.metric_state if isinstance(incoming_state, Metric) else incoming_state
        )
        missing = [name for name in self._defaults if name not in incoming]
        if missing:
            raise ValueError(f"the state to be merged has no {', '.join(missing)}")
        _same_model(torch.stack([self.scored_by, incoming["scored_by"].to(self.scored_by.device)]))
        self.total = self.total + incoming["total"].to(self.total.device)
        self.count = self.count + incoming["count"].to(self.count.device)
        if self.per_item:
            self.items = [*self.items, *(part.to(self.total.device) for part in incoming["items"])]
        self._update_count += 1
        self._computed = None

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot one or more values with matplotlib; by default the value of :meth:`compute`."""
        return self._plot(val, ax)

    def _add(self, total: float, items: Sequence[float]) -> None:
        # A state that was loaded from a file may belong to another model.
        _same_model(torch.stack([self.scored_by, cast(Tensor, self._defaults["scored_by"])]))
        # Not in place, because torchmetrics keeps the old tensors as a snapshot.
        self.total = self.total + total
        self.count = self.count + len(items)
        if self.per_item and items:
            self.items.append(torch.tensor(items, dtype=torch.float64, device=self.total.device))

    def _mean(self) -> Tensor:
        """``total / count``, a float32 scalar; :class:`UsageError` without items."""
        if not int(self.count):
            self.unsync(should_unsync=self._is_synced)
            raise UsageError(
                f"{type(self).__name__}: nothing to average; call update with at least one item first"
            )
        return (self.total.double() / self.count).float()

    def _gathered(self) -> Tensor:
        """The items of all processes ``(n,)``, float64; every process must call this."""
        if not self.per_item:
            raise UsageError(f"{type(self).__name__}: items were not kept; make it with per_item=True")
        sync = self.sync_on_compute and not self._is_synced
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=sync, should_unsync=sync):
            # After a synchronisation the items are one tensor, before it a list of them.
            return (
                dim_zero_cat(self.items) if len(self.items) else self.total.new_empty(0, dtype=torch.float64)
            )

    def _apply(self, fn: Callable[..., Any], exclude_state: Sequence[str] = "") -> Module:
        super()._apply(device_only(fn), exclude_state)
        self._handle = self._handle.on(self.device)
        return self


def device_only(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function that moves tensors to the same device as ``fn``, but keeps their types.

    A model cast to half precision also casts its metrics, and a sum in half precision is useless.
    Apple's devices have no float64, so float64 tensors are not moved there.
    """

    def move(tensor: Tensor) -> Tensor:
        device = fn(torch.empty(0, device=tensor.device)).device
        stays = device.type == "mps" and tensor.dtype == torch.float64
        return tensor if stays else tensor.to(device)

    return move


def _digest(name: str) -> Tensor:
    """A digest of a metric's class and signature: 8 numbers in 0..255.

    It is a state of the metric for two reasons. ``MetricCollection`` would merge two metrics whose
    other states happen to be equal, and values of different models must not be added up.
    """
    return torch.tensor(list(hashlib.sha256(name.encode()).digest()[:8]), dtype=torch.int64)


def _same_model(digests: Tensor) -> Tensor:
    """The common digest of n metrics, ``(n, 8)`` -> ``(8,)``; :class:`UsageError` if they differ."""
    if not bool((digests == digests[0]).all()):
        raise UsageError("metrics of different models, precisions or text policies cannot be added up")
    return digests[0]


class ScorerHandle:
    """Holds the scorer of a metric, and pickles it by the name of its model.

    A deep copy returns the handle itself, because scoring does not change a scorer.

    Attributes:
        scorer: the scorer.
        name: the model's name or folder; None for a ready scorer, which is pickled whole.
    """

    def __init__(self, scorer: DescScorer, name: str | None) -> None:
        self.scorer, self.name = scorer, name

    @classmethod
    def of(cls, model: ModelSource, device: torch.device) -> ScorerHandle:
        """The handle of a ready scorer, or of a scorer by name on ``device``."""
        if isinstance(model, DescScorer):
            return cls(model, None)
        return cls(shared_scorer(model, ScorerOptions(device=str(device))), os.fspath(model))

    @property
    def device(self) -> torch.device:
        """The device of the scorer's weights, with its number."""
        return _numbered(self.scorer.model.device)

    def on(self, device: torch.device) -> ScorerHandle:
        """A handle of the scorer on ``device``; this handle if the scorer is already there."""
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
    current = handle.scorer.signature
    if current != signature:
        raise ModelError(f"the metric was saved with {signature!r}, but model {name!r} is now {current!r}")
    return handle


_COPIES: WeakKeyDictionary[DescScorer, WeakValueDictionary[torch.device, DescScorer]] = WeakKeyDictionary()
"""A scorer's copies on other devices, and a copy's original, while anything uses them."""


def scorer_on(scorer: DescScorer, device: torch.device) -> DescScorer:
    """A copy of ``scorer`` on ``device``; an earlier copy if it is still in use.

    ``scorer`` itself stays on its device, because other objects may use it.
    """
    copies = _COPIES.setdefault(scorer, WeakValueDictionary())
    device = _numbered(device)
    moved = copies.get(device)
    if moved is None:
        moved = copies[device] = _copied(scorer, device)
        _COPIES[moved] = WeakValueDictionary({_numbered(scorer.model.device): scorer})
    return moved


def _copied(scorer: DescScorer, device: torch.device) -> DescScorer:
    model = scorer.model
    # In one call, so that an untuned model stays its own base.
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
    """``device`` with its number: ``cuda`` becomes ``cuda:0``, or the current one."""
    return torch.empty(0, device=device).device
