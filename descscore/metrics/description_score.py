"""The mean score of pairs of image and text, as a torchmetrics metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from descscore.metrics.image_batches import ImageBatch, image_list
from descscore.metrics.scorer_metric import ScorerMetric
from descscore.results import SCALE
from descscore.shared_scorers import ModelSource


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
        :data:`descscore.metrics.image_batches.ImageBatch`), or one tensor
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
