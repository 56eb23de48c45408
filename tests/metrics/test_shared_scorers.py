"""Scorers kept loaded: one for each thing asked for, a bounded number, for any number of threads."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import descscore
import descscore.scorer
from conftest import TINY, make_photo, save_model
from descscore import DescScorer
from descscore.errors import ModelError, TextError, UsageError
from descscore.shared_scorers import CACHE_SIZE, ScorerOptions, forget_scorers, shared_scorer

LONG = "Two dogs run over wet sand towards the sea while a child in a red coat watches. " * 6


@pytest.fixture(autouse=True)
def nothing_loaded() -> Iterator[None]:
    forget_scorers()
    yield
    forget_scorers()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The arguments of every call that loads a model."""
    calls: list[tuple[Any, ...]] = []
    load = descscore.scorer.load_model
    monkeypatch.setattr(descscore.scorer, "load_model", lambda *args: calls.append(args) or load(*args))
    return calls


def test_score_is_the_scorers_and_loads_once(
    tiny_folder: Path, photo: Path, loads: list[tuple[Any, ...]]
) -> None:
    first = descscore.score(photo, "A cat.", tiny_folder, device="cpu")
    second = descscore.score(str(photo), LONG, str(tiny_folder), device="cpu")
    assert len(loads) == 1
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    assert first == scorer.score(photo, "A cat.")
    assert second == scorer.score(photo, LONG)


def test_the_default_is_the_bundled_default(photo: Path) -> None:
    found = descscore.score(photo, "A cat.")
    assert found.cosine == pytest.approx(DescScorer.from_pretrained().score(photo, "A cat.").cosine, abs=1e-6)
    assert "model:default" in found.signature


def test_what_is_asked_for_decides(tiny_folder: Path, photo: Path, loads: list[tuple[Any, ...]]) -> None:
    windows = descscore.score(photo, LONG, tiny_folder, text_policy="windows")
    cut = descscore.score(photo, LONG, tiny_folder, text_policy="truncate")
    half = descscore.score(photo, LONG, tiny_folder, text_policy="truncate", precision="bf16")
    assert (windows.windows, cut.windows) == (2, 1)
    assert len({windows.signature, cut.signature, half.signature}) == 3
    assert len(loads) == 3
    again = descscore.score(photo, LONG, tiny_folder, text_policy="windows")
    assert again == windows
    assert len(loads) == 3
    with pytest.raises(UsageError, match="text policy 'cut'"):
        descscore.score(photo, LONG, tiny_folder, text_policy="cut")  # type: ignore[arg-type]


def test_context_and_references_reach_the_scorer(tiny_folder: Path, photo: Path) -> None:
    found = descscore.score(photo, "A cat.", tiny_folder, context="On cats.", references=["A grey cat."])
    scorer = DescScorer.from_pretrained(tiny_folder)
    assert found == scorer.score(photo, "A cat.", context="On cats.", references=["A grey cat."])
    assert found.contextual_score is not None
    assert found.reference_score is not None


def test_a_ready_scorer_is_used_as_it_is(tiny_folder: Path, photo: Path) -> None:
    scorer = DescScorer.from_pretrained(tiny_folder, text_policy="windows")
    assert shared_scorer(scorer) is scorer
    assert descscore.score(photo, LONG, scorer).windows == 2


