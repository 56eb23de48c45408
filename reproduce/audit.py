"""How often an audit's judgments by the picture are right: ``python -m reproduce.audit docs --data DATA``.

It sets the thresholds in ``descscore/assets/auditing/thresholds.json`` on data that is kept for that:
Flickr8k's ``val`` split and OpenStax's training books. Then it measures on other data, Flickr8k's and
OpenStax's ``test`` splits, and writes ``audit.json`` and the part of the page on the rules. Run it after
every change of the bundled model; it takes 10 to 15 minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow.parquet as pq
import torch

from descscore.auditing.picture_rules import NEIGHBOURS, Thresholds, find_swaps
from descscore.auditing.uses import ImageUse
from descscore.auditing.wording import drawn_kind
from descscore.errors import UsageError
from descscore.eval.features import image_features
from descscore.eval.statistics.proportions import wilson
from descscore.scorer import DescScorer
from reproduce.pages import Json, Part, data_option, folder_argument, render, write_json

FALSE_ALARMS = 0.05
"""Share of right texts that a judgment may remark on in the data that sets its threshold."""
IMAGES = 360
"""Images of each set."""
PAGE = 2 * NEIGHBOURS + 1
"""Images of a page in the measurement of swapped texts."""
PERCENTILES = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5, 10.0, 15.0, 20.0)
MARGINS = tuple(round(0.01 * step, 2) for step in range(21))
PROBABILITIES = tuple(round(0.05 * step, 2) for step in range(1, 15))
THRESHOLDS = Path(__file__).parents[1] / "descscore/assets/auditing/thresholds.json"

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Scored:
    """n images of a set with their texts, scored: image i against text j."""

    name: str
    cosines: Array
    """``(n, n)``."""
    percentiles: Array
    """``(n, n)``, of the cosines."""
    other: Array
    """``(n,)``: for each image the text of another one, drawn by chance."""
    descriptions: Array
    """``(n,)``: probabilities that the texts are descriptions."""
    captions: Array
    """``(n,)``: those of the images' captions; empty for a set without captions."""


def read(path: Path) -> tuple[list[bytes], list[str], list[str]]:
    """Images, descriptions and captions of :data:`IMAGES` rows all over a table, without charts and such."""
    table = pq.read_table(path)
    columns = {name: table[name].to_pylist() for name in table.column_names if name != "image"}
    texts = columns.get("description") or [captions[0] for captions in columns["captions"]]
    captions = columns.get("caption") or []
    rows = [
        i for i, text in enumerate(texts) if text and not drawn_kind(text, captions[i] if captions else None)
    ]
    rows = [rows[i] for i in np.linspace(0, len(rows) - 1, min(IMAGES, len(rows))).round().astype(int)]
    images = table["image"].take(rows).to_pylist()
    return [one["bytes"] for one in images], [texts[i] for i in rows], [captions[i] for i in rows if captions]


def score(name: str, path: Path, scorer: DescScorer) -> Scored:
    """Score every image of a set with every text."""
    files, texts, captions = read(path)
    images = image_features(scorer, files)
    encoded = scorer.encoder.tokenized([scorer.tokenize(text) for text in texts])
    told = [scorer.tokenize(caption) for caption in captions if caption]
    cosines = images @ encoded.features.T
    purpose = scorer.model.purpose
    percentiles = None if purpose is None else purpose.percentile(cosines.flatten())
    if percentiles is None or encoded.probabilities is None:
        raise UsageError(f"model {scorer.model.name}: has no comparison descriptions")
    caption_values = scorer.encoder.tokenized(told).probabilities if told else torch.empty(0)
    assert caption_values is not None
    shift = np.random.default_rng(0).integers(1, len(files), len(files))
    return Scored(
        name,
        cosines.numpy(),
        percentiles.view(cosines.shape).numpy(),
        (np.arange(len(files)) + shift) % len(files),
        encoded.probabilities.numpy(),
        caption_values.numpy(),
    )


def measure(data: Scored, limits: Thresholds) -> dict[str, Any]:
    """How often each judgment finds what is wrong, and what is right, at the thresholds and at others."""
    rows = np.arange(len(data.cosines))
    right, wrong = data.percentiles[rows, rows], data.percentiles[rows, data.other]
    swapped, clean = swap_gains(data, limits.percentile)
    return {
        "name": data.name,
        "images": len(rows),
        "wrong": _judgment(-wrong, -right, -limits.percentile, [-value for value in PERCENTILES]),
        "swapped": _judgment(swapped, clean, limits.margin, MARGINS),
        "captions": _judgment(
            -data.captions,
            -data.descriptions,
            -limits.description_probability,
            [-one for one in PROBABILITIES],
        ),
    }


