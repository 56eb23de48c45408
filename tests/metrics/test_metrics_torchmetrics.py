"""descscore.metrics inside torchmetrics itself: numbers, states, processes, and what must not get lost."""

from __future__ import annotations

import copy
import importlib
import io
import multiprocessing
import os
import pickle
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from PIL import Image
from torchmetrics import MetricCollection

from conftest import TINY, make_photo, save_model
from descscore import DescScorer, Score
from descscore.errors import ModelError, TextError, UsageError
from descscore.metrics import DescriptionScore, PreferenceAccuracy, device_only
from descscore.shared_scorers import scorer_on

TEXTS = [
    "A cat.",
    "Grace Hopper, 1984",
    "Two dogs run over wet sand towards the sea.",
    "A tower in fog.",
    "1",
]
OTHERS = ["Minka", "A woman in a dark naval uniform.", "Summer 2019", "Fog and a tower.", "A red number one."]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    return [make_photo(folder / f"{i}.png", seed=i, size=(40 + 9 * i, 50)) for i in range(len(TEXTS))]


@pytest.fixture(scope="module")
def scorer(tiny_folder: Path) -> DescScorer:
    return DescScorer.from_pretrained(tiny_folder, device="cpu")


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("other"), TINY, seed=2)


@pytest.fixture(scope="module")
def expected(scorer: DescScorer, photos: list[Path]) -> list[float]:
    return [scorer.score(photo, text).score for photo, text in zip(photos, TEXTS, strict=True)]


def tensor(photo: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(photo).convert("RGB"))).permute(2, 0, 1)


