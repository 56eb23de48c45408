"""What training costs: made-up texts have the promised lengths, and all ways do the work they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from click.testing import CliRunner

from descscore.errors import UsageError
from descscore.text_tower import encode_tokens, end_positions
from descscore.training.experiments import cost_ways
from descscore.training.experiments.cost import main
from descscore.training.experiments.cost_page import DATA_FILE, PAGE_FILE, measured, put_together
from descscore.training.experiments.cost_ways import COMPARISON, WAYS, Setting, made_up, make_way
from descscore.training.plan import Batch
from descscore.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def tiny(tiny_folder: Path) -> open_clip.CLIP:
    return cost_ways.random_model(Setting(str(tiny_folder), CPU))


def test_made_up_texts_are_as_long_as_concadias(tiny: open_clip.CLIP) -> None:
    data = made_up(tiny, 500)
    lengths = (end_positions(tiny, data.tokens) + 1).double()
    assert 19 < float(lengths.mean()) < 21
    assert int(lengths.min()) >= 3
    assert int(lengths.max()) <= 77
    for row, length in zip(data.tokens, lengths.long().tolist(), strict=True):
        assert row[0] == 49406
        assert row[length - 1] == 49407
        assert (row[length:] == 0).all()
        assert (row[1 : length - 1] < 49406).all()
    assert torch.equal(data.tokens, made_up(tiny, 500).tokens)


def test_the_comparison_runs_the_same_texts_at_full_context(tiny: open_clip.CLIP) -> None:
    tokens = made_up(tiny, 6).tokens
    with torch.no_grad():
        whole, short = cost_ways.full_context(tiny, tokens), encode_tokens(tiny, tokens)
    torch.testing.assert_close(whole, short, rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match="rows of 30 tokens, not 77"):
        cost_ways.full_context(tiny, tokens[:, :30])


def watched(name: str, folder: Path, steps: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What one way runs: images, positions of the first text block, and its trained weights at the end."""
    made: list[Trainer] = []
    real = cost_ways._trainer

    def trainer(*args: Any) -> Trainer:
        made.append(real(*args))
        return made[0]

    monkeypatch.setattr(cost_ways, "_trainer", trainer)
    way = make_way(name, Setting(str(folder), CPU))
    clip, seen = made[0].objective.clip, {"images": 0, "positions": 0}

    def note(what: str) -> Any:
        def hook(_: Any, given: tuple[torch.Tensor, ...]) -> None:
            seen[what] += given[0].shape[:-1].numel() if what == "positions" else len(given[0])

        return hook

    clip.visual.register_forward_pre_hook(note("images"))
    clip.transformer.resblocks[0].mlp.register_forward_pre_hook(note("positions"))
    for i in range(steps):
        way.step(i)
    trained = {n: p.detach().clone() for n, p in made[0].parameters.items()}
    return {"pairs": way.pairs, "trained": trained, **seen}


