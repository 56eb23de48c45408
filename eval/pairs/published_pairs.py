"""The published CLIPScore of the 300 Concadia pairs (Kreiss et al. 2022), joined with the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from descscore.data.pairs import Pair
from descscore.errors import DataError
from descscore.eval.csv_tables import named, read_rows, text_key
from descscore.eval.pairs.preference import PairScores
from descscore.eval.statistics.correlation import Array

FILES = {
    "description": "published_clipscore_concadia_descriptions.csv",
    "caption": "published_clipscore_concadia_captions.csv",
}
NAME = "CLIPScore"


def published_pair_scores(folder: Path, pairs: Sequence[Pair]) -> PairScores:
    """CLIPScore of OpenAI's ViT-B/32, computed with the prefix "A photo depicts".

    folder: holds :data:`FILES`. There are no scores of other images' descriptions.
    Raises :class:`DataError` that names pairs without a score or with another text.
    """
    description, caption = (_scores(folder / file, pairs, kind) for kind, file in FILES.items())
    return PairScores(NAME, description, caption, None)


def _scores(path: Path, pairs: Sequence[Pair], kind: str) -> Array:
    """The score of each pair's text of that kind: ``(n,)``."""
    known: dict[tuple[str, str], float] = {}
    for row in read_rows(path, ("imgstem_version", "texts", "clipscore")):
        value = row.number("clipscore")
        if value is None:
            raise DataError(f"{row.place}: clipscore is blank")
        known[row["imgstem_version"], text_key(row["texts"])] = value
    keys = [(Path(pair.id).stem, text_key(getattr(pair, kind))) for pair in pairs]
    missing = [stem for stem, text in keys if (stem, text) not in known]
    if missing:
        raise DataError(
            f"{path}: no score of the {kind} of {len(missing)} of {len(pairs)} pairs, {named(missing)}"
        )
    return np.array([known[key] for key in keys])
