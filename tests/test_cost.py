"""What training costs: made-up texts have the promised lengths, and both ways do the same work."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from click.testing import CliRunner

from conftest import TINY
from descscore.text_tower import encode_tokens, end_positions
from descscore.training.experiments import cost


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> open_clip.CLIP:
    def random(model: str, device: torch.device) -> open_clip.CLIP:
        torch.manual_seed(0)
        return open_clip.CLIP(**TINY["model_cfg"]).to(device)

    monkeypatch.setattr(cost, "_random", random)
    return random("", torch.device("cpu"))


def test_made_up_texts_are_as_long_as_concadias(tiny: open_clip.CLIP) -> None:
    data = cost.made_up(tiny, 500)
    lengths = (end_positions(tiny, data.tokens) + 1).double()
    assert 19 < float(lengths.mean()) < 21
    assert int(lengths.min()) >= 3
    assert int(lengths.max()) <= 77
    for row, length in zip(data.tokens, lengths.long().tolist(), strict=True):
        assert row[0] == 49406
        assert row[length - 1] == 49407
        assert (row[length:] == 0).all()
        assert (row[1 : length - 1] < 49406).all()
    assert torch.equal(data.tokens, cost.made_up(tiny, 500).tokens)


def test_the_comparison_runs_the_same_texts_at_full_context(tiny: open_clip.CLIP) -> None:
    tokens = cost.made_up(tiny, 6).tokens
    with torch.no_grad():
        torch.testing.assert_close(
            cost._full_context(tiny, tokens), encode_tokens(tiny, tokens), rtol=0, atol=2e-5
        )


@pytest.mark.usefixtures("tiny")
def test_the_command_reports_each_way_and_the_ratio() -> None:
    done = CliRunner().invoke(cost.main, ["--steps", "2"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [row["what"].split(",")[0] for row in found["costs"]] == ["bft-lora", "das-lora", "bft-lora"]
    assert all(row["seconds_per_1000"] > 0 and row["peak_gib"] > 0 for row in found["costs"])
    first, last = found["costs"][0], found["costs"][-1]
    assert found["times_faster"] == pytest.approx(last["seconds_per_1000"] / first["seconds_per_1000"])
