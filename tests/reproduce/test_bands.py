"""What bands of percentiles hold, counted by hand on a made-up adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
from explained import explained_adapter

from conftest import make_photo
from descscore import DescScorer
from descscore.errors import UsageError
from descscore.eval.quality import TextsOfImages
from reproduce.bands import BANDS_PART, measure_bands


def test_every_pair_is_counted_in_its_band(tiny_folder: Path, tmp_path: Path) -> None:
    photos = [make_photo(tmp_path / f"{seed}.png", seed) for seed in range(4)]
    texts = ["A cat.", "Two boats.", "Grace Hopper, 1984", "A red car stands at a gate.", "A dog runs."]
    source = TextsOfImages(photos, texts, [0, 0, 1, 2, 3])
    scorer = DescScorer.from_pretrained(explained_adapter(tiny_folder, tmp_path / "adapter"), device="cpu")
    measured = measure_bands(scorer, source)
    expected: dict[str, list[str]] = {"right": [], "wrong": []}
    for photo in range(4):
        for text, owner in zip(texts, source.owner, strict=True):
            band = scorer.score(photos[photo], text).band
            assert band is not None
            expected["right" if owner == photo else "wrong"].append(band.name)
    for row in measured["bands"]:
        for kind, names in expected.items():
            assert row[kind] == pytest.approx(names.count(row["name"]) / len(names))
    assert (measured["images"], measured["texts"]) == (4, 5)
    assert "| good | 50 to 100 |" in BANDS_PART.markdown(measured)
    with pytest.raises(UsageError, match="no comparison descriptions"):
        measure_bands(DescScorer.from_pretrained(tiny_folder, device="cpu"), source)
