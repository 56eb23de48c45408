"""descscore as torchmetrics metrics.

>>> from descscore.metrics import DescriptionScore
>>> metric = DescriptionScore()
>>> metric.update(["photo.jpg"], ["A brown dog runs over wet sand."])
>>> metric.compute()

Needs torchmetrics: ``pip install "descscore[metrics]"``.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, cast
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from descscore.errors import ImageError, ModelError, UsageError
from descscore.images import ImageSource
from descscore.scorer import SCALE, DescScorer
from descscore.shared_scorers import ModelSource, ScorerOptions, score_named, shared_scorer

try:
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_cat
except ImportError as error:
    raise ImportError(
        f'descscore.metrics needs torchmetrics ({error}): pip install "descscore[metrics]"'
    ) from error

__all__ = ["DescriptionScore", "PreferenceAccuracy"]

# Images as torchmetrics users have them -> a list of images that a scorer takes.


ImageBatch: TypeAlias = "Sequence[ImageSource | Tensor] | ImageSource | Tensor"
"""A list of images, one image, or a tensor ``(n, channels, height, width)``.

A tensor is uint8, or float in 0..1, with 1, 3 or 4 channels; 4 are red, green, blue and
opacity. Everything else is as :func:`descscore.images.load_image` takes it.
"""


def image_list(images: ImageBatch, count: int | None) -> list[ImageSource]:
    """The images of ``count`` texts; of a single text that stands in no list where ``count`` is None.

    An image that occurs again in a list stays one object, so that it is encoded once.
    Raises :class:`ImageError` for a tensor of another form, :class:`UsageError` for one
    array or tensor where a list belongs.
    """
    if isinstance(images, Tensor):
        images = _tensors(images, count)
    elif isinstance(images, np.ndarray) and images.ndim != 4 and count is not None:
        raise UsageError("images: one array; give a list of them, or one (n, height, width, channels)")
    elif count is None and not isinstance(images, (list, tuple)):
        return [images]  # type: ignore[list-item]
    elif isinstance(images, (str, bytes)) or not hasattr(images, "__iter__"):
        raise UsageError(f"images: expected a list, got one {type(images).__name__}")
    return _converted([*cast(Iterable[Any], images)])


def _tensors(images: Tensor, count: int | None) -> list[Tensor]:
    """One tensor as a list of images ``(channels, height, width)``."""
    if images.ndim == 4:
        return list(images)
    if images.ndim == 3 and count in (None, 1):
        return [images]
    shape = "x".join(map(str, images.shape))
    raise ImageError("bad_array", f"images: tensor of shape {shape} for {count or 1} texts: {_EXPECTED}")


_EXPECTED = "expected (n, channels, height, width), or (channels, height, width) for one image"


def _converted(images: Sequence[Any]) -> list[ImageSource]:
    arrays = {id(image): _array(image, i) for i, image in enumerate(images) if isinstance(image, Tensor)}
    return [arrays.get(id(image), image) for image in images]


def _array(image: Tensor, row: int) -> np.ndarray[Any, Any]:
    """``(channels, height, width)`` -> ``(height, width, channels)`` on the host, values as they are."""
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        shape = "x".join(map(str, image.shape))
        raise ImageError(
            "bad_array",
            f"row {row}: tensor of shape {shape}: expected (channels, height, width) with 1, 3 or 4 channels",
        )
    if image.dtype == torch.bfloat16:
        image = image.float()
    return image.detach().permute(1, 2, 0).cpu().numpy()


# A scorer as part of a metric: shared by copies, moved with the metric, pickled by name.


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


# What the metrics share: their scorer, exact states, and no loss when an update fails.


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


# The mean score of pairs of image and text, as a torchmetrics metric.


class DescriptionScore(ScorerMetric):
    """How well texts would replace their images: the mean of ``2.5 * max(cosine, 0)``, 0..2.5.

    model: a name or folder (see :func:`descscore.load_model`), loaded once for the process
    on the metric's device, or a ready :class:`descscore.DescScorer`; for another text
    policy or precision give such a one. per_item: whether to keep every item's value for
    :meth:`scores` and :meth:`cosines`. kwargs: those of ``torchmetrics.Metric``.

    Raises :class:`descscore.errors.ModelError` at once where the model cannot be loaded.
    """

    plot_upper_bound = SCALE

    def __init__(self, model: ModelSource = "default", per_item: bool = False, **kwargs: Any) -> None:
        super().__init__(model, per_item, torch.tensor(0.0, dtype=torch.float64), **kwargs)

    def update(self, images: ImageBatch, texts: Sequence[str] | str) -> None:
        """Score image ``i`` with text ``i``, each distinct image once.

        images: a list of paths, bytes, PIL images, arrays or tensors (see
        :data:`descscore.metrics.ImageBatch`), or one tensor
        ``(n, channels, height, width)``, uint8 or float in 0..1. A single image goes with a
        single text. Raises as :meth:`descscore.DescScorer.score_batch`; then nothing is added.
        """
        single = isinstance(texts, str)
        rows = [texts] if isinstance(texts, str) else list(texts)
        found = self.scorer.score_batch(image_list(images, None if single else len(rows)), rows)
        self._add(sum(result.score for result in found), [result.cosine for result in found])

    def compute(self) -> Tensor:
        """The mean score over all processes, a scalar; :class:`descscore.errors.UsageError` without any."""
        return self._mean()

    def scores(self) -> Tensor:
        """Each item's score ``(n,)``, float64, with ``per_item=True``.

        In the order of the updates; of several processes the first one's, then the second's,
        and so on. All processes must call this, as they must ``compute``.
        """
        return SCALE * self._gathered().clamp(min=0)

    def cosines(self) -> Tensor:
        """Each item's raw cosine, -1..1, which to rank and compare; otherwise as :meth:`scores`."""
        return self._gathered()