def test_each_way_runs_what_it_says(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for name in WAYS:
        with monkeypatch.context() as patch:
            found[name] = watched(name, tiny_folder, 3, patch)
    assert {way["pairs"] for way in found.values()} == {6}
    both = found[COMPARISON]
    assert (both["images"], both["positions"]) == (3 * 6, 3 * 12 * 77)
    cached, das, drawn = (found[name] for name in WAYS if name != COMPARISON)
    assert cached["images"] == das["images"] == drawn["images"] == 0
    assert cached["positions"] == das["positions"]
    assert 3 * 12 * 15 < cached["positions"] < 3 * 12 * 25
    assert 1.6 < drawn["positions"] / das["positions"] < 2.4
    assert cached["trained"].keys() == both["trained"].keys()
    for name, value in both["trained"].items():
        assert value.shape == cached["trained"][name].shape


def test_the_comparison_has_the_gradients_of_the_preset(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same loss, same trained weights: with the same image features, gradients differ by rounding alone."""
    setting = Setting(str(tiny_folder), CPU)
    plain, ours = (cost_ways._trainer("bft-lora", False, setting) for _ in range(2))
    pairs, none = torch.arange(6), torch.arange(0)
    ours._one_step(Batch(pairs, none, none), ours.train_set)
    monkeypatch.setattr(cost_ways, "_trainer", lambda *args: plain)
    monkeypatch.setattr(open_clip.CLIP, "encode_image", lambda self, pixels: plain.train_set.images[pairs])
    make_way(COMPARISON, setting).step(0)
    moved = 0
    for name, parameter in ours.parameters.items():
        expected = plain.parameters[name].grad
        assert expected is not None
        moved += bool(expected.abs().max() > 1e-6)
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-7)
    assert moved >= len(ours.parameters) // 2  # one matrix of each pair starts at zero


def test_a_model_that_nobody_knows_is_named() -> None:
    with pytest.raises(UsageError, match="'ViT-Z'"):
        cost_ways.random_model(Setting("ViT-Z", CPU))


def test_the_command_measures_every_way_and_keeps_other_runs(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / PAGE_FILE).write_text("A\n<!-- cost -->\nold\n<!-- /cost -->\nB\n")
    known = [one_run(device="cuda", batch_size=384), one_run(machine="to be replaced", batch_size=4)]
    (tmp_path / DATA_FILE).write_text(json.dumps({"runs": known}))
    options = ["--model", str(tiny_folder), "--batch-size", "4", "--rounds", "2", "--steps", "1"]
    done = CliRunner().invoke(main, [*options, "--device", "cpu", "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / DATA_FILE).read_text())["runs"]
    assert [(run["device"], run["batch_size"]) for run in found] == [("cpu", 4), ("cuda", 384)]
    assert json.loads(done.stdout)["runs"] == found[:1]
    ways = found[0]["ways"]
    assert [way["name"] for way in ways] == list(WAYS)
    assert all(way["seconds_per_1000"] > 0 and 0.1 < way["peak_gib"] < 8 for way in ways)
    for way in ways:
        times = ways[-1]["seconds_per_1000"] / way["seconds_per_1000"]
        assert way["times_faster"] == pytest.approx(times)
        less = ways[-1]["gflop_a_pair"] / way["gflop_a_pair"]
        assert way["times_less_work"] == pytest.approx(less)
        assert less >= 1
    # Both towers multiply at least what one pass of the texts at full context does, and its gradients.
    assert ways[-1]["gflop_a_pair"] > 2 * ways[0]["gflop_a_pair"]
    page = (tmp_path / PAGE_FILE).read_text()
    assert page == f"A\n<!-- cost -->\n{measured({'runs': found})}<!-- /cost -->\nB\n"


def test_another_machines_file_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / PAGE_FILE).write_text("<!-- cost -->\n<!-- /cost -->\n")
    (tmp_path / "theirs.json").write_text(json.dumps({"runs": [one_run(device="cuda")]}))
    done = CliRunner().invoke(main, ["--add", str(tmp_path / "theirs.json"), "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / DATA_FILE).read_text())["runs"] == [one_run(device="cuda")]
    assert "A machine" in (tmp_path / PAGE_FILE).read_text()


def one_run(**changes: Any) -> dict[str, Any]:
    ways = [
        {
            "name": name,
            "seconds_per_1000": seconds,
            "times_faster": 200 / seconds,
            "gflop_a_pair": seconds / 10,
            "times_less_work": 200 / seconds,
            "peak_gib": 1.234,
        }
        for name, seconds in zip(WAYS, (38.04, 42.0, 80.0, 200.0), strict=True)
    ]
    about = {"model": "ViT-B-32", "machine": "A machine", "device": "cpu", "threads": 2, "precision": "no"}
    return {**about, "batch_size": 12, "rounds": 9, "steps": 3, "ways": ways, **changes}


def test_the_page_shows_what_was_measured_and_tells_a_goal_that_is_missed() -> None:
    shown = measured({"runs": [one_run(), one_run(device="cuda", precision="bf16", machine="A card")]})
    lines = shown.splitlines()
    assert "| 12 | float32 | bft-lora | 38.0 | 5.3 | 3.8 | 5.3 | 1.23 GiB |" in lines
    assert "| 12 | float32 | das-lora, one pass | 42.0 | 4.8 (aimed at: 5) | 4.2 | 4.8 | 1.23 GiB |" in lines
    drawn = "das-lora, texts drawn as published"
    assert f"| 12 | float32 | {drawn} | 80.0 | 2.5 | 8.0 | 2.5 | 1.23 GiB |" in lines
    assert "| 12 | float32 | both towers, full context | 200 |  | 20.0 |  | 1.23 GiB |" in lines
    assert "| 12 | bfloat16 | das-lora, one pass | 42.0 | 4.8 | 4.2 | 4.8 | 1.23 GiB |" in lines
    assert shown.index("A machine, 2 threads; medians of 9 rounds of 3 steps.") < shown.index("bfloat16")
    assert shown.rstrip().endswith("A card, 2 threads; medians of 9 rounds of 3 steps.")


def test_runs_of_the_same_setting_are_replaced_and_the_order_is_fixed() -> None:
    old = [one_run(), one_run(device="cuda"), one_run(batch_size=384)]
    new = one_run(machine="newer")
    assert put_together(old, [new]) == [new, old[2], old[1]]
    assert put_together([], [*reversed(old)]) == put_together([], old)
