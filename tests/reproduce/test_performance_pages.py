"""Watching memory from outside, and pages that say what was measured and nothing else."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from descscore.errors import DataError
from descscore.eval.throughput import Rates, Work
from reproduce import performance
from reproduce.pages import put_in
from reproduce.performance import (
    DATA_FILE,
    PLOT_FILE,
    Watched,
    billion,
    measured,
    memory_plot,
    memory_words,
    resident,
    watch_runs,
    write_input,
    write_pages,
)

DOCS = Path(__file__).parents[2] / "docs"


def run(precision: str, times: float) -> dict[str, Any]:
    work = Work(matrix=2e11, image=8e9, text=1e9, torchmetrics=1e10)
    rates = Rates(decode=100, image=20, text=200, pairs=10 * times, work=work, torchmetrics=10)
    about = {"photos": 36, "different": 18, "texts": 5, "rounds": 3}
    return {"precision": precision, **about, "figures": rates.figures(5)}


def at(machine: str, cores: int) -> dict[str, Any]:
    return {part: {"machine": machine, "cores": cores} for part in performance.PARTS}


def watched(pairs: int, megabytes: int) -> dict[str, Any]:
    shards = tuple(2.0 + 4 * i for i in range(1, pairs // 1000 + 1))
    samples = tuple((float(t), (megabytes - t % 7) * 1_000_000) for t in range(int(shards[-1])))
    return Watched(pairs, 4 * pairs / 1000, 31.5, samples, shards).to_json()


@pytest.fixture
def found() -> dict[str, Any]:
    closeness = {"precision": "bf16", "pairs": 1000, "mean": 7e-4, "largest": 3e-3, "spearman": 0.9999}
    return {
        "machines": at("a machine", 2),
        "throughput": [run("float32", 4.2), run("bf16", 5.5)],
        "precision": {"model": "default", "rows": [closeness | {"close": True}]},
        "memory": {
            "model": "default",
            "runs": [watched(1000, 800), watched(10_000, 900), watched(100_000, 960)],
        },
    }


def test_goals_are_told_as_met_or_missed(found: dict[str, Any]) -> None:
    cells = [[cell.strip() for cell in line.split("|")] for line in measured(found).splitlines()]
    rows = {row[1]: row[3] for row in cells if len(row) == 5}
    assert rows["float32, 5 texts a photo: times torchmetrics in float32"] == "4.20"
    assert rows["bf16, 5 texts a photo: times torchmetrics in float32"] == "5.50, missed"
    # 5 texts: 10 ms of decoding, 50 of the image, 25 of the texts; 5 / 0.085 = 58.8 a second.
    assert rows["bf16: share of decoding and forward passes added up"].startswith("93.5")
    growth = rows["resident memory from the second tenth of 100,000 pairs to the last, `default`: growth"]
    assert growth == "0 MB, from 959"
    most = rows["most resident memory, 1,000, 10,000 and 100,000 pairs of `default`, MB"]
    assert most == "800, 900 and 960"
    times = rows["milliseconds a pair, 1,000, 10,000 and 100,000 pairs of `default`"]
    assert times == "4.00, 4.00 and 4.00"


@pytest.fixture
def gpu(found: dict[str, Any]) -> dict[str, Any]:
    """20 and 22 thousand images and texts a second, of which 10,000 are decoded; 700 TFLOP a second."""
    work = Work(matrix=7e14, image=8e9, text=1e9, torchmetrics=1e10, batch=512)
    rates = Rates(10_000, 20_000, 22_000, pairs=8_000, work=work, torchmetrics=100, undecoded=9_000)
    about = {"photos": 60_000, "different": 64, "size": "500 x 375", "texts": 1, "rounds": 3}
    run = {"name": "bf16, compiled", "precision": "bf16", **about, "figures": rates.figures(1)}
    return {
        "machines": at("a card", 16),
        "throughput": [run],
        "precision": found["precision"],
        "memory": found["memory"],
    }


def test_what_a_gpu_reaches_is_told_as_met_or_missed(gpu: dict[str, Any]) -> None:
    page = performance.measured_gpu(gpu)
    cells = [[cell.strip() for cell in line.split("|")] for line in page.splitlines()]
    rows = {row[1]: row[3] for row in cells if len(row) == 5}
    assert rows["bf16, 1 text a photo: share of the lower ceiling"].startswith("80.0")
    assert rows["bf16, 1 text a photo: share of the lower ceiling"].endswith(", missed")
    # 20,000 images of 8 GFLOP of 700,000 GFLOP a second.
    assert rows["bf16: image tower, share of the matrix rate"].startswith("22.9")
    assert rows["bf16, 1 text a photo: times torchmetrics in float32"] == "80.0"
    assert rows["milliseconds a pair, 1,000, 10,000 and 100,000 pairs of `default`"].startswith("4.00")
    assert "a card: 60,000 photos of 500 x 375 (64 different) with 1 text each" in page
    assert "| without decoding, pairs | 9,000.0 |" in page
    gpu["throughput"][0]["figures"].pop("without decoding, pairs a second")
    assert "without decoding" not in performance.measured_gpu(gpu)


def test_a_part_measured_alone_leaves_the_others(
    gpu: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As on a machine that has the card and not the pages."""
    file = tmp_path / performance.GPU_DATA_FILE
    file.write_text(json.dumps(gpu), encoding="utf-8")
    monkeypatch.setattr(performance, "check_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(performance, "machine", lambda _: "another card")
    monkeypatch.setitem(performance._MEASURES, "precision", lambda *_: {"model": "m", "rows": []})
    arguments = ["--device", "cuda", "--only", "precision", "--output"]
    performance.main([*arguments, str(tmp_path)], standalone_mode=False)
    new = tmp_path.parent / f"{tmp_path.name}-new"
    performance.main([*arguments, str(new)], standalone_mode=False)
    assert (new / file.name).is_file()  # a folder that was not there does not cost what was measured
    (new / "performance.md").write_text("as it was", encoding="utf-8")
    performance.main([*arguments, str(new)], standalone_mode=False)
    assert (new / "performance.md").read_text(encoding="utf-8") == "as it was"
    said = capsys.readouterr().err
    assert "throughput in performance_gpu.json and memory in performance_gpu.json." in said
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["precision"] == {"model": "m", "rows": []}
    assert written["throughput"] == gpu["throughput"]
    assert {part: where["machine"] for part, where in written["machines"].items()} == {
        "throughput": "a card",
        "precision": "another card",
        "memory": "a card",
    }
    page = performance.measured_gpu(written)
    assert "with 1 text each, medians of 3 rounds. Precision: another card. Command" in page
    assert [path.name for path in tmp_path.iterdir()] == [performance.GPU_DATA_FILE]


def test_a_billion_pairs_by_hand(found: dict[str, Any], gpu: dict[str, Any]) -> None:
    """42 pairs a second on two cores: 10**9 / 42 / 3600 * 2 = 13,228 core hours; alone 15.4 a second:
    10 + 50 + 5 ms.
    """
    shown = billion(found, gpu)
    assert "| float32, CPU | 5 | 42.0 | 13,228 core hours |" in shown
    assert "| float32, CPU | 1 | 15.4 | 36,111 core hours |" in shown
    assert "31.5 bytes a row in Parquet shards, 32 GB" in shown


def test_a_billion_pairs_on_a_gpu(found: dict[str, Any], gpu: dict[str, Any]) -> None:
    """8,000 a second: 34.7 hours. 16 cores decode half of what the image tower takes."""
    shown = billion(found, gpu)
    assert "| bf16, compiled, GPU | 1 | 8,000 | 35 GPU hours |" in shown
    assert "16 cores decoded 10,000 photos of 500 x 375 a second" in shown
    assert "one such card could be fed by 32 such cores. Without decoding one process scored 9,000" in shown


def test_growth_is_that_within_a_run_whatever_single_samples_say() -> None:
    run = watched(100_000, 1000)
    whole = len(run["samples"])
    # 200 MB in the first tenth, 50 more in each, and one sample of over 1,000 in the last.
    sizes = [200e6 + 50e6 * (i * 10 // whole) + (900e6 if i == whole - 3 else 0) for i in range(whole)]
    run["samples"] = [(time, size) for (time, _), size in zip(run["samples"], sizes, strict=True)]
    early, late = performance.early_and_late(run)
    assert early == pytest.approx(250e6, abs=1e6)
    assert late == pytest.approx(650e6, abs=1e6)


def test_plot_and_words(found: dict[str, Any], tmp_path: Path) -> None:
    runs = found["memory"]["runs"]
    memory_plot(runs, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text(encoding="utf-8").count("<path") > 10
    words = memory_words(runs)
    assert "at most 800, 900 and 960" in words
    assert "4.0, 4.0 and 4.0" in words


def test_pages_are_written_between_their_marks(
    found: dict[str, Any], gpu: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    for name, parts in (("performance.md", ("measured", "gpu")), ("scaling.md", ("billion",))):
        text = "".join(f"before\n<!-- {part} -->\nold\n<!-- /{part} -->\nafter\n" for part in parts)
        (tmp_path / name).write_text(text, encoding="utf-8")
    write_pages(found, gpu, tmp_path)
    page = (tmp_path / "scaling.md").read_text(encoding="utf-8")
    assert page == f"before\n<!-- billion -->\n{billion(found, gpu)}<!-- /billion -->\nafter\n"
    assert performance.measured_gpu(gpu) in (tmp_path / "performance.md").read_text(encoding="utf-8")
    assert (tmp_path / PLOT_FILE).is_file()
    with pytest.raises(DataError, match="lacks the lines"):
        put_in("nothing", "measured", "")


def committed(name: str) -> dict[str, Any]:
    file = DOCS / name
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def test_the_committed_pages_are_those_of_the_files() -> None:
    cpu, gpu = committed(DATA_FILE), committed(performance.GPU_DATA_FILE)
    for page, part, made in (
        ("performance.md", "measured", measured(cpu)),
        ("performance.md", "gpu", performance.measured_gpu(gpu)),
        ("scaling.md", "billion", billion(cpu, gpu)),
    ):
        shown = (DOCS / page).read_text(encoding="utf-8")
        assert put_in(shown, part, made) == shown


def test_processes_that_a_process_starts_count_too() -> None:
    hold = "import subprocess, sys; held = b'x' * 60_000_000; child = {}; print('held', flush=True); input()"
    inner = hold.format("None")
    outer = hold.format(f"subprocess.Popen([sys.executable, '-c', {inner!r}], stdin=subprocess.PIPE)")
    process = subprocess.Popen(
        [sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        assert 120e6 < resident(process.pid) < 300e6
    finally:
        process.kill()
        process.communicate()
    assert resident(process.pid) == 0


def test_memory_that_processes_share_counts_once() -> None:
    """A hundred megabytes that a process and two children of it all touch, as decoding workers do."""
    code = (
        "import mmap, os, sys, time\n"
        "memory = mmap.mmap(-1, 100_000_000)\n"
        "for _ in range(2):\n"
        "    if os.fork() == 0: break\n"
        "for i in range(0, 100_000_000, 4096): memory[i] = 1\n"
        "os.write(1, b'touched\\n')\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            for _ in range(3):
                assert process.stdout.readline() == b"touched\n"
            assert 100e6 < resident(process.pid) < 180e6
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_the_input_repeats_no_photo_soon_and_no_word_ever(tmp_path: Path) -> None:
    photos = [tmp_path / f"{i}.jpg" for i in range(50)]
    source = write_input(tmp_path / "in.csv", photos, 120)
    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows[:50]] == [str(photo) for photo in photos]
    assert rows[50]["image"] == rows[0]["image"]
    assert len({row["text"].split()[-1] for row in rows}) == 120


@pytest.mark.long
def test_a_run_is_watched_to_its_end(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance, "SHARD", 20)
    (found,) = watch_runs([50], str(tiny_folder), every=0.1)
    assert found.pairs == 50
    assert len(found.shards) == 3
    assert found.shards == tuple(sorted(found.shards))
    assert 0 < found.seconds < found.shards[-1]
    assert found.peak > 100e6
    assert 10 < found.row_bytes < 1000
    again = found.to_json()
    assert len(again["samples"]) <= 200
    assert max(size for _, size in again["samples"]) == again["peak"] == found.peak


def test_a_run_that_fails_is_an_error(tmp_path: Path) -> None:
    started = time.perf_counter()
    with pytest.raises(DataError, match="exit code 1"):
        watch_runs([1], str(tmp_path))
    assert time.perf_counter() - started < 60
