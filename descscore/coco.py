"""A scorer for pycocoevalcap: runs in one loop with CIDEr and the others, without Java."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from descscore.errors import DataError, UsageError
from descscore.images import ImageSource
from descscore.shared_scorers import ModelSource, first_ten, score_named, shared_scorer


class DescScore:
    """descscore's score as a pycocoevalcap scorer.

    The model is loaded once for the process. pycocoevalcap's own loop hands its scorers texts
    that Stanford's tokenizer has put in lower case and stripped of punctuation. The model
    reads punctuation too: where you can, give it the texts as they were written.

    Args:
        images: Image by image id, each a path or anything else that
            :class:`descscore.DescScorer` takes. Images that are not scored do no harm.
        model: A name, a folder, or a ready scorer.

    Attributes:
        signature: All that the scores depend on, in one line.
    """

    def __init__(self, images: Mapping[Any, ImageSource], model: ModelSource = "default") -> None:
        if not isinstance(images, Mapping):
            raise UsageError(f"images: expected a dict of image id and image, got {type(images).__name__}")
        self._images = images
        self._scorer = shared_scorer(model)
        self.signature = self._scorer.signature

    def compute_score(
        self, gts: Mapping[Any, Any], res: Mapping[Any, Sequence[Any]]
    ) -> tuple[float, np.ndarray[Any, np.dtype[np.float64]]]:
        """Mean score and the scores ``(n,)``, 0..2.5, in the order of the ids in ``gts``.

        Args:
            gts: References by image id; only the ids are used.
            res: By image id, a list of one text: a string, or a dict with the text under
                ``caption``.

        Raises:
            DataError: Names the image ids where the two differ, an image is missing, or there
                is not exactly one text.
            InputError: Names the image ids that cannot be scored.
        """
        _same_ids(gts, res)
        ids = list(gts)
        if not ids:
            raise DataError("nothing to score: no image ids")
        self._check_images(ids)
        texts = _single_texts(ids, res)
        names = [f"image id {image_id!r}" for image_id in ids]
        scored = score_named(self._scorer, names, [self._images[image_id] for image_id in ids], texts)
        scores = np.array([result.score for result in scored], dtype=np.float64)
        return float(scores.mean()), scores

    def method(self) -> str:
        """The metric's name in tables."""
        return "DescScore"

    def _check_images(self, ids: Sequence[Any]) -> None:
        missing = [image_id for image_id in ids if image_id not in self._images]
        if missing:
            known = next(iter(self._images), None)
            hint = ""
            if known is not None and type(known) is not type(missing[0]):
                hint = f"; the ids of the images are {type(known).__name__}, such as {known!r}"
            raise DataError(f"no image for {_listed(missing)}{hint}")


def _same_ids(gts: Mapping[Any, Any], res: Mapping[Any, Any]) -> None:
    without = [image_id for image_id in gts if image_id not in res]
    if without:
        raise DataError(f"no result for {_listed(without)}")
    unknown = [image_id for image_id in res if image_id not in gts]
    if unknown:
        raise DataError(f"results but no references for {_listed(unknown)}")


def _single_texts(ids: Iterable[Any], res: Mapping[Any, Sequence[Any]]) -> list[str]:
    """The one text of each id; all ids without exactly one are named."""
    problems = []
    texts = []
    for image_id in ids:
        results = res[image_id]
        if not isinstance(results, (list, tuple)):
            kind = type(results).__name__
            problems.append(f"image id {image_id!r}: expected a list of one text, got {kind}")
        elif len(results) != 1:
            problems.append(f"image id {image_id!r}: {len(results)} results; it must be one")
        else:
            texts.append(_text(results[0]))
    if problems:
        raise DataError(first_ten(problems))
    return texts


def _text(result: Any) -> Any:
    """The text of a result before or after pycocoevalcap's tokenizer."""
    return result["caption"] if isinstance(result, Mapping) and "caption" in result else result


def _listed(ids: Sequence[Any]) -> str:
    return f"image id {first_ten(list(map(repr, ids)), ', ')}"
