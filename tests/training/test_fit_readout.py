"""After training: ordered purpose coordinates, a read-out calibrated on unseen groups, folds of groups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_examples import examples

from descscore import DescScorer
from descscore.errors import DataError
from descscore.interchange import Rotation, interchange
from descscore.models import load_model
from descscore.purpose import Purpose, Readout, Site
from descscore.tokenizer import token_rows
from descscore.towers.text import encode_tokens, run_to_block
from descscore.training import finetune, readout
from descscore.training.config import Tower, preset
from descscore.training.data import Examples
from descscore.training.finetune import cross_calibration, train_folds
from descscore.training.readout import (
    ReadoutTexts,
    comparison_cosines,
    decisions,
    example_coordinates,
    fit_readout,
    fold_of,
    order_rotation,
    policy_calibration,
)

SITE = Site(2, 8)


@pytest.fixture(scope="module")
def clip(tiny_folder: Path):  # type: ignore[no-untyped-def]
    return load_model(tiny_folder, "cpu").clip


def test_ordering_keeps_the_subspace_and_every_interchange_at_the_trained_k(clip) -> None:  # type: ignore[no-untyped-def]
    data, rotation = examples(), Rotation(32, 1).matrix().detach()
    ordered = order_rotation(clip, rotation, SITE, data)
    assert torch.allclose(ordered @ ordered.T, torch.eye(32), atol=1e-5)
    assert torch.equal(ordered[8:], rotation[8:])
    base, source = torch.randn(2, 5, 32)
    one, other = (interchange(base, source, matrix, 8) for matrix in (rotation, ordered))
    assert torch.allclose(one, other, atol=1e-5)


def test_the_first_coordinate_holds_the_mean_difference_and_the_next_most_of_the_rest(clip) -> None:  # type: ignore[no-untyped-def]
    data, n = examples(), 24
    ordered = order_rotation(clip, Rotation(32, 1).matrix().detach(), SITE, data)
    found = example_coordinates(clip, data, Purpose(SITE, ordered)).double()
    difference = found[:n] - found[n:]
    mean = difference.mean(0)
    assert float(mean[0]) > 0
    assert float(mean[1:].abs().max()) < 1e-5 * float(mean[0])
    spread = difference[:, 1:].square().mean(0)
    assert (spread[:-1] >= spread[1:] - 1e-9).all()


def test_the_calibration_uses_only_decisions_on_unseen_groups(
    clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # type: ignore[no-untyped-def]
    caplog.set_level("INFO")
    texts = (*(f"A dog number {i} runs." for i in range(24)), *(f"Anna, {1900 + i}" for i in range(24)))
    tokenizer, groups = load_model("base", "cpu").tokenizer, ("a",) * 8 + ("b",) * 8 + ("c",) * 8
    data = replace(examples(), texts=texts, tokenizer=tokenizer, groups=groups)
    trained: list[torch.Tensor] = []
    real = finetune.train_without

    def spy(clip, pairs, keep, *rest):  # type: ignore[no-untyped-def]
        trained.append(keep)
        return real(clip, pairs, keep, *rest)

    monkeypatch.setattr(finetune, "train_without", spy)
    config = replace(preset("joint", Tower(32, 4)), epochs=1, batch_size=8, learning_rate=3e-3)
    everything = torch.ones(24, dtype=torch.bool)

    def calibrate() -> tuple[float, float]:
        return cross_calibration(train_folds(clip, data, 3, config, tmp_path), data, everything)

    scale, shift = calibrate()
    said = "\n".join(caplog.messages)
    for tower in (1, 2, 3):
        assert f"tower {tower} of 3: trains without 8 of 24 pairs" in said
        assert f"tower {tower} of 3: step 4" in said
    assert np.isfinite([scale, shift]).all()
    assert scale > 0
    assert torch.stack(trained).sum(0).tolist() == [2] * 24  # each pair is left out once
    assert calibrate() == (scale, shift)  # taken up from the folder, not trained again


def test_what_is_not_read_is_trained_on_and_does_not_calibrate(clip, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = replace(examples(), groups=("a",) * 8 + ("b",) * 8 + ("c",) * 8)
    config = replace(preset("joint", Tower(32, 4)), epochs=1, batch_size=8, learning_rate=3e-3)
    read, tokenizer = torch.arange(24) < 20, load_model("base", "cpu").tokenizer
    texts = (*(f"A dog number {i} runs." for i in range(24)), *(f"Anna, {1900 + i}" for i in range(24)))
    other = tuple("Something else." if i % 24 >= 20 else text for i, text in enumerate(texts))

    def calibrate(texts: tuple[str, ...], read: torch.Tensor) -> tuple[float, float]:
        shown = replace(data, texts=texts, tokenizer=tokenizer)
        return cross_calibration(train_folds(clip, shown, 3, config, tmp_path), shown, read)

    assert calibrate(texts, read) == calibrate(other, read)
    everything = torch.ones(24, dtype=torch.bool)
    assert calibrate(texts, everything) != calibrate(other, everything)


def test_comparison_cosines_are_sorted_and_each_of_its_own_image(clip) -> None:  # type: ignore[no-untyped-def]
    data = examples()
    found = comparison_cosines(clip, data, batch_size=5)
    with torch.no_grad():
        texts = torch.nn.functional.normalize(encode_tokens(clip, data.tokens[:24]), dim=1)
    expected = (texts * data.images).sum(1).sort().values
    assert torch.allclose(found, expected, atol=1e-6)


def test_long_work_says_how_far_it_is(
    clip, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # type: ignore[no-untyped-def]
    """Before, a run with many pairs said nothing for minutes after its last step."""
    caplog.set_level("INFO")
    comparison_cosines(clip, examples(), batch_size=5)
    assert not caplog.messages
    monkeypatch.setattr(readout, "TELL_EVERY", 0.0)
    comparison_cosines(clip, examples(), batch_size=5)
    assert [line.partition(": ")[2] for line in caplog.messages] == [
        f"batches of texts: {done} of 5" for done in range(5)
    ]


def synthetic(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Coordinates whose true log-odds are known."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)) * [1, 3, 0.2, 1, 1, 1] + 5
    odds = 1.5 * (x[:, 0] - 5) - 0.4 * (x[:, 1] - 5) + 0.3
    y = rng.random(n) < 1 / (1 + np.exp(-odds))
    return torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(odds)


def test_fit_finds_the_true_log_odds() -> None:
    x, y, _ = synthetic(8000, 0)
    fitted = fit_readout(x, y, np.arange(8000) // 4)
    fresh, labels, odds = synthetic(4000, 1)
    guess = fresh.float() @ fitted.weight + fitted.bias
    assert float((guess - odds).abs().mean()) < 0.15
    p = torch.sigmoid(guess).double()
    for low in (0.0, 0.25, 0.5, 0.75):
        within = (p >= low) & (p < low + 0.25)
        assert float(p[within].mean()) == pytest.approx(float(labels[within].double().mean()), abs=0.05)
    truth = torch.sigmoid(odds)
    best = float(-(labels * truth.log() + ~labels * (1 - truth).log()).mean())
    reached = float(-(labels * p.log() + ~labels * (1 - p).log()).mean())
    assert reached == pytest.approx(best, abs=0.03)


def test_calibration_sees_overfitting() -> None:
    """With as many coordinates as texts, an uncalibrated fit would be certain of everything."""
    rng = np.random.default_rng(0)
    x, y = torch.from_numpy(rng.normal(size=(200, 150))), torch.from_numpy(rng.random(200) < 0.5)
    fitted = fit_readout(x, y, np.arange(200))
    fresh = torch.from_numpy(rng.normal(size=(500, 150))).float()
    p = torch.sigmoid(fresh @ fitted.weight + fitted.bias)
    assert float((p - 0.5).abs().mean()) < 0.15


@pytest.fixture(scope="module")
def written(tiny_folder: Path) -> Examples:
    """Six pairs with descriptions of two windows and short captions."""
    tokenizer = load_model(tiny_folder, "cpu").tokenizer
    long = " ".join(f"A dog of {i} years runs over wet sand." for i in range(12))
    texts = [*(f"Photo {i}. {long}" for i in range(6)), *(f"Ada, {1900 + i}" for i in range(6))]
    images = torch.nn.functional.normalize(torch.randn(6, 16), dim=1)
    tokens = token_rows(tokenizer, texts)
    return Examples(images, torch.arange(6), tokens, tokenizer, ("a", "b") * 3, tuple(texts))


def test_a_readout_meets_three_kinds_in_the_windows_of_scoring(clip, written: Examples) -> None:  # type: ignore[no-untyped-def]
    texts = ReadoutTexts.of(written)
    assert len(texts.is_description) == len(texts.groups) == 24
    assert texts.is_description.tolist() == [True] * 6 + [False] * 18
    assert texts.groups.tolist() == ["a", "b"] * 12
    kinds = texts.weight.split(6)
    assert float(kinds[0].sum()) == float(sum(kind.sum() for kind in kinds[1:]))
    assert float(kinds[1].sum()) == float(kinds[2].sum() + kinds[3].sum())
    counts = torch.bincount(texts.windows.owner)
    assert counts[:6].min() >= 2
    assert counts[6:18].max() == 1
    purpose = Purpose(SITE, Rotation(32, 1).matrix().detach())
    found = texts.coordinates(clip, purpose, batch_size=5)
    for window in (0, 5, len(found) - 1):
        row = torch.tensor([texts.windows.rows[texts.windows.row[window]]])
        with torch.no_grad():
            expected = purpose.coordinates(run_to_block(clip, row, SITE.block).state)
        torch.testing.assert_close(found[window], expected[0], rtol=0, atol=1e-5)


def test_what_is_calibrated_is_what_a_score_shows(tiny_folder: Path, written: Examples) -> None:
    """Long texts as well: the mean over the windows of the policy that scoring uses by default."""
    readout = Readout(torch.linspace(-3, 3, SITE.k), torch.tensor(0.2))
    purpose = Purpose(SITE, Rotation(32, 1).matrix().detach(), readout)
    model = replace(load_model(tiny_folder, "cpu"), purpose=purpose)
    texts = ReadoutTexts.of(written)
    by_window = torch.sigmoid(torch.from_numpy(decisions(readout, texts.coordinates(model.clip, purpose))))
    share = texts.windows.weight.double() * by_window
    calibrated_on = torch.zeros(24, dtype=torch.float64).index_add(0, texts.windows.owner, share)[:12]
    photo = np.zeros((8, 8, 3), np.uint8)
    scorer, shown = DescScorer(model), []
    for end in ("", "."):
        some = [text.rstrip(".") + end for text in written.texts]
        shown.append([score.description_probability for score in scorer.score_batch([photo] * 12, some)])
    # Each text was read with or without a final full stop, by chance.
    closest = np.abs(np.array(shown, float) - calibrated_on.numpy()).min(0)
    assert closest.max() < 1e-5
    assert len({round(value, 4) for value in calibrated_on.tolist()}) > 6


def test_the_calibration_is_of_whole_texts(written: Examples) -> None:
    """Its log-loss is the least where a text's probability is the mean over its windows."""
    texts = ReadoutTexts.of(written)
    rng = np.random.default_rng(0)
    kind = texts.is_description[texts.windows.owner].numpy()
    odds = rng.normal(size=len(kind)) + np.where(kind, 1.0, -1.0)

    def loss(scale: float, shift: float) -> float:
        by_window = 1 / (1 + np.exp(-(scale * odds + shift)))
        share = texts.windows.weight.numpy() * by_window
        p = np.array([share[texts.windows.owner.numpy() == i].sum() for i in range(24)])
        y = texts.is_description.numpy()
        return float(-(texts.weight.numpy() * np.log(np.where(y, p, 1 - p))).sum())

    scale, shift = policy_calibration([odds], [texts])
    best = loss(scale, shift)
    for other in ((scale + 0.2, shift), (scale - 0.2, shift), (scale, shift + 0.2), (scale, shift - 0.2)):
        assert loss(*other) > best
    twice = policy_calibration([odds, odds], [texts, texts])
    assert twice == pytest.approx((scale, shift), abs=1e-2)


