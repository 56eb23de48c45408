"""What training costs: made-up texts have the promised lengths, and all ways do the work they say."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from click.testing import CliRunner

from descscore.errors import DataError, DescscoreError, UsageError
from descscore.eval.timing import random_clip
from descscore.towers.text import end_positions
from descscore.training.data import EpochPlan
from descscore.training.trainer import Trainer
from reproduce import cost
from reproduce.cost import (
    COMPARISON,
    PART,
    WAYS,
    Setting,
    made_up,
    main,
    make_way,
    merge_runs,
    scored_images,
    to_markdown,
)

CPU = torch.device("cpu")


@pytest.fixture
def tiny(tiny_folder: Path) -> open_clip.CLIP:
    return random_clip(str(tiny_folder), CPU)


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


def watched(name: str, folder: Path, steps: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a way runs: images, positions of the first and the last text block, and its trained weights."""
    made: list[Trainer] = []
    real = cost._trainer

    def trainer(*args: Any) -> Trainer:
        made.append(real(*args))
        return made[0]

    monkeypatch.setattr(cost, "_trainer", trainer)
    way = make_way(name, Setting(str(folder), CPU))
    clip, seen = made[0].objective.clip, {"images": 0, "first": 0, "last": 0}

    def note(what: str) -> Any:
        def hook(_: Any, given: tuple[torch.Tensor, ...]) -> None:
            seen[what] += len(given[0]) if what == "images" else given[0].shape[:-1].numel()

        return hook

    clip.visual.register_forward_pre_hook(note("images"))
    clip.transformer.resblocks[0].mlp.register_forward_pre_hook(note("first"))
    clip.transformer.resblocks[-1].mlp.register_forward_pre_hook(note("last"))
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
    (bft, das, drawn), plain = (found[name] for name in COMPARISON), [found[n] for n in COMPARISON.values()]
    assert [way["images"] for way in (bft, das, drawn)] == [0, 0, 0]
    assert bft["first"] == das["first"]
    assert 3 * 12 * 15 < bft["first"] < 3 * 12 * 25
    assert 1.6 < drawn["first"] / das["first"] < 2.4
    assert [way["last"] for way in (bft, das)] == [3 * 12, 3 * 24]
    # Plainly, images of 6 pairs, or of 12 texts drawn, of which few come twice; and texts padded.
    assert [way["images"] for way in plain[:2]] == [3 * 6, 3 * 6]
    assert 3 * 10 <= plain[2]["images"] <= 3 * 12
    assert [way["first"] for way in plain[:2]] == [3 * 12 * 77, 3 * 12 * 77]
    assert 3 * 20 * 77 <= plain[2]["first"] <= 3 * 24 * 77
    assert [way["last"] - way["first"] for way in plain] == [0, 3 * 12 * 77, 3 * 12 * 77]
    for name, other in COMPARISON.items():
        trained = found[name]["trained"]
        shapes = {key: value.shape for key, value in trained.items()}
        assert shapes == {key: value.shape for key, value in found[other]["trained"].items()}


