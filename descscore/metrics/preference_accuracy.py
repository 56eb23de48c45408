"""How often the description beats the caption, as a torchmetrics metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from descscore.errors import UsageError
from descscore.metrics.image_batches import ImageBatch, image_list
from descscore.metrics.scorer_metric import ScorerMetric
from descscore.named_pairs import score_named
from descscore.shared_scorers import ModelSource


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
