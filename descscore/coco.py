"""descscore as a scorer of pycocoevalcap, for one loop with CIDEr; needs no Java."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from descscore.errors import DataError, UsageError, first_ten
from descscore.images import ImageSource
from descscore.shared_scorers import ModelSource, score_named, shared_scorer


class DescScore:
    """descscore's score as a pycocoevalcap scorer.

    The model is loaded once for the process. pycocoevalcap's own loop passes texts that
    Stanford's tokenizer has lower-cased and stripped of punctuation. The model reads
    punctuation too, so give it the original texts if you can.

    Args:
        images: Image by image id, each a path or anything else that
            :class:`descscore.DescScorer` takes. Images that are not scored are ignored.
        model: A name, a folder, or a ready scorer.

    Attributes:
        signature: Everything that the scores depend on, in one line.
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
            res: A list of one text for each image id; a text is a string, or a dict with the text
                under ``caption``.

        Raises:
            DataError: ``gts`` and ``res`` have different image ids, an image is missing, or an id does
                not have exactly one text. The message names the image ids.
            InputError: Some pairs cannot be scored. The message names their image ids.
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
            example = next(iter(self._images), None)
            hint = ""
            if example is not None and type(example) is not type(missing[0]):
                hint = f"; the ids of the images are {type(example).__name__}, such as {example!r}"
            raise DataError(f"no image for {_listed(missing)}{hint}")


def _same_ids(gts: Mapping[Any, Any], res: Mapping[Any, Any]) -> None:
    without = [image_id for image_id in gts if image_id not in res]
    if without:
        raise DataError(f"no result for {_listed(without)}")
    unknown = [image_id for image_id in res if image_id not in gts]
    if unknown:
        raise DataError(f"results but no references for {_listed(unknown)}")


def _single_texts(ids: Iterable[Any], res: Mapping[Any, Sequence[Any]]) -> list[str]:
    """The text of each id; :class:`DataError` names the ids without exactly one."""
    problems, texts = [], []
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
