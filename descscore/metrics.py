"""descscore as metrics of torchmetrics.

>>> from descscore.metrics import DescriptionScore
>>> metric = DescriptionScore()
>>> metric.update(["photo.jpg"], ["A brown dog runs over wet sand."])
>>> metric.compute()

Needs torchmetrics: ``pip install "descscore[metrics]"``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Module

from descscore.errors import UsageError
from descscore.image_lists import ImageBatch, image_list
from descscore.records import SCALE
from descscore.scorer import DescScorer
from descscore.shared_scorers import ModelSource, ScorerHandle, score_named

try:
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_cat
except ImportError as error:
    raise ImportError(
        f'descscore.metrics needs torchmetrics ({error}): pip install "descscore[metrics]"'
    ) from error

__all__ = ["DescriptionScore", "PreferenceAccuracy"]


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


class DescriptionScore(ScorerMetric):
    """How well texts would replace their images: the mean of ``2.5 * max(cosine, 0)``, 0..2.5.

    Args:
        model: A name or folder (see :func:`descscore.load_model`), loaded once for the process
            on the metric's device; or a ready :class:`descscore.DescScorer`, for example one with
            another text policy or precision.
        per_item: Whether to keep every item's value for :meth:`scores` and :meth:`cosines`.
        kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ModelError: The model cannot be loaded.
    """

    plot_upper_bound = SCALE

    def __init__(self, model: ModelSource = "default", per_item: bool = False, **kwargs: Any) -> None:
        super().__init__(model, per_item, torch.tensor(0.0, dtype=torch.float64), **kwargs)

    def update(self, images: ImageBatch, texts: Sequence[str] | str) -> None:
        """Score image ``i`` with text ``i``; each distinct image is encoded once.

        Raises as :meth:`descscore.DescScorer.score_batch`. After an error nothing is added.

        Args:
            images: A list of paths, bytes, PIL images, arrays or tensors (see
                :data:`descscore.image_lists.ImageBatch`), or one tensor
                ``(n, channels, height, width)``, uint8 or float in 0..1.
            texts: One text per image; or a single text for a single image.
        """
        single = isinstance(texts, str)
        text_list = [texts] if isinstance(texts, str) else list(texts)
        image_sources = image_list(images, None if single else len(text_list))
        names = None if single else [f"row {i}" for i in range(len(text_list))]
        results = score_named(self.scorer, names, image_sources, text_list)
        self._add(sum(result.score for result in results), [result.cosine for result in results])

    def compute(self) -> Tensor:
        """The mean score over all processes, a scalar; :class:`descscore.errors.UsageError` without items."""
        return self._mean()

    def scores(self) -> Tensor:
        """Each item's score ``(n,)``, float64; needs ``per_item=True``.

        The scores are in the order of the updates. With several processes, those of the first process
        come first, and all processes must call this method, as they must call ``compute``.
        """
        return SCALE * self._gathered().clamp(min=0)

    def cosines(self) -> Tensor:
        """Each item's raw cosine, -1..1, for ranking and comparing; otherwise as :meth:`scores`."""
        return self._gathered()


class PreferenceAccuracy(ScorerMetric):
    """The share of images, 0..1, whose description has a higher raw cosine than their caption.

    A tie is not a win.

    Args:
        model: As for :class:`descscore.metrics.DescriptionScore`.
        per_item: Whether to keep every item's margin for :meth:`margins`.
        kwargs: Arguments of ``torchmetrics.Metric``.
    """

    plot_upper_bound = 1.0

    def __init__(self, model: ModelSource = "default", per_item: bool = False, **kwargs: Any) -> None:
        super().__init__(model, per_item, torch.tensor(0, dtype=torch.int64), **kwargs)

    def update(
        self, images: ImageBatch, descriptions: Sequence[str] | str, captions: Sequence[str] | str
    ) -> None:
        """Compare description ``i`` and caption ``i`` of image ``i``; each distinct image is encoded once.

        After an error nothing is added.

        Args:
            images: As for :meth:`descscore.metrics.DescriptionScore.update`.
            descriptions: A description of each image; or a single one for a single image.
            captions: A caption of each image; or a single one for a single image.

        Raises:
            UsageError: The lengths differ.
            InputError: Some texts or images cannot be scored. The message names them.
        """
        single = isinstance(descriptions, str)
        if single != isinstance(captions, str):
            raise UsageError("descriptions and captions: one text and a list of texts; give two of a kind")
        description_list = [descriptions] if isinstance(descriptions, str) else list(descriptions)
        caption_list = [captions] if isinstance(captions, str) else list(captions)
        count = len(description_list)
        sources = image_list(images, None if single else count)
        if not len(sources) == count == len(caption_list):
            counts = f"{len(sources)} images, {count} descriptions and {len(caption_list)} captions"
            raise UsageError(f"{counts}: an item needs one of each")
        names = None if single else [f"row {i}{kind}" for kind in ("", ", caption") for i in range(count)]
        results = score_named(self.scorer, names, sources * 2, description_list + caption_list)
        pairs = zip(results[:count], results[count:], strict=True)
        margins = [description.cosine - caption.cosine for description, caption in pairs]
        self._add(sum(margin > 0 for margin in margins), margins)

    def compute(self) -> Tensor:
        """The share over all processes, a scalar; :class:`descscore.errors.UsageError` without items."""
        return self._mean()

    def margins(self) -> Tensor:
        """Each item's margin ``(n,)``, float64, -2..2: cosine of the description minus that of the caption.

        Needs ``per_item=True``. Order and processes: see :meth:`descscore.metrics.DescriptionScore.scores`.
        """
        return self._gathered()