class PreferenceAccuracy(ScorerMetric):
    """The share of images, 0..1, whose description has a higher raw cosine than their caption.

    A tie is not a win. model, per_item, kwargs: as for
    :class:`descscore.metrics.DescriptionScore`; what is kept for each item is its margin.
    """

    plot_upper_bound = 1.0

    def __init__(self, model: ModelSource = "default", per_item: bool = False, **kwargs: Any) -> None:
        super().__init__(model, per_item, torch.tensor(0, dtype=torch.int64), **kwargs)

    def update(
        self, images: ImageBatch, descriptions: Sequence[str] | str, captions: Sequence[str] | str
    ) -> None:
        """Compare description ``i`` and caption ``i`` of image ``i``; each distinct image is encoded once.

        images: as for :meth:`descscore.metrics.DescriptionScore.update`. Raises
        :class:`UsageError` where the lengths differ, and an
        :class:`descscore.errors.InputError` that names every text or image that cannot be
        scored; then nothing is added.
        """
        single = isinstance(descriptions, str)
        if single != isinstance(captions, str):
            raise UsageError("descriptions and captions: one text and a list of texts; give two of a kind")
        better = [descriptions] if isinstance(descriptions, str) else list(descriptions)
        worse = [captions] if isinstance(captions, str) else list(captions)
        sources = image_list(images, None if single else len(better))
        if not len(sources) == len(better) == len(worse):
            counts = f"{len(sources)} images, {len(better)} descriptions and {len(worse)} captions"
            raise UsageError(f"{counts}: an item needs one of each")
        names = [f"row {i}{kind}" for kind in ("", ", caption") for i in range(len(better))]
        found = score_named(self.scorer, names, sources * 2, better + worse)
        pairs = zip(found[: len(better)], found[len(better) :], strict=True)
        margins = [first.cosine - second.cosine for first, second in pairs]
        self._add(sum(margin > 0 for margin in margins), margins)

    def compute(self) -> Tensor:
        """The share over all processes, a scalar; :class:`descscore.errors.UsageError` without any."""
        return self._mean()

    def margins(self) -> Tensor:
        """Each item's cosine of the description less that of the caption ``(n,)``, float64,
        -2..2, with ``per_item=True``; order and processes as for
        :meth:`descscore.metrics.DescriptionScore.scores`.
        """
        return self._gathered()
