"""descscore as metrics of torchmetrics.

>>> from descscore.metrics import DescriptionScore
>>> metric = DescriptionScore()
>>> metric.update(["photo.jpg"], ["A brown dog runs over wet sand."])
>>> metric.compute()

Needs torchmetrics: ``pip install "descscore[metrics]"``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from descscore.errors import ImageError, UsageError
from descscore.images import ImageSource
from descscore.scorer import SCALE
from descscore.scorer_metric import ScorerMetric
from descscore.shared_scorers import ModelSource, score_named

__all__ = ["DescriptionScore", "PreferenceAccuracy"]

ImageBatch: TypeAlias = "Sequence[ImageSource | Tensor] | ImageSource | Tensor"
"""A list of images, one image, or a tensor ``(n, channels, height, width)``.

A tensor is uint8, or float in 0..1, with 1 channel (grey), 3 (red, green, blue) or 4 (red, green,
blue, opacity). An image of another type is anything that :func:`descscore.images.load_image` takes.
"""


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
                :data:`descscore.metrics.ImageBatch`), or one tensor
                ``(n, channels, height, width)``, uint8 or float in 0..1.
            texts: One text per image; or a single text for a single image.
        """
        single = isinstance(texts, str)
        text_list = [texts] if isinstance(texts, str) else list(texts)
        image_sources = image_list(images, None if single else len(text_list))
        results = self.scorer.score_batch(image_sources, text_list)
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
        names = [f"row {i}{kind}" for kind in ("", ", caption") for i in range(count)]
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


def image_list(images: ImageBatch, count: int | None) -> list[ImageSource]:
    """The images of ``count`` texts, as a list that a scorer takes.

    A repeated image stays one object, so that it is encoded once.

    Args:
        images: The images.
        count: Number of texts; None for a single text outside a list.

    Raises:
        ImageError: A tensor has a wrong shape.
        UsageError: There is one array or path instead of a list.
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
    raise ImageError(
        "bad_array",
        f"images: tensor of shape {shape} for {count or 1} texts: expected (n, channels, height, width), "
        "or (channels, height, width) for one image",
    )


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
