"""What the bands of percentiles hold: ``python -m reproduce.bands docs --data DATA``.

A percentile places a text among the model's comparison descriptions, and a band gives it a word
(:data:`descscore.records.BANDS`). This counts how many right and wrong descriptions fall into each band, on
the photos of Flickr8k's split ``val``: a right text is the photo's own, a wrong one is another photo's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from descscore.errors import UsageError
from descscore.eval.features import image_features, text_features
from descscore.eval.quality import TextsOfImages, read_flickr8k
from descscore.records import BANDS
from descscore.scorer import DescScorer
from reproduce.pages import Part, data_option, folder_argument, render

SPLIT = "val"


def measure_bands(scorer: DescScorer, source: TextsOfImages) -> dict[str, Any]:
    """The share of right and of wrong texts in each band: every text with its own image and with all others.

    Raises :class:`UsageError` for a model without comparison descriptions.
    """
    purpose = scorer.model.purpose
    if purpose is None or purpose.comparison is None:
        raise UsageError(f"model {scorer.model.name}: has no comparison descriptions")
    images, texts = image_features(scorer, source.images), text_features(scorer, source.texts)
    cosines = texts @ images.T
    own = torch.tensor(source.owner, device=cosines.device)[:, None] == torch.arange(
        len(images), device=cosines.device
    )
    percentiles = {
        "right": purpose.percentile(cosines[own]),
        "wrong": purpose.percentile(cosines[~own]),
    }
    shares = {name: _shares(values) for name, values in percentiles.items() if values is not None}
    return {
        "signature": scorer.signature,
        "comparison": len(purpose.comparison),
        "images": len(images),
        "texts": len(texts),
        "bands": [
            {
                "name": band.name,
                "lowest": band.lowest,
                "meaning": band.meaning,
                "right": shares["right"][number],
                "wrong": shares["wrong"][number],
            }
            for number, band in enumerate(BANDS)
        ],
    }


def _shares(percentiles: Tensor) -> list[float]:
    """The share of percentiles in each band."""
    place = np.searchsorted([band.lowest for band in BANDS], percentiles.cpu().numpy(), side="right") - 1
    counts = np.bincount(place, minlength=len(BANDS))
    return [float(count) / len(place) for count in counts]


BANDS_PART = Part("bands.json", "concepts.md", "bands", lambda measured: render("bands", **measured))


@click.command()
@folder_argument
@data_option
def main(folder: Path, data: Path) -> None:
    """Write FOLDER/bands.json, and the part of the page there."""
    scorer = DescScorer.from_pretrained(device="cpu")
    measured = measure_bands(scorer, read_flickr8k(data, SPLIT))
    BANDS_PART.write(measured, folder)
    click.echo(BANDS_PART.markdown(measured))


if __name__ == "__main__":
    main()
