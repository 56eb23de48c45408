"""The two texts without words that word parts may start from, on a made-up adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from descscore import DescScorer
from descscore.errors import UsageError
from descscore.tables.open import DataOptions, load_pairs
from descscore.towers.text import run_to_block
from report_data import make_adapter, make_concadia
from reproduce.attribution_starts import STARTS, measure_starts


def test_each_start_has_the_log_odds_of_its_text_without_words(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "kreiss2022").mkdir()
    make_concadia(tmp_path)
    pairs = load_pairs(tmp_path / "concadia", DataOptions(keep_equal=True)).split("test")[:2]
    scorer = DescScorer.from_pretrained(make_adapter(tiny_folder, tmp_path / "adapter"), device="cpu")
    measured = measure_starts(scorer, pairs)
    purpose, tokenizer = scorer.model.purpose, scorer.model.tokenizer
    assert purpose is not None
    odds = []
    for text in (text for pair in pairs for text in (pair.description, pair.caption)):
        first, *words, end = tokenizer.tokenize(text.removesuffix(".")).rows[0]
        empty = torch.tensor([[first, *(0 for _ in words), end]])
        with torch.no_grad():
            odds.append(float(purpose.log_odds(run_to_block(scorer.model.clip, empty, 2).state)))
    padding, ends = measured["starts"]
    assert padding["filler"] == "padding"
    assert padding["log_odds"]["mean"] == pytest.approx(sum(odds) / 4, abs=1e-4)
    assert ends["log_odds"]["mean"] != pytest.approx(padding["log_odds"]["mean"], abs=1e-4)
    assert measured["texts"] == 4
    assert "| end tokens |" in STARTS.markdown(measured)
    with pytest.raises(UsageError, match="no purpose read-out"):
        measure_starts(DescScorer.from_pretrained(tiny_folder, device="cpu"), pairs)