def test_a_folder_that_has_changed_is_loaded_anew(tiny_folder: Path, photo: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    before = descscore.score(photo, "A cat.", folder)
    save_model(folder, TINY, seed=1)
    after = descscore.score(photo, "A cat.", folder)
    assert after.signature != before.signature
    fresh = DescScorer.from_pretrained(folder).score(photo, "A cat.")
    # Rounding may differ from one run to the next: where values lie in memory decides the order of sums.
    assert (after.signature, after.cosine) == (fresh.signature, pytest.approx(fresh.cosine, abs=1e-6))


def test_a_file_behind_a_link_counts_as_the_folders_own(
    tiny_folder: Path, photo: Path, tmp_path: Path
) -> None:
    other = save_model(tmp_path / "other", TINY, seed=1)
    shutil.copytree(tiny_folder, tmp_path / "weights")
    (tmp_path / "model").mkdir()
    for file in (tmp_path / "weights").iterdir():
        (tmp_path / "model" / file.name).symlink_to(file)
    (tmp_path / "model" / "gone").symlink_to(tmp_path / "nowhere")
    first = descscore.score(photo, "A cat.", tmp_path / "model", device="cpu")
    shutil.copytree(other, tmp_path / "weights", dirs_exist_ok=True)
    second = descscore.score(photo, "A cat.", tmp_path / "model", device="cpu")
    assert second.signature != first.signature
    fresh = DescScorer.from_pretrained(other, device="cpu").score(photo, "A cat.")
    assert second.cosine == pytest.approx(fresh.cosine, abs=1e-6)


def test_a_relative_folder_is_that_of_the_working_directory(
    tiny_folder: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = save_model(tmp_path / "other" / "model", TINY, seed=1)
    shutil.copytree(tiny_folder, tmp_path / "one" / "model")
    found = []
    for place in ("one", "other"):
        monkeypatch.chdir(tmp_path / place)
        found.append(descscore.score(photo, "A cat.", "model"))
    alone = DescScorer.from_pretrained(other).score(photo, "A cat.").cosine
    assert found[1].cosine == pytest.approx(alone, abs=1e-6)  # float32 sums; see above
    assert abs(found[0].cosine - alone) > 1e-4


def test_errors_are_the_scorers_and_are_not_kept(tiny_folder: Path, photo: Path, tmp_path: Path) -> None:
    with pytest.raises(TextError, match="empty or blank"):
        descscore.score(photo, " ", tiny_folder)
    folder = tmp_path / "model"
    with pytest.raises(ModelError, match="no such folder"):
        descscore.score(photo, "A cat.", folder)
    shutil.copytree(tiny_folder, folder)
    assert descscore.score(photo, "A cat.", folder).tokens == 5


def test_threads_get_the_same_numbers_from_one_model(
    tiny_folder: Path, tmp_path: Path, loads: list[tuple[Any, ...]]
) -> None:
    pairs = [(make_photo(tmp_path / f"{i}.png", seed=i), f"Cat number {i}.") for i in range(12)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda pair: descscore.score(*pair, tiny_folder), pairs))
    assert len(loads) == 1
    scorer = DescScorer.from_pretrained(tiny_folder)
    assert [result.cosine for result in found] == pytest.approx(
        [scorer.score(*pair).cosine for pair in pairs], abs=1e-6
    )


def test_no_more_than_the_bound_are_kept(tiny_folder: Path, loads: list[tuple[Any, ...]]) -> None:
    options = [ScorerOptions(cache_dir=str(i)) for i in range(CACHE_SIZE + 1)]
    for option in options[:CACHE_SIZE]:
        shared_scorer(tiny_folder, option)
    first = shared_scorer(tiny_folder, options[0])
    assert len(loads) == CACHE_SIZE
    shared_scorer(tiny_folder, options[-1])  # the second goes, which was used longest ago
    assert shared_scorer(tiny_folder, options[0]) is first
    assert len(loads) == CACHE_SIZE + 1
    shared_scorer(tiny_folder, options[1])
    assert len(loads) == CACHE_SIZE + 2


def test_a_model_being_loaded_is_waited_for_and_others_are_not(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = shared_scorer(tiny_folder)
    started, release = threading.Event(), threading.Event()
    load, calls = descscore.scorer.load_model, []

    def slow(*args: Any) -> Any:
        calls.append(args)
        started.set()
        assert release.wait(60)
        return load(*args)

    monkeypatch.setattr(descscore.scorer, "load_model", slow)
    other = ScorerOptions(text_policy="truncate")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(shared_scorer, tiny_folder, other)
        assert started.wait(60)
        second = pool.submit(shared_scorer, tiny_folder, other)
        assert shared_scorer(tiny_folder) is ready
        assert not second.done()
        release.set()
        assert first.result(60) is second.result(60)
    assert len(calls) == 1


def test_a_failure_reaches_all_who_wait_and_the_next_call_tries_again(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, release = threading.Event(), threading.Event()

    def fail(*args: Any) -> Any:
        started.set()
        assert release.wait(60)
        raise ModelError("no such model")

    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(descscore.scorer, "load_model", fail)
        first = pool.submit(shared_scorer, tiny_folder)
        assert started.wait(60)
        second = pool.submit(shared_scorer, tiny_folder)
        release.set()
        for waiting in (first, second):
            with pytest.raises(ModelError, match="no such model"):
                waiting.result(60)
    assert shared_scorer(tiny_folder) is shared_scorer(tiny_folder)