def count_encoded(scorer: DescScorer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images that go through the model, one a pass."""
    counts: list[int] = []
    encode = scorer.encoder.pixels

    def counting(pixels: Any) -> torch.Tensor:
        counts.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(scorer.encoder, "pixels", counting)
    return counts


@pytest.mark.parametrize("parts", [[5], [1, 4], [2, 2, 1], [1] * 5])
def test_the_mean_is_that_of_the_scorer_however_it_is_split(
    tiny_folder: Path, photos: list[Path], expected: list[float], parts: list[int]
) -> None:
    metric = DescriptionScore(tiny_folder, per_item=True)
    ends = np.cumsum(parts)
    for start, end in zip(ends - parts, ends, strict=True):
        metric.update(photos[start:end], TEXTS[start:end])
    value = metric.compute()
    assert value.ndim == 0
    assert float(value) == pytest.approx(np.mean(expected), abs=1e-6)
    assert metric.scores().tolist() == pytest.approx(expected, abs=1e-6)
    assert metric.scores().dtype == torch.float64


def test_items_keep_the_cosine_where_the_score_is_cut_at_zero(
    scorer: DescScorer, photos: list[Path], expected: list[float]
) -> None:
    metric = DescriptionScore(scorer, per_item=True)
    metric.update(photos, TEXTS)
    cosines = [found.cosine for found in scorer.score_batch(photos, TEXTS)]
    assert min(cosines) < 0 < max(cosines)
    assert metric.cosines().tolist() == pytest.approx(cosines, abs=1e-6)
    with pytest.raises(UsageError, match="per_item=True"):
        DescriptionScore(scorer).scores()
    assert DescriptionScore(scorer, per_item=True).scores().shape == (0,)


def test_each_distinct_image_is_encoded_once_a_call(
    tiny_folder: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    counts = count_encoded(scorer, monkeypatch)
    DescriptionScore(scorer).update([photos[0], photos[1], photos[0]], TEXTS[:3])
    assert counts == [2]
    PreferenceAccuracy(scorer).update(photos[:2], TEXTS[:2], OTHERS[:2])
    assert counts == [2, 2]
    pixels = tensor(photos[0])
    DescriptionScore(scorer).update([pixels, pixels], TEXTS[:2])
    PreferenceAccuracy(scorer).update([pixels, pixels], TEXTS[:2], OTHERS[:2])
    PreferenceAccuracy(scorer).update(torch.stack([pixels, pixels.flip(-1)]), TEXTS[:2], OTHERS[:2])
    assert counts == [2, 2, 1, 1, 2]
    value = DescriptionScore(scorer)(photos[:2], TEXTS[:2])
    assert float(value) > 0
    assert counts == [2, 2, 1, 1, 2, 2]


def test_a_model_is_loaded_once_for_all_metrics(
    tiny_folder: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import descscore.scorer

    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    loads: list[object] = []
    load = descscore.scorer.load_model
    monkeypatch.setattr(descscore.scorer, "load_model", lambda *args: loads.append(args) or load(*args))
    metrics = [DescriptionScore(folder), PreferenceAccuracy(folder), DescriptionScore(str(folder))]
    metrics[0].update(photos, TEXTS)
    metrics[0].update(photos, TEXTS)
    metrics[1].update(photos, TEXTS, OTHERS)
    copy.deepcopy(metrics[0]).update(photos, TEXTS)
    assert len(loads) == 1


def test_a_model_that_cannot_be_loaded_is_an_error_at_once() -> None:
    with pytest.raises(ModelError, match="no-such-model"):
        DescriptionScore("no-such-model")


def test_preference_is_that_of_compare(scorer: DescScorer, photos: list[Path]) -> None:
    metric = PreferenceAccuracy(scorer, per_item=True)
    metric.update(photos[:2], TEXTS[:2], OTHERS[:2])
    metric.update(photos[2:], TEXTS[2:], OTHERS[2:])
    found = [scorer.compare(*row) for row in zip(photos, TEXTS, OTHERS, strict=True)]
    wins = [result.description_preferred for result in found]
    assert 0 < sum(wins) < len(wins)
    assert float(metric.compute()) == pytest.approx(np.mean(wins), abs=1e-6)
    assert metric.margins().tolist() == pytest.approx([result.margin for result in found], abs=1e-6)
    assert (metric.total.dtype, metric.count.dtype) == (torch.int64, torch.int64)


def by_cosine(pair: tuple[Score, str]) -> float:
    return pair[0].cosine


def test_a_tie_is_not_a_win_and_negative_cosines_still_rank(scorer: DescScorer, photos: list[Path]) -> None:
    tie = PreferenceAccuracy(scorer)
    tie.update(photos[:1], ["A cat."], ["A cat."])
    assert float(tie.compute()) == 0
    texts, photo = [f"{word} number {i}" for i in range(10) for word in ("sea", "1984", "tower")], photos[0]
    ranked = sorted(zip(scorer.score_batch([photo] * len(texts), texts), texts, strict=True), key=by_cosine)
    (low, worse), (high, better) = ranked[:2]
    assert low.cosine < high.cosine < 0
    assert low.score == high.score == 0
    metric = PreferenceAccuracy(scorer)
    metric.update(photo, better, worse)
    metric.update(photo, worse, better)
    assert float(metric.compute()) == 0.5


def test_unequal_columns_are_refused(scorer: DescScorer, photos: list[Path]) -> None:
    metric = PreferenceAccuracy(scorer)
    with pytest.raises(UsageError, match="2 images, 2 descriptions and 3 captions"):
        metric.update(photos[:2], TEXTS[:2], OTHERS[:3])
    with pytest.raises(UsageError, match="two of a kind"):
        metric.update(photos[:1], TEXTS[:1], "A cat.")
    with pytest.raises(TextError, match=r"^row 0: text '': empty or blank; row 1, caption: text ' '"):
        metric.update(photos[:2], ["", "a"], ["b", " "])
    assert int(metric.count) == 0


def test_an_error_of_a_single_image_speaks_of_no_rows(scorer: DescScorer, photos: list[Path]) -> None:
    with pytest.raises(TextError, match=r"^text '': empty or blank$"):
        DescriptionScore(scorer).update(photos[0], "")
    with pytest.raises(TextError, match=r"^text ' ': empty or blank$"):
        PreferenceAccuracy(scorer).update(photos[0], "A cat.", " ")


def test_forward_is_the_value_of_the_batch_and_adds_it(
    scorer: DescScorer, photos: list[Path], expected: list[float]
) -> None:
    metric = DescriptionScore(scorer, per_item=True)
    first, second = metric(photos[:2], TEXTS[:2]), metric(photos[2:], TEXTS[2:])
    assert float(first) == pytest.approx(np.mean(expected[:2]), abs=1e-6)
    assert float(second) == pytest.approx(np.mean(expected[2:]), abs=1e-6)
    assert float(metric.compute()) == pytest.approx(np.mean(expected), abs=1e-6)
    assert metric.scores().tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("call", [DescriptionScore.forward, DescriptionScore.update])
def test_a_batch_that_fails_takes_nothing_away(
    scorer: DescScorer, photos: list[Path], expected: list[float], call: Callable[..., object]
) -> None:
    metric = DescriptionScore(scorer, per_item=True)
    metric(photos[:2], TEXTS[:2])
    with pytest.raises(TextError, match="row 1: text ' '"):
        call(metric, photos[:2], ["A cat.", " "])
    assert float(metric.compute()) == pytest.approx(np.mean(expected[:2]), abs=1e-6)
    metric.update(photos[2:], TEXTS[2:])
    assert float(metric.compute()) == pytest.approx(np.mean(expected), abs=1e-6)
    assert metric.scores().tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_to_average_is_said(scorer: DescScorer, photos: list[Path]) -> None:
    for metric in (DescriptionScore(scorer), PreferenceAccuracy(scorer)):
        with pytest.raises(UsageError, match=f"{type(metric).__name__}: nothing to average; call update"):
            metric.compute()
    metric = DescriptionScore(scorer)
    metric.update([], [])
    with pytest.raises(UsageError, match="nothing to average"):
        metric.compute()
    metric.update(photos, TEXTS)
    metric.reset()
    with pytest.raises(UsageError, match="nothing to average"):
        metric.compute()


def test_after_a_reset_nothing_is_left(scorer: DescScorer, photos: list[Path], expected: list[float]) -> None:
    metric = DescriptionScore(scorer, per_item=True)
    metric.update(photos[:3], TEXTS[:3])
    kept = metric.scores()
    metric.reset()
    metric.update(photos[3:], TEXTS[3:])
    assert float(metric.compute()) == pytest.approx(np.mean(expected[3:]), abs=1e-6)
    assert metric.scores().tolist() == pytest.approx(expected[3:], abs=1e-6)
    assert kept.tolist() == pytest.approx(expected[:3], abs=1e-6)


@pytest.mark.parametrize("as_dict", [False, True])
def test_merged_metrics_equal_one(
    scorer: DescScorer, photos: list[Path], expected: list[float], as_dict: bool
) -> None:
    first, second = DescriptionScore(scorer, per_item=True), DescriptionScore(scorer, per_item=True)
    first.update(photos[:2], TEXTS[:2])
    second.update(photos[2:], TEXTS[2:])
    first.compute()  # what is remembered of this must not come back after the merge
    first.merge_state(second.metric_state if as_dict else second)
    assert float(first.compute()) == pytest.approx(np.mean(expected), abs=1e-6)
    assert first.scores().tolist() == pytest.approx(expected, abs=1e-6)
    assert float(second.compute()) == pytest.approx(np.mean(expected[2:]), abs=1e-6)


def test_metrics_that_do_not_belong_together_do_not_merge(
    scorer: DescScorer, other_folder: Path, photos: list[Path]
) -> None:
    metric = DescriptionScore(scorer, per_item=True)
    metric.update(photos[:1], TEXTS[:1])
    before = float(metric.compute())
    windows = DescScorer(scorer.model, text_policy="windows")
    for other in (other_folder, windows):
        foreign = DescriptionScore(other, per_item=True)
        foreign.update(photos, TEXTS)
        with pytest.raises(UsageError, match="different models, precisions or text policies"):
            metric.merge_state(foreign)
    with pytest.raises(
        ValueError, match="expected the state of a DescriptionScore, got a PreferenceAccuracy"
    ):
        metric.merge_state(PreferenceAccuracy(scorer))
    with pytest.raises(ValueError, match="has no items"):
        metric.merge_state(DescriptionScore(scorer))
    assert float(metric.compute()) == before
    assert int(metric.count) == 1


def test_a_collection_hands_each_metric_its_arguments(
    scorer: DescScorer, photos: list[Path], expected: list[float]
) -> None:
    metrics = MetricCollection([DescriptionScore(scorer), PreferenceAccuracy(scorer)])
    for part in (slice(0, 2), slice(2, 5)):
        metrics.update(
            images=photos[part], texts=TEXTS[part], descriptions=TEXTS[part], captions=OTHERS[part]
        )
    wins = [scorer.compare(*row).description_preferred for row in zip(photos, TEXTS, OTHERS, strict=True)]
    assert {name: float(value) for name, value in metrics.compute().items()} == pytest.approx(
        {"DescriptionScore": np.mean(expected), "PreferenceAccuracy": np.mean(wins)}, abs=1e-6
    )


def test_a_collection_never_takes_two_models_for_one(
    tiny_folder: Path, other_folder: Path, photos: list[Path]
) -> None:
    models = {"first": tiny_folder, "second": other_folder}
    metrics = MetricCollection({name: PreferenceAccuracy(folder) for name, folder in models.items()})
    metrics.update(photos[:1], ["A cat."], ["A cat."])  # a tie for both: the same counts
    metrics.update(photos, TEXTS, OTHERS)
    alone = {}
    for name, folder in models.items():
        metric = PreferenceAccuracy(folder)
        metric.update(photos[:1], ["A cat."], ["A cat."])
        metric.update(photos, TEXTS, OTHERS)
        alone[name] = float(metric.compute())
    assert alone["first"] != alone["second"]
    assert {name: float(value) for name, value in metrics.compute().items()} == pytest.approx(alone)
    assert len(metrics.compute_groups) == 2


@pytest.mark.parametrize(
    "cast",
    [
        lambda module: module.half(),
        lambda module: module.to(torch.bfloat16),
        lambda module: module.to("cpu", dtype=torch.float16),
        lambda module: module[0].set_dtype(torch.float16),
    ],
)
def test_sums_stay_exact_when_the_module_around_them_is_cast(
    scorer: DescScorer, photos: list[Path], expected: list[float], cast: Callable[[Any], object]
) -> None:
    metric = DescriptionScore(scorer, per_item=True)
    module = torch.nn.Sequential(metric, torch.nn.Linear(2, 2))
    metric.update(photos[:3], TEXTS[:3])
    cast(module)
    metric.update(photos[3:], TEXTS[3:])
    assert (metric.total.dtype, metric.count.dtype) == (torch.float64, torch.int64)
    assert metric.scores().tolist() == pytest.approx(expected, abs=1e-6)
    metric.reset()
    assert (metric.total.dtype, metric.count.dtype) == (torch.float64, torch.int64)


def test_the_model_moves_with_the_metric_and_the_ready_scorer_stays(
    scorer: DescScorer, photos: list[Path]
) -> None:
    metric, other = DescriptionScore(scorer), PreferenceAccuracy(scorer)
    meta = torch.device("meta")
    metric.to(meta)
    other.to(meta)
    assert metric.device == meta
    assert {metric.total.device, metric.count.device} == {meta}
    assert {weight.device for weight in metric.scorer.model.clip.parameters()} == {meta}
    assert metric.scorer.model.base is metric.scorer.model.clip
    assert metric.scorer is other.scorer
    assert metric.signature == scorer.signature
    assert {weight.device.type for weight in scorer.model.clip.parameters()} == {"cpu"}
    assert scorer_on(metric.scorer, torch.device("cpu")) is scorer
    assert DescriptionScore(metric.scorer).device == meta


def test_a_device_without_float64_leaves_the_sum_where_it_is() -> None:
    class Moved:
        device = torch.device("mps")

    move = device_only(lambda tensor: Moved())  # type: ignore[arg-type, return-value]
    total = torch.tensor(1.5, dtype=torch.float64)
    assert move(total) is total


def test_copies_share_the_scorer_and_not_the_counts(
    scorer: DescScorer, photos: list[Path], expected: list[float]
) -> None:
    metric = DescriptionScore(scorer, per_item=True)
    metric.update(photos[:2], TEXTS[:2])
    for twin in (metric.clone(), copy.deepcopy(metric)):
        twin.update(photos[2:], TEXTS[2:])
        assert twin.scorer is scorer
        assert float(twin.compute()) == pytest.approx(np.mean(expected), abs=1e-6)
    assert float(metric.compute()) == pytest.approx(np.mean(expected[:2]), abs=1e-6)


def test_a_pickled_metric_goes_on(
    tiny_folder: Path, scorer: DescScorer, photos: list[Path], expected: list[float]
) -> None:
    for model in (tiny_folder, scorer):
        metric = DescriptionScore(model, per_item=True)
        metric.update(photos[:2], TEXTS[:2])
        stored = pickle.dumps(metric)
        assert (len(stored) < 20_000) == (model is tiny_folder)
        back = pickle.loads(stored)
        back.update(photos[2:], TEXTS[2:])
        assert float(back.compute()) == pytest.approx(np.mean(expected), abs=1e-6)
        assert back.scores().tolist() == pytest.approx(expected, abs=1e-6)


def test_a_pickled_metric_does_not_go_on_with_another_model(
    tiny_folder: Path, other_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    stored = pickle.dumps(DescriptionScore(folder))
    shutil.copy(other_folder / "open_clip_model.safetensors", folder)
    with pytest.raises(ModelError, match=r"was saved with .* is now"):
        pickle.loads(stored)


def test_state_dict_holds_the_counts_and_no_weights(
    scorer: DescScorer, other_folder: Path, photos: list[Path], expected: list[float]
) -> None:
    metric = DescriptionScore(scorer, per_item=True)
    assert metric.state_dict() == {}
    assert list(metric.parameters()) == []
    metric.persistent(True)
    metric.update(photos[:2], TEXTS[:2])
    buffer = io.BytesIO()
    torch.save(metric.state_dict(), buffer)
    assert len(buffer.getvalue()) < 20_000
    state = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    back = DescriptionScore(scorer, per_item=True)
    back.load_state_dict(dict(state))
    back.update(photos[2:], TEXTS[2:])
    assert float(back.compute()) == pytest.approx(np.mean(expected), abs=1e-6)
    foreign = DescriptionScore(other_folder, per_item=True)
    foreign.load_state_dict(dict(state))
    with pytest.raises(UsageError, match="different models"):
        foreign.update(photos[2:], TEXTS[2:])


def test_plots_show_the_value(
    scorer: DescScorer, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    from matplotlib import pyplot

    pyplot.switch_backend("Agg")
    metric = DescriptionScore(scorer)
    values = [metric(photos[:2], TEXTS[:2]), metric(photos[2:], TEXTS[2:])]
    figure, axes = metric.plot()
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([float(metric.compute())])
    assert axes.get_ylim()[1] >= 2.5
    pyplot.close(figure)
    figure, axes = metric.plot(values)
    assert [float(y) for y in axes.lines[0].get_ydata()] == pytest.approx([float(value) for value in values])
    pyplot.close(figure)


def _work(rank: int, folder: str, other: str, photos: list[str], out: str) -> None:
    """One of two processes: the first has three items, the second two."""
    dist.init_process_group("gloo", init_method=f"file://{out}/meet", rank=rank, world_size=2)
    mine = slice(0, 3) if rank == 0 else slice(3, 5)
    found: dict[str, Any] = {}
    metric, pairs = DescriptionScore(folder, per_item=True), PreferenceAccuracy(folder, per_item=True)
    metric(photos[mine], TEXTS[mine])
    pairs.update(photos[mine], TEXTS[mine], OTHERS[mine])
    found["mean"], found["scores"] = float(metric.compute()), metric.scores().tolist()
    found["wins"], found["margins"] = float(pairs.compute()), pairs.margins().tolist()
    found["own"] = len(metric.items[0])
    metric.sync()
    found["held"] = metric.scores().tolist()
    metric.unsync()

    one_sided = DescriptionScore(folder, per_item=True)
    for _ in range(2):  # nothing anywhere is an error that leaves the metric as it was
        with pytest.raises(UsageError, match="nothing to average"):
            one_sided.compute()
    if rank == 1:
        one_sided.update(photos, TEXTS)
    found["one-sided"] = [float(one_sided.compute()), *one_sided.scores().tolist()]

    different = DescriptionScore(folder if rank == 0 else other)
    different.update(photos, TEXTS)
    with pytest.raises(UsageError, match="different models"):
        different.compute()
    torch.save(found, f"{out}/{rank}.pt")
    # Not destroy_process_group: torch 2.6 waits there for a thread that waits for this one, one time in four.
    os._exit(0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.long
def test_two_processes_agree_on_all_items(
    tiny_folder: Path,
    other_folder: Path,
    scorer: DescScorer,
    photos: list[Path],
    expected: list[float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    paths = [str(photo) for photo in photos]
    # Both are forked from one process that has imported everything, and nothing else.
    multiprocessing.set_forkserver_preload(["descscore.metrics", "open_clip", "pytest"])
    arguments = (str(tiny_folder), str(other_folder), paths, str(tmp_path))
    torch.multiprocessing.start_processes(_work, args=arguments, nprocs=2, start_method="forkserver")
    margins = [scorer.compare(*row).margin for row in zip(photos, TEXTS, OTHERS, strict=True)]
    for rank, own in enumerate((3, 2)):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["own"] == own
        assert found["mean"] == pytest.approx(np.mean(expected), abs=1e-6)
        assert found["scores"] == pytest.approx(expected, abs=1e-6)
        assert found["held"] == pytest.approx(expected, abs=1e-6)
        assert found["wins"] == pytest.approx(np.mean([margin > 0 for margin in margins]), abs=1e-6)
        assert found["margins"] == pytest.approx(margins, abs=1e-6)
        assert found["one-sided"] == pytest.approx([np.mean(expected), *expected], abs=1e-6)


def test_without_torchmetrics_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "descscore.metrics")
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ImportError, match=re.escape('pip install "descscore[metrics]"')):
        importlib.import_module("descscore.metrics")