def test_one_kind_or_one_group_is_refused() -> None:
    x = torch.randn(10, 2)
    with pytest.raises(DataError, match="both kinds"):
        fit_readout(x, torch.ones(10, dtype=torch.bool), np.arange(10))
    with pytest.raises(DataError, match="two groups"):
        fit_readout(x, torch.arange(10) < 5, np.zeros(10))


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcdefg"), min_size=3, max_size=60).filter(lambda g: len(set(g)) >= 3))
def test_folds_keep_groups_whole_whatever_the_order(groups: list[str]) -> None:
    fold = fold_of(groups, 3)
    places = {name: {f for f, g in zip(fold.tolist(), groups, strict=True) if g == name} for name in groups}
    assert all(len(found) == 1 for found in places.values())
    assert set(fold.tolist()) == {0, 1, 2}
    assert fold_of(groups[::-1], 3).tolist() == fold.tolist()[::-1]


def test_folds_are_evened_out_by_size() -> None:
    groups = ["a"] * 50 + ["b"] * 30 + ["c"] * 20 + ["d"] * 10
    assert sorted(np.bincount(fold_of(groups, 2)).tolist()) == [50, 60]
    with pytest.raises(DataError, match="2 groups cannot be cut into 3 folds"):
        fold_of(["a", "b"], 3)
