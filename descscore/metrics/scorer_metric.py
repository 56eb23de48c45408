"""What the metrics share: their scorer, exact states, and no loss when an update fails."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Module
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from descscore.errors import UsageError
from descscore.metrics.scorer_handle import ScorerHandle
from descscore.scorer import DescScorer
from descscore.shared_scorers import ModelSource


class ScorerMetric(Metric):
    """A mean over items that one scorer scores.

    States: ``total`` (float64 or int64, as the metric says) and ``count`` (int64), and with
    ``per_item`` the ``items``, float64. They keep these types whatever the metric is cast
    to. The scorer is no part of ``state_dict``, is shared by copies of the metric, and
    moves with it.
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
        # First, so that nothing of another model is added before it is found out.
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
        """All that the metric's value depends on, in one line."""
        return self.scorer.signature

    @property
    def dtype(self) -> torch.dtype:
        """Type of the items; torchmetrics gives it to what a process without any sends to the others."""
        return torch.float64

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The value of this batch alone; the batch is added to what was there.

        Where the batch cannot be scored, what was there stays.
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
        """Add what another metric of the same class and model has seen; its items come after this one's.

        Raises ``ValueError`` for another class or a state that lacks something, and
        :class:`UsageError` for another model, precision or text policy.
        """
        if isinstance(incoming_state, Metric) and not isinstance(incoming_state, type(self)):
            raise ValueError(
                f"expected the state of a {type(self).__name__}, got a {type(incoming_state).__name__}"
            )
        # torchmetrics types any state as a tensor or a list.
        theirs: dict[str, Any] = (
            incoming_state.metric_state if isinstance(incoming_state, Metric) else incoming_state
        )
        missing = [name for name in self._defaults if name not in theirs]
        if missing:
            raise ValueError(f"the state to be merged has no {', '.join(missing)}")
        _same_model(torch.stack([self.scored_by, theirs["scored_by"].to(self.scored_by.device)]))
        self.total = self.total + theirs["total"].to(self.total.device)
        self.count = self.count + theirs["count"].to(self.count.device)
        if self.per_item:
            self.items = [*self.items, *(part.to(self.total.device) for part in theirs["items"])]
        self._update_count += 1
        self._computed = None

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """torchmetrics' plot of a value or a list of them, by default of :meth:`compute`; by matplotlib."""
        return self._plot(val, ax)

    def _add(self, total: float, items: Sequence[float]) -> None:
        # A state that was loaded may be another model's.
        _same_model(torch.stack([self.scored_by, cast(Tensor, self._defaults["scored_by"])]))
        # Not in place: a snapshot of the states must stay what it was.
        self.total = self.total + total
        self.count = self.count + len(items)
        if self.per_item and items:
            self.items.append(torch.tensor(items, dtype=torch.float64, device=self.total.device))

    def _mean(self) -> Tensor:
        """``total / count``, a float32 scalar; :class:`UsageError` where nothing was counted."""
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
        super()._apply(_device_only(fn), exclude_state)
        self._handle = self._handle.on(self.device)
        return self


def _device_only(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Moves to where ``fn`` would move, and leaves the type as it is.

    A model cast to half precision takes its metrics along, and a sum in half precision is
    none. Apple's devices have no float64; there such a tensor stays where it is.
    """

    def move(tensor: Tensor) -> Tensor:
        device = fn(torch.empty(0, device=tensor.device)).device
        stays = device.type == "mps" and tensor.dtype == torch.float64
        return tensor if stays else tensor.to(device)

    return move


def _digest(name: str) -> Tensor:
    """What a metric is, as 8 numbers in 0..255.

    As a state it keeps ``MetricCollection`` from taking two metrics for one when their other
    states happen to be equal, and values of different models from being added up.
    """
    return torch.tensor(list(hashlib.sha256(name.encode()).digest()[:8]), dtype=torch.int64)


def _same_model(digests: Tensor) -> Tensor:
    """The one digest of all processes or metrics ``(n, 8)`` -> ``(8,)``."""
    if not bool((digests == digests[0]).all()):
        raise UsageError("metrics of different models, precisions or text policies cannot be added up")
    return digests[0]
