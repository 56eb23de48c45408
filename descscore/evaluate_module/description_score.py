"""The mean score of image-text pairs, as a metric of Hugging Face's ``evaluate``.

``evaluate`` copies this file to its own folder and imports the copy. So the file may use only the
installed package.
"""

from __future__ import annotations

import io
import os
from typing import Any

import datasets
import evaluate

from descscore.errors import DataError, InputError, rows_error
from descscore.image_lists import image_source
from descscore.images import load_image
from descscore.shared_scorers import ModelSource, ScorerOptions, score_named, shared_scorer
from descscore.texts import DEFAULT_POLICY, TextPolicy

_DESCRIPTION = (
    "How well texts would replace their images for someone who cannot see them; needs no references."
)

_INPUTS = """
Args:
    predictions (list of str): the texts, one for each image.
    images (list): their images: paths, bytes of image files, PIL images, arrays or tensors.
    model (str or DescScorer): a model's name or folder, "default" by default, or a ready scorer.
    device, text_policy, precision: as for DescScorer.from_pretrained; not used for a ready scorer.

Returns:
    description_score (float): the mean score, 0 to 2.5.
    scores (list of float): each item's score, 2.5 times its cosine, 0 for a negative one.
    cosines (list of float): each item's raw cosine, -1 to 1.
    signature (str): everything that the numbers depend on, in one line.
"""


class DescriptionScore(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """See ``inputs_description``."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            # Not decoded: the scorer reads paths and bytes itself, as it does everywhere else.
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "images": datasets.Image(decode=False)}
            ),
        )

    def add(self, *, prediction: str | None = None, images: Any = None, **kwargs: Any) -> None:
        """Add one text and its image; ``evaluate.combine`` names the text ``predictions`` here too."""
        text = kwargs.pop("predictions", prediction)
        # As a batch, because older releases of datasets put single items after later batches.
        super().add_batch(predictions=[text], images=[_stored(images)], **{k: [v] for k, v in kwargs.items()})

    def add_batch(self, *, predictions: Any = None, images: Any = None, **kwargs: Any) -> None:
        """Add texts and their images."""
        stored: list[Any] = []
        problems: dict[int, InputError] = {}
        for number, image in enumerate(images):
            try:
                stored.append(_stored(image))
            except InputError as error:
                problems[number] = error
        if problems:
            raise rows_error(problems, "image {}".format)
        super().add_batch(predictions=predictions, images=stored, **kwargs)

    def _compute(
        self,
        *,
        predictions: list[str],
        images: list[dict[str, Any]],
        model: ModelSource = "default",
        device: str | None = None,
        text_policy: TextPolicy = DEFAULT_POLICY,
        precision: str = "float32",
    ) -> dict[str, Any]:
        if not predictions:
            raise DataError("nothing to score: no predictions")
        scorer = shared_scorer(model, ScorerOptions(device, text_policy, precision))
        names = [f"prediction {i}" for i in range(len(predictions))]
        results = score_named(scorer, names, _restored(images), predictions)
        scores = [result.score for result in results]
        return {
            "description_score": sum(scores) / len(scores),
            "scores": scores,
            "cosines": [result.cosine for result in results],
            "signature": scorer.signature,
        }


def _stored(image: Any) -> Any:
    """A path as a string, bytes unchanged, and pictures as PNG, which loses nothing."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return {"bytes": bytes(image), "path": None}
    if isinstance(image, os.PathLike):
        return os.fspath(image)  # older releases of datasets know strings only
    if not hasattr(image, "__array__") and not hasattr(image, "save"):
        return image
    buffer = io.BytesIO()
    load_image(image_source(image)).save(buffer, "PNG", compress_level=1)
    return {"bytes": buffer.getvalue(), "path": None}


def _restored(images: list[dict[str, Any]]) -> list[Any]:
    """Paths and bytes; equal bytes become one object, so that they are encoded once."""
    first: dict[bytes, bytes] = {}
    return [
        image["path"] if image["bytes"] is None else first.setdefault(image["bytes"], image["bytes"])
        for image in images
    ]