def _judgment(bad: Array, good: Array, limit: float, others: Sequence[float]) -> dict[str, Any]:
    """Shares of bad and good cases over a limit."""
    return {
        "found": _share(bad > limit),
        "false": _share(good > limit),
        "curve": [
            {"limit": abs(value), "found": _share(bad > value), "false": _share(good > value)}
            for value in others
        ],
    }


def _share(hits: Array) -> dict[str, float] | None:
    if not len(hits):
        return None
    low, high = wilson(float(hits.mean()), len(hits))
    return {"value": float(hits.mean()), "low": low, "high": high, "n": len(hits)}


def swap_gains(data: Scored, percentile: float) -> tuple[Array, Array]:
    """What P02 sees of each image on a page of :data:`PAGE`, with the next one's text, and with its own.

    percentile: the threshold of P01, which both texts must reach after they changed places.

    Returns the greatest margin at which the rule still finds the image, ``(n,)`` each; less than 0 for never.
    """
    pages = np.array_split(
        np.random.default_rng(1).permutation(len(data.cosines)), max(1, len(data.cosines) // PAGE)
    )
    swapped, clean = [], []
    for page in pages:
        for place in range(len(page)):
            texts = page.copy()
            clean.append(_gain(data, page, texts, place, percentile))
            other = (place + 1) % len(page)
            texts[[place, other]] = texts[[other, place]]
            swapped.append(_gain(data, page, texts, place, percentile))
    return np.array(swapped), np.array(clean)


def _gain(data: Scored, page: Array, texts: Array, place: int, percentile: float) -> float:
    """The margin by which the rule finds the image at ``place``; -1 if it finds nothing at any."""
    cosines, percentiles = (values[np.ix_(page, texts)] for values in (data.cosines, data.percentiles))
    values = {(int(i), int(j)): float(cosines[i, j]) for i, j in np.ndindex(cosines.shape)}
    fitting = {step for step in values if percentiles[step] >= percentile}
    found = find_swaps([ImageUse("page")] * len(page), values, fitting, Thresholds(0, 0, 0))
    if place not in found:
        return -1.0
    own = cosines[place, place] + np.diag(cosines)
    gains = cosines[place] + cosines[:, place] - own
    both = (cosines[place] > cosines[place, place]) & (cosines[:, place] > np.diag(cosines))
    both &= (percentiles[place] >= percentile) & (percentiles[:, place] >= percentile)
    return float(gains[both].max())


def calibrate(sets: Sequence[Scored]) -> Thresholds:
    """The thresholds at which no set has more false alarms than :data:`FALSE_ALARMS`."""

    def within(values: Sequence[float], share: Callable[[Scored, float], float]) -> float:
        fitting = [value for value in values if all(share(one, value) <= FALSE_ALARMS for one in sets)]
        return fitting[0] if fitting else values[-1]

    percentile = within(PERCENTILES[::-1], lambda one, p: float((np.diag(one.percentiles) < p).mean()))
    gains = {one.name: swap_gains(one, percentile)[1] for one in sets}
    return Thresholds(
        percentile=percentile,
        margin=within(MARGINS, lambda one, margin: float((gains[one.name] > margin).mean())),
        description_probability=within(
            PROBABILITIES[::-1], lambda one, p: float((one.descriptions < p).mean())
        ),
    )


RATES = Part("audit.json", "audit_rules.md", "rates", lambda measured: render("audit", **measured))


def results(
    scorer: DescScorer, limits: Thresholds, set_on: Sequence[Scored], tested: Sequence[Scored]
) -> Json:
    """The content of ``audit.json``."""
    return {
        "signature": scorer.signature,
        "false_alarms": FALSE_ALARMS,
        "page": PAGE,
        "thresholds": asdict(limits),
        "calibration": [measure(one, limits) for one in set_on],
        "test": [measure(one, limits) for one in tested],
    }


@click.command()
@folder_argument
@data_option
def main(folder: Path, data: Path) -> None:
    """Set the thresholds, and write FOLDER/audit.json and the part of the page there."""
    scorer = DescScorer.from_pretrained(device="cpu")
    files = {
        "Flickr8k `val`": data / "flickr8k/val.parquet",
        "OpenStax training books": data / "openstax/train.parquet",
        "Flickr8k `test`": data / "flickr8k/test.parquet",
        "OpenStax `test`": data / "openstax/test.parquet",
    }
    sets = [score(name, path, scorer) for name, path in files.items()]
    limits = calibrate(sets[:2])
    content = results(scorer, limits, sets[:2], sets[2:])
    RATES.write(content, folder)
    write_json(asdict(limits), THRESHOLDS)
    click.echo(RATES.markdown(content))


if __name__ == "__main__":
    main()
