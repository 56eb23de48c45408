"""Fine-tuning: it learns, goes on after a kill to the same weights, and loses nothing to bad luck."""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from conftest import TINY, save_model
from descscore import DescScorer
from descscore.cli import main
from descscore.errors import DataError, DescscoreError, UsageError
from descscore.models import load_model
from descscore.tables.open import load_pairs
from descscore.training import checkpoint, trainer
from descscore.training.config import FinetuneConfig, Tower, preset
from descscore.training.data import Batch, EpochPlan, Examples, Vocabulary, make_examples, with_endings
from descscore.training.objective import (
    SHORT,
    Objective,
    TextRuns,
    Untuned,
    encode,
    run_batch,
    unit_features,
    validate,
)
from descscore.training.trainer import RunData, Trainer

COLOURS, NAMES = ("red", "green", "blue", "white"), ("Ada", "Grace", "Alan", "Kurt")


def write_pairs(path: Path, n: int = 24) -> Path:
    """A table whose descriptions and captions differ in their words, with random pictures."""
    rng, rows = np.random.default_rng(0), []
    for i in range(n):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(out, "png")
        rows.append(
            {
                "image": {"bytes": out.getvalue(), "path": f"{i}.png"},
                "description": f"A {COLOURS[i % 4]} shape number {i} stands on a table.",
                "caption": f"{NAMES[i % 4]}, {1900 + i}",
                "split": "train" if i < 2 * n // 3 else "val",
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base"), TINY)


@pytest.fixture(scope="module")
def data(base: Path, tmp_path_factory: pytest.TempPathFactory) -> RunData:
    folder = tmp_path_factory.mktemp("data")
    pairs = load_pairs(write_pairs(folder / "pairs.parquet"))
    model = load_model(base, "cpu")
    train, validation = (make_examples(model, pairs.split(s), folder / "cache") for s in ("train", "val"))
    return RunData(train, validation)


@pytest.fixture
def few_words(data: RunData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only words of the data are swapped: the neighbours of all 49,408 tokens take seconds."""
    real = trainer.read_vocabulary

    def read(tokenizer: Any, size: int) -> Vocabulary:
        vocabulary, known = real(tokenizer, size), torch.zeros(size, dtype=torch.bool)
        known[data.train.tokens.unique()] = True
        return replace(vocabulary, spells=vocabulary.spells & known)

    monkeypatch.setattr(trainer, "read_vocabulary", read)


def config(name: str = "das-lora", **changes: Any) -> FinetuneConfig:
    start = preset(name, Tower(32, 4))
    small = {"epochs": 3, "batch_size": 8, "validate_every": 4, "save_every": 3, "learning_rate": 3e-3}
    return replace(start, **{**small, **changes})


def make(base: Path, data: RunData, folder: Path, settings: FinetuneConfig) -> Trainer:
    return Trainer(load_model(base, "cpu").clip, data, settings, folder)


def same(one: Trainer, other: Trainer) -> bool:
    mine, yours = one.weights(), other.weights()
    return mine.keys() == yours.keys() and all(torch.equal(mine[k], yours[k]) for k in mine)


class Killed(BaseException):
    """As a signal would: not an ordinary error that anything could catch."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    real = Trainer.take_step

    def one_step(self: Trainer, *batch: Any) -> Any:
        if self.step == step:
            raise Killed
        return real(self, *batch)

    monkeypatch.setattr(Trainer, "take_step", one_step)


@pytest.mark.usefixtures("few_words")
@pytest.mark.parametrize(
    "name",
    ["joint", *(pytest.param(name, marks=pytest.mark.long) for name in ("das-lora", "bft-lora", "das-full"))],
)
def test_a_killed_run_ends_with_the_same_weights(
    base: Path, data: RunData, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    thin = {
        "text_window": 10,
        "token_dropout": 0.1,
        "word_swap": 0.3,
        "schedule": "linear",
        "interpolation": 0.7,
        "neither_weight": 0.5,
        "caption_weight": 0.5,
        "ending_weight": 0.5,
    }
    thin = thin if name == "joint" else {}
    settings = config(name, contrastive_weight=0.5, hold_weight=0.5, spread_weight=0.5, **thin)
    whole = make(base, data, tmp_path / "whole", settings)
    whole.train()
    killed = make(base, data, tmp_path / "killed", settings)
    with monkeypatch.context() as patch:
        kill_at(patch, 8)
        with pytest.raises(Killed):
            killed.train()
    again = make(base, data, tmp_path / "killed", settings)
    assert again.step == 6
    again.train()
    assert same(whole, again)
    drop = ("seconds",)
    lines = [[{k: v for k, v in line.items() if k not in drop} for line in t.history] for t in (whole, again)]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    assert lines[0][-1]["validation_score"] == lines[1][-1]["validation_score"]


@pytest.mark.parametrize("name", ["bft-lora", "bft-full", "das-lora", "joint"])
def test_it_learns(base: Path, data: RunData, tmp_path: Path, name: str) -> None:
    run = make(base, data, tmp_path, config(name, epochs=12, validate_every=1000))
    run.train()
    first = make(base, data, tmp_path / "untrained", config(name, epochs=1))
    before = validate(first.objective, run.train_set)
    after = validate(run.objective, run.train_set)
    assert after["loss"] < 0.8 * before["loss"]
    accuracy = "preference" if name.startswith("bft") else "interchange"
    assert after[accuracy] > 0.9


def test_it_learns_what_the_third_kind_is_and_that_a_stop_means_nothing(
    base: Path, data: RunData, tmp_path: Path
) -> None:
    asked = {"neither_weight": 2.0, "caption_weight": 0.5, "ending_weight": 2.0}
    run = make(base, data, tmp_path, config("joint", epochs=20, validate_every=1000, **asked))
    before = validate(run.objective, run.held_out)  # type: ignore[arg-type]
    assert {"empty", "jumbled", "caption_grounding"} <= before.keys()

    def moved() -> float:
        shown = with_endings(data.train, torch.Generator().manual_seed(0))
        texts, twins = (unit_features(run.objective.clip, part) for part in (shown.tokens, shown.twins))
        return float((texts - twins).detach().norm(dim=1).mean())

    at_first = moved()
    run.train()
    after = validate(run.objective, run.held_out)  # type: ignore[arg-type]
    assert after["empty"] > max(0.8, before["empty"])
    assert moved() < 0.7 * at_first


@pytest.mark.parametrize("kind", ["descriptions", "captions"])
@pytest.mark.parametrize("setting", ["hold_weight", "spread_weight"])
def test_texts_of_either_kind_are_held_near_their_untuned_selves(
    base: Path, data: RunData, kind: str, setting: str
) -> None:
    clip, rows = load_model(base, "cpu").clip, torch.arange(8)
    empty = torch.empty(0, dtype=torch.int64)

    def loss(weight: float, move: float) -> float:
        """The loss of a model that differs from its untuned self in texts of one kind."""

        def tuned(clip: Any, tokens: torch.Tensor) -> torch.Tensor:
            features, half = encode(clip, tokens), slice(0, 8) if kind == "descriptions" else slice(8, 16)
            drift = torch.zeros_like(features)
            drift[half] = move * torch.randn(8, features.shape[1], generator=torch.Generator().manual_seed(0))
            return features + features.norm() * drift

        objective = Objective(
            clip, None, config("bft-lora", **{setting: weight}), Untuned.of(clip, data.train)
        )
        runs = TextRuns(tuned, SHORT.exchange)
        with torch.no_grad():
            return float(run_batch(objective, data.train, Batch(rows, empty, empty), runs).loss)

    assert loss(1.0, 0.0) == pytest.approx(loss(0.0, 0.0), abs=1e-4)
    assert loss(1.0, 0.1) > loss(0.0, 0.1) + 1e-3


def test_the_best_weights_are_kept_not_the_last(
    base: Path, data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.2, 0.9, 0.1])
    kept: list[dict[str, torch.Tensor]] = []

    def validate(objective: Any, examples: Examples) -> dict[str, float]:
        kept.append({k: v.detach().clone() for k, v in run.weights().items()})
        return {"score": next(scores)}

    monkeypatch.setattr(trainer, "validate", validate)
    run = make(base, data, tmp_path, config("bft-lora", epochs=3))
    run.train()
    assert len(kept) == 3
    assert all(torch.equal(v, kept[1][k]) for k, v in run.weights().items())
    assert not all(torch.equal(v, kept[2][k]) for k, v in run.weights().items())


@pytest.mark.parametrize("share", [0.0, 0.8])
def test_a_share_of_the_change_is_kept(base: Path, data: RunData, tmp_path: Path, share: float) -> None:
    untrained = make(base, data, tmp_path / "none", config("das-full")).parameters
    whole = make(base, data, tmp_path / "whole", config("das-full"))
    part = make(base, data, tmp_path / "part", config("das-full", interpolation=share))
    whole.train()
    part.train()
    moved = torch.zeros(())
    for name, start in untrained.items():
        expected = start + share * (whole.parameters[name] - start)
        torch.testing.assert_close(part.parameters[name], expected, rtol=0, atol=1e-6)
        moved += (whole.parameters[name] - start).detach().abs().sum()
    assert moved > 1
    assert whole.history[-1]["validation_score"] == part.history[-1]["validation_score"]
    # Started again after its end, a run does not go back a second time.
    again = make(base, data, tmp_path / "part", config("das-full", interpolation=share))
    again.train()
    assert same(part, again)


def test_a_run_that_goes_on_counts_the_time_before_it_was_stopped(
    base: Path, data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the time of steps that no validation followed yet."""
    clock = itertools.count()
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    settings = config("bft-lora", validate_every=100)
    with monkeypatch.context() as patch:
        kill_at(patch, 8)
        with pytest.raises(Killed):
            make(base, data, tmp_path, settings).train()
    again = make(base, data, tmp_path, settings)
    assert again.step == 6
    again.train()
    assert again.seconds == again.step == 12  # by this clock, a step takes a second


def test_early_stopping(base: Path, data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.4, 0.3, 0.6])
    monkeypatch.setattr(trainer, "validate", lambda objective, examples: {"score": next(scores)})
    run = make(base, data, tmp_path, config("bft-lora", epochs=100, validate_every=2, patience=2))
    run.train()
    assert run.step == 6
    assert next(scores) == 0.6


def test_the_rotation_stays_orthogonal(base: Path, data: RunData, tmp_path: Path) -> None:
    run = make(base, data, tmp_path, config("das-lora", epochs=5))
    start = run.objective.rotation.matrix().detach().clone()  # type: ignore[union-attr]
    run.train()
    matrix = run.objective.rotation.matrix().detach()  # type: ignore[union-attr]
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(32), atol=1e-5, rtol=0)
    assert (matrix - start).abs().max() > 1e-3


def test_accumulated_parts_equal_one_batch(base: Path, data: RunData, tmp_path: Path) -> None:
    runs = [
        make(base, data, tmp_path / str(n), config("joint", accumulation=n, epochs=1, hold_weight=1.0))
        for n in (1, 4)
    ]
    for run in runs:
        run.train()
    for key, value in runs[0].weights().items():
        torch.testing.assert_close(value, runs[1].weights()[key], atol=1e-5, rtol=0)


# Failures


def test_a_loss_that_is_not_finite_names_the_last_checkpoint(
    base: Path, data: RunData, tmp_path: Path
) -> None:
    run = make(base, data, tmp_path, config(epochs=1))
    run.train()
    again = make(base, data, tmp_path / "b", config(epochs=1))
    with torch.no_grad():
        for values in again.parameters.values():  # one alone may be lost: some attention kernels skip it
            values.fill_(torch.nan)
    with pytest.raises(DescscoreError, match=r"loss is nan at step 1.*Last checkpoint: None"):
        again.train()
    assert checkpoint.latest(run.checkpoints) is not None


def test_a_full_disk_leaves_the_last_checkpoint(
    base: Path, data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config("bft-lora")
    with monkeypatch.context() as patch:
        real, calls = checkpoint.save_file, []

        def full(tensors: Any, path: Path) -> None:
            calls.append(path)
            if len(calls) > 4:
                raise OSError(28, "No space left on device")
            real(tensors, path)

        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(DataError, match=r"cannot be written.*No space left.*step-00000003"):
            make(base, data, tmp_path, settings).train()
    found = checkpoint.latest(tmp_path / "checkpoints")
    assert found is not None
    assert found.name == "step-00000003"
    assert make(base, data, tmp_path, settings).step == 3


@pytest.mark.parametrize("call", range(4))
def test_a_kill_while_saving_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    def point(value: float) -> checkpoint.Checkpoint:
        groups = {"weights": {"a": torch.tensor([value])}, "optimizer": {"b": torch.tensor([value])}}
        return checkpoint.Checkpoint(groups, {"value": value})

    checkpoint.save_checkpoint(tmp_path, 1, point(1.0))
    moments = [
        (checkpoint, "save_file", 0),
        (checkpoint, "save_file", 1),
        (os, "fsync", 0),
        (os, "replace", 0),
    ]
    owner, attribute, nth = moments[call]
    real, calls = getattr(owner, attribute), []

    def killed(*args: Any) -> Any:
        calls.append(args)
        if len(calls) > nth:
            raise Killed
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, attribute, killed)
        with pytest.raises(Killed):
            checkpoint.save_checkpoint(tmp_path, 2, point(2.0))
    found = checkpoint.latest(tmp_path)
    assert found is not None
    whole = checkpoint.load_checkpoint(found)
    assert whole.state == {"value": 1.0}
    assert float(whole.groups["optimizer"]["b"]) == 1.0
    checkpoint.save_checkpoint(tmp_path, 2, point(2.0))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000002"]


def test_a_damaged_checkpoint_is_named(base: Path, data: RunData, tmp_path: Path) -> None:
    make(base, data, tmp_path, config("bft-lora", epochs=1)).train()
    found = checkpoint.latest(tmp_path / "checkpoints")
    assert found is not None
    (found / "weights.safetensors").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=rf"{found.name}: damaged checkpoint"):
        make(base, data, tmp_path, config("bft-lora", epochs=1))


def test_other_settings_or_data_are_refused(base: Path, data: RunData, tmp_path: Path) -> None:
    make(base, data, tmp_path, config("bft-lora", epochs=1)).train()
    with pytest.raises(UsageError, match=r"other settings \(learning_rate, seed\)"):
        make(base, data, tmp_path, config("bft-lora", epochs=1, seed=1, learning_rate=1e-4))
    other = RunData(replace(data.train, images=data.train.images.flip(0)), data.validation)
    with pytest.raises(DataError, match="other data"):
        make(base, other, tmp_path, config("bft-lora", epochs=1))


def test_a_base_with_the_same_images_and_another_text_tower_is_refused(
    base: Path, data: RunData, tmp_path: Path
) -> None:
    """The low-rank updates of a checkpoint belong to one base; images and tokens would not tell it."""
    settings = config("bft-lora", epochs=1)
    make(base, data, tmp_path, settings).train()
    other = load_model(base, "cpu").clip
    with torch.no_grad():
        other.token_embedding.weight.mul_(1.5)
    with pytest.raises(UsageError, match="step-00000004: belongs to a run that started from another base"):
        Trainer(other, data, settings, tmp_path)


def test_batches_that_cannot_be_cut_are_refused(base: Path, data: RunData, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch_size"):
        make(base, data, tmp_path, config(batch_size=10, accumulation=3))


@pytest.mark.usefixtures("few_words")
def test_a_run_that_swaps_words_trains_on_other_texts(base: Path, data: RunData, tmp_path: Path) -> None:
    run = make(base, data, tmp_path / "run", config(word_swap=0.5, epochs=1))
    assert run.words is not None
    first, later = (EpochPlan(data.train, run.config, epoch, run.words).examples.tokens for epoch in (0, 1))
    for tokens in (first, later):
        share = float((tokens != data.train.tokens).double().sum() / (data.train.tokens > 0).sum())
        assert 0.02 < share < 0.3
    assert not torch.equal(first, later)


def test_swapping_words_needs_their_tokenizer(base: Path, data: RunData, tmp_path: Path) -> None:
    bare = replace(data, train=replace(data.train, tokenizer=None))
    with pytest.raises(UsageError, match=r"word_swap 0\.5: needs examples with their tokenizer"):
        make(base, bare, tmp_path, config(word_swap=0.5))


def test_a_linear_rate_falls_to_zero(base: Path, data: RunData, tmp_path: Path) -> None:
    run = make(base, data, tmp_path, config(schedule="linear", epochs=2))
    rates: list[float] = []
    step = run.optimizer.step
    run.optimizer.step = lambda: (rates.append(run.optimizer.param_groups[0]["lr"]), step())[1]
    run.train()
    expected = [3e-3 * (1 - i / run.total_steps) for i in range(run.total_steps)]
    assert rates == pytest.approx(expected)


# Several processes

TWO = """
import sys
from pathlib import Path
sys.path[:0] = {tests!r}
import torch
torch.set_num_threads(1)
from safetensors.torch import save_file
from test_trainer import config, data, load_model
from descscore.tables.open import load_pairs
from descscore.training.data import make_examples
from descscore.training.trainer import RunData
from descscore.training.trainer import Trainer

base, table, output = map(Path, sys.argv[1:])
pairs, model = load_pairs(table), load_model(base, "cpu")
sets = [make_examples(model, pairs.split(s), table.parent / "cache") for s in ("train", "val")]
weights = dict.fromkeys(["contrastive", "hold", "spread", "caption", "neither", "ending"], 0.5)
settings = config("joint", epochs=1, **{{f"{{name}}_weight": value for name, value in weights.items()}})
run = Trainer(load_model(base, "cpu").clip, RunData(*sets), settings, output)
run.train()
if run.accelerator.is_main_process:
    save_file({{k: v.detach().contiguous() for k, v in run.weights().items()}}, output / "end.safetensors")
    (output / "processes").write_text(str(run.accelerator.num_processes))
"""


@pytest.mark.long
def test_two_processes_equal_one(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    table = write_pairs(tmp_path / "pairs.parquet")
    script = tmp_path / "two.py"
    script.write_text(TWO.format(tests=[str(Path(__file__).parents[n]) for n in (0, 1)]))
    ends = []
    for count in (1, 2):
        output = tmp_path / f"run{count}"
        launch = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(count),
        ]
        command = [*launch, str(script), str(base), str(table), str(output)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        assert (output / "processes").read_text() == str(count)
        ends.append(load_file(output / "end.safetensors"))
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], atol=1e-5, rtol=0)


# The command


@pytest.mark.parametrize("name", ["das-lora", "bft-full"])
def test_train_command_makes_an_adapter_that_scores(
    base: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its messages are shown once, although open_clip gives the root logger a handler."""
    table = write_pairs(tmp_path / "pairs.parquet")
    args = ["train", "--data", str(table), "--preset", name, "--base", str(base), "--device", "cpu"]
    args += ["--output", str(tmp_path / "out"), "--epochs", "2", "--batch-size", "8"]
    result = CliRunner().invoke(main, [*args, "--learning-rate", "0.003"])
    assert result.exit_code == 0, result.output
    run = json.loads((tmp_path / "out/run.json").read_text())
    left = (
        "only the adapter"
        if "bft" in name
        else "left: cosines of 8 comparison descriptions, 3 towers of up to"
    )
    assert result.output.count(f"trained 8 steps; {left}") == 1
    assert "trained" not in caplog.text  # which is a handler of the root logger
    assert run["config"]["learning_rate"] == 0.003
    assert run["pairs"] == {"train": 16, "val": 8}
    assert {"train_loss", "train_preference" if "bft" in name else "train_interchange"} <= set(
        run["history"][-1]
    )
    assert (tmp_path / "out/curves.png").stat().st_size > 5000
    # The folder holds its base, so that it can be moved and given away.
    assert json.loads((tmp_path / "out/descscore_adapter.json").read_text())["base"] == "base_model"
    scorer = DescScorer.from_pretrained((tmp_path / "out").rename(tmp_path / "moved"), device="cpu")
    photo = np.zeros((8, 8, 3), np.uint8)
    score = scorer.score(photo, "A red shape stands on a table.")
    assert (score.description_probability is None) == (name == "bft-full")
    plain = DescScorer.from_pretrained(base, device="cpu").score(photo, "A red shape stands on a table.")
    assert score.clip_score == pytest.approx(plain.score, abs=1e-6)
    assert abs(score.cosine - plain.cosine) > 1e-4


@pytest.mark.parametrize(("folds", "warned"), [("0", ""), ("17", "too few groups for 17")])
def test_without_calibration_there_is_no_probability(
    base: Path, tmp_path: Path, folds: str, warned: str
) -> None:
    table = write_pairs(tmp_path / "pairs.parquet")
    args = ["train", "--data", str(table), "--base", str(base), "--device", "cpu", "--epochs", "1"]
    args += ["--output", str(tmp_path / "out"), "--batch-size", "8", "--calibration-folds", folds]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    assert warned in result.output
    scorer = DescScorer.from_pretrained(tmp_path / "out", device="cpu")
    score = scorer.score(np.zeros((8, 8, 3), np.uint8), "A red shape.")
    assert score.description_probability is None
    assert score.percentile is not None


def with_made_texts(path: Path, group: str | None = None) -> Path:
    """The table of :func:`write_pairs`, whose last 8 rows have the split "made", and all are grouped."""
    table = pq.read_table(write_pairs(path)).to_pylist()
    for i, row in enumerate(table):
        row["split"] = "made" if i >= 16 else "train"
        row["group"] = group if group and i >= 16 else f"book {i % 4}" if not group else f"book {i % 2}"
    pq.write_table(pa.Table.from_pylist(table), path)
    return path


def train_with(base: Path, table: Path, output: Path, *more: str) -> Any:
    args = ["train", "--data", str(table), "--base", str(base), "--device", "cpu", "--epochs", "1"]
    args += ["--output", str(output), "--batch-size", "8", "--validation-split", "", *more]
    return CliRunner().invoke(main, args)


def test_an_extra_split_is_trained_on_and_not_read(base: Path, tmp_path: Path) -> None:
    table, out = with_made_texts(tmp_path / "pairs.parquet"), tmp_path / "out"
    result = train_with(base, table, out, "--extra-split", "made", "--calibration-folds", "2")
    assert result.exit_code == 0, result.output
    assert "the read-out of 64 texts" in result.output  # 16 pairs, each with two texts of the third kind
    assert "read-out: fits on 64 texts" in result.output
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert run["steps"] == 6  # 24 pairs, two texts each, 8 texts in a step
    assert run["splits"] == {"train": "train", "extra": "made", "validation": None, "comparison": None}
    assert "extra `made`" in (out / "README.md").read_text(encoding="utf-8")
    model = load_model(out, "cpu")
    assert model.purpose is not None
    assert model.purpose.readout is not None
    assert len(model.purpose.comparison) == 16  # percentiles compare with real descriptions alone


def test_a_run_can_be_calibrated_anew_with_another_number_of_folds(base: Path, tmp_path: Path) -> None:
    """The training itself is not repeated, and the towers of the other folds are not in the way."""
    table, out = with_made_texts(tmp_path / "pairs.parquet"), tmp_path / "out"
    for folds in ("2", "3"):
        result = train_with(base, table, out, "--calibration-folds", folds)
        assert result.exit_code == 0, result.output
        assert f"tower {folds} of {folds}: trains" in result.output
    assert "resumed from" in result.output
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["calibration_folds"] == 3


def test_extra_texts_that_leave_too_few_groups_cost_the_read_out_alone(base: Path, tmp_path: Path) -> None:
    table, out = with_made_texts(tmp_path / "pairs.parquet", "one large group"), tmp_path / "out"
    result = train_with(base, table, out, "--extra-split", "made", "--calibration-folds", "2")
    assert result.exit_code == 0, result.output
    assert "too few groups for 2 calibration folds" in result.output
    scorer = DescScorer.from_pretrained(out, device="cpu")
    assert scorer.score(np.zeros((8, 8, 3), np.uint8), "A red shape.").description_probability is None


@pytest.mark.parametrize(
    ("extra", "message"),
    [("train", "extra split 'train': has another use"), ("none", "no usable pairs in split 'none'")],
)
def test_an_extra_split_that_cannot_be_is_refused(
    base: Path, tmp_path: Path, extra: str, message: str
) -> None:
    table = with_made_texts(tmp_path / "pairs.parquet")
    result = train_with(base, table, tmp_path / "out", "--extra-split", extra)
    assert result.exit_code != 0
    assert message in result.stderr


def test_missing_scikit_learn_is_told_before_training(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_pairs(tmp_path / "pairs.parquet")
    args = ["train", "--data", str(table), "--base", str(base), "--device", "cpu"]
    args += ["--output", str(tmp_path / "out")]
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "descscore.training.finetune.find_spec", lambda name: None if name == "sklearn" else find(name)
    )
    result = CliRunner().invoke(main, args)
    assert result.exit_code == UsageError.exit_code
    assert "pip install 'descscore[train]'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_lora_adapter_in_half_precision_scores_as_it_was_measured(base: Path, tmp_path: Path) -> None:
    table = write_pairs(tmp_path / "pairs.parquet")
    sizes, scores = [], []
    for name in ("float32", "float16"):
        args = ["train", "--data", str(table), "--base", str(base), "--device", "cpu", "--epochs", "2"]
        args += ["--output", str(tmp_path / name), "--batch-size", "8", "--calibration-folds", "0"]
        args += ["--learning-rate", "0.003", "--weights", name]
        assert CliRunner().invoke(main, args).exit_code == 0
        sizes.append((tmp_path / name / "adapter_model.safetensors").stat().st_size)
        scorer = DescScorer.from_pretrained(tmp_path / name, device="cpu")
        scores.append(scorer.score(np.zeros((8, 8, 3), np.uint8), "A red shape.").cosine)
    assert sizes[1] < 0.6 * sizes[0]
    assert scores[1] == pytest.approx(scores[0], abs=2e-3)


def test_train_command_names_what_is_wrong(base: Path, tmp_path: Path) -> None:
    table = write_pairs(tmp_path / "pairs.parquet")
    start = [
        "train",
        "--data",
        str(table),
        "--base",
        str(base),
        "--device",
        "cpu",
        "--output",
        str(tmp_path / "o"),
    ]
    for extra, code, mention in (
        (["--preset", "nonesuch"], 2, "'nonesuch'"),
        (["--train-split", "nonesuch"], 1, "no usable pairs in split 'nonesuch'"),
        (["--learning-rate", "0"], 2, "learning_rate"),
        (["--k", "33"], 2, "k 33"),
    ):
        result = CliRunner().invoke(main, [*start, *extra])
        assert (result.exit_code, mention in result.output) == (code, True), result.output
    (tmp_path / "plain.csv").write_text("image,description,caption\na.png,A red shape.,Rex\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    start[2] = str(tmp_path / "plain.csv")
    for chosen in ([], ["--train-split", ""]):
        message = CliRunner().invoke(main, [*start, *chosen]).output
        assert "give --train-split '' --validation-split '' to train on all pairs" in message


# Mixed precision


def test_bf16_stays_near_float32_and_the_rotation_orthogonal(
    base: Path, data: RunData, tmp_path: Path
) -> None:
    plain, mixed = (
        make(base, data, tmp_path / kind, config("joint", epochs=2, precision=kind))
        for kind in ("no", "bf16")
    )
    for run in (plain, mixed):
        run.train()
    losses = [run.history[0]["train_loss"] for run in (plain, mixed)]
    assert losses[0] == pytest.approx(losses[1], rel=0.03)
    assert losses[0] != losses[1]
    assert mixed.objective.rotation is not None
    matrix = mixed.objective.rotation.matrix()
    assert matrix.dtype == torch.float32
    assert torch.allclose(matrix @ matrix.T, torch.eye(32), atol=1e-5)
    assert {p.dtype for p in mixed.parameters.values()} == {torch.float32}


def test_fp16_without_a_gpu_is_refused(
    base: Path, data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="fp16"):
        make(base, data, tmp_path, config(precision="fp16"))