@pytest.mark.parametrize("name", COMPARISON)
def test_the_comparison_has_the_gradients_of_the_way_itself(
    name: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same loss, same trained weights: with the same image features, gradients differ by rounding alone."""
    made: list[Trainer] = []
    real = cost._trainer

    def trainer(*args: Any) -> Trainer:
        made.append(real(*args))
        return made[-1]

    monkeypatch.setattr(cost, "_trainer", trainer)
    setting = Setting(str(tiny_folder), CPU)
    make_way(name, setting).step(0)
    way = make_way(COMPARISON[name], setting)
    ours, plain = made
    rows = scored_images(EpochPlan(plain.train_set, plain.config, 0).batch(0), len(plain.train_set))
    stored = plain.train_set.images[rows]
    monkeypatch.setattr(open_clip.CLIP, "encode_image", lambda self, pixels: stored[: len(pixels)])
    way.step(0)
    moved = 0
    for key, parameter in ours.parameters.items():
        expected = plain.parameters[key].grad
        assert expected is not None
        moved += bool(expected.abs().max() > 1e-6)
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-7)
    assert moved >= len(ours.parameters) // 2  # one matrix of each pair starts at zero


def test_a_model_that_nobody_knows_is_named() -> None:
    with pytest.raises(UsageError, match="'ViT-Z'"):
        random_clip("ViT-Z", CPU)


@pytest.mark.long
def test_the_command_measures_every_way_and_keeps_other_runs(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    multiprocessing.set_forkserver_preload(["reproduce.cost"])
    monkeypatch.setattr(cost, "OWN_PROCESS", "forkserver")  # six processes that need not load torch again
    (tmp_path / PART.page).write_text("A\n<!-- cost -->\nold\n<!-- /cost -->\nB\n")
    known = [one_run(device="cuda", batch_size=384), one_run(machine="to be replaced", batch_size=4)]
    (tmp_path / PART.data).write_text(json.dumps({"runs": known}))
    options = ["--model", str(tiny_folder), "--batch-size", "4", "--rounds", "2", "--steps", "1"]
    done = CliRunner().invoke(main, [*options, "--device", "cpu", "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / PART.data).read_text())["runs"]
    assert [(run["device"], run["batch_size"]) for run in found] == [("cpu", 4), ("cuda", 384)]
    assert json.loads(done.stdout)["runs"] == found[:1]
    ways = found[0]["ways"]
    assert tuple(way["name"] for way in ways) == WAYS
    assert all(way["seconds_per_1000"] > 0 and 0.1 < way["peak_gib"] < 8 for way in ways)
    by_name = {way["name"]: way for way in ways}
    for way in ways:
        other = by_name[COMPARISON.get(way["name"], way["name"])]
        assert way["times_faster"] == pytest.approx(other["seconds_per_1000"] / way["seconds_per_1000"])
        assert way["times_less_work"] == pytest.approx(other["gflop_a_pair"] / way["gflop_a_pair"])
        # Both towers multiply at least what one pass of the texts at full context does, and its gradients.
        assert way["times_less_work"] > 2 or way is other
    page = (tmp_path / PART.page).read_text()
    assert page == f"A\n<!-- cost -->\n{to_markdown({'runs': found})}<!-- /cost -->\nB\n"


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_file_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setattr(cost, "measure", lambda *_: pytest.fail("measured"))
    (tmp_path / PART.data).write_text(content)
    with pytest.raises(DataError, match=PART.data):
        main(["--device", "cpu", "--output", str(tmp_path)], standalone_mode=False)


def die(name: str, setting: Setting) -> float:
    os._exit(1)


@pytest.mark.long
def test_a_measuring_process_that_dies_is_an_error_that_names_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cost, "OWN_PROCESS", "forkserver")
    monkeypatch.setattr(cost, "_own_peak", die)
    with pytest.raises(DescscoreError, match="memory of 'bft-lora' could not be measured"):
        cost.measure(Setting("ViT-B-32", CPU), 1, 1)


def one_run(**changes: Any) -> dict[str, Any]:
    seconds = dict(zip(WAYS, (38.04, 42.0, 80.0, 200.0, 200.0, 400.0), strict=True))
    ways = [
        {
            "name": name,
            "seconds_per_1000": own,
            "times_faster": seconds[COMPARISON.get(name, name)] / own,
            "gflop_a_pair": own / 10,
            "times_less_work": seconds[COMPARISON.get(name, name)] / own,
            "peak_gib": 1.234,
        }
        for name, own in seconds.items()
    ]
    about = {"model": "ViT-B-32", "machine": "A machine", "device": "cpu", "threads": 2, "precision": "no"}
    return {**about, "batch_size": 12, "rounds": 9, "steps": 3, "ways": ways, **changes}


def test_the_page_shows_what_was_measured_and_tells_a_goal_that_is_missed() -> None:
    shown = to_markdown({"runs": [one_run(), one_run(device="cuda", precision="bf16", machine="A card")]})
    lines = shown.splitlines()
    assert "| 12 | float32 | bft-lora | 38.0 | 5.3 | 3.8 | 5.3 | 1.23 GiB |" in lines
    assert "| 12 | float32 | das-lora, one pass | 42.0 | 4.8 (aimed at: 5) | 4.2 | 4.8 | 1.23 GiB |" in lines
    drawn = "das-lora, texts drawn as published"
    assert f"| 12 | float32 | {drawn} | 80.0 | 5.0 | 8.0 | 5.0 | 1.23 GiB |" in lines
    assert f"| 12 | float32 | {drawn}; both towers, full context | 400 |  | 40.0 |  | 1.23 GiB |" in lines
    assert "| 12 | bfloat16 | das-lora, one pass | 42.0 | 4.8 | 4.2 | 4.8 | 1.23 GiB |" in lines
    assert shown.index("A machine, 2 threads; medians of 9 rounds of 3 steps.") < shown.index("bfloat16")
    assert shown.rstrip().endswith("A card, 2 threads; medians of 9 rounds of 3 steps.")


def test_runs_of_the_same_setting_are_replaced_and_the_order_is_fixed() -> None:
    old = [one_run(), one_run(device="cuda"), one_run(batch_size=384)]
    new = one_run(machine="newer")
    assert merge_runs(old, [new]) == [new, old[2], old[1]]
    assert merge_runs([], [*reversed(old)]) == merge_runs([], old)
