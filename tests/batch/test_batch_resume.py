"""Runs that are killed at any moment go on, and end as an undisturbed run does."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_inputs import make_pairs, write_csv

from descscore import DescScorer
from descscore.batch.runner import Advance, BatchOptions, Summary, Work, local_engine, run_batch
from descscore.batch.shards import ShardInfo
from descscore.errors import DataError
from descscore.stream.pairs import StreamOptions
from descscore.tables.open import open_input

ROWS, SHARD = 240, 20

# One process is started once and forks a child for each run that is to be killed: what
# takes seconds (importing torch, loading the model) is then not part of a run.
RUNNER = """
import os, sys
from pathlib import Path
import torch
from descscore import DescScorer
from descscore.batch.runner import BatchOptions, run_batch
from descscore.tables.open import open_input
from descscore.stream.pairs import StreamOptions

torch.set_num_threads(1)
model, source = sys.argv[1:3]
scorer = DescScorer.from_pretrained(model, device="cpu", batch_size=8)
options = BatchOptions(
    shard_size=int(sys.argv[3]), batch_size=8, stream=StreamOptions(workers=int(sys.argv[4]), window=16)
)
print("ready", flush=True)
for output in sys.stdin:
    child = os.fork()
    if not child:
        try:
            run_batch(scorer, open_input(source), Path(output.strip()), options)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Runner:
    """Starts runs in processes of their own."""

    def __init__(self, model: Path, source: Path, workers: int = 0) -> None:
        args = [str(model), str(source), str(SHARD), str(workers)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUNNER, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def begin(self, output: Path) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{output}\n")
        self.process.stdin.flush()
        return int(self.line())

    def end(self) -> int:
        word, code = self.line().split()
        assert word == "ended"
        return int(code)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    pairs = make_pairs(folder, ROWS, images=60)
    path = write_csv(folder / "in.csv", pairs)
    lines = path.read_text().splitlines(keepends=True)
    lines.insert(5, "bad,none.png,A cat.\n")  # errors must come out the same, too
    path.write_text("".join(lines))
    return path


def shards(output: Path) -> list[Path]:
    return sorted(output.glob("*.parquet"))


def whole(output: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in shards(output)])


def assert_equal(found: pa.Table, expected: pa.Table) -> None:
    for name in ("id", "tokens", "truncated", "status", "error"):
        assert found[name].to_pylist() == expected[name].to_pylist()
    for name in ("score", "cosine", "clip_score"):
        assert found[name].to_pylist() == pytest.approx(expected[name].to_pylist(), abs=1e-6)


def run(model: Path, source: Path, output: Path, shards: int | None = None) -> Summary:
    """A run; one that is interrupted after some shards if ``shards`` says so."""
    scorer = DescScorer.from_pretrained(model, device="cpu", batch_size=8)
    options = BatchOptions(shard_size=SHARD, batch_size=8, stream=StreamOptions(workers=0, window=16))

    def interrupted(work: Work, advance: Advance) -> Iterator[ShardInfo]:
        yield from itertools.islice(local_engine(scorer)(work, advance), shards)
        raise KeyboardInterrupt

    engine = None if shards is None else interrupted
    return run_batch(scorer, open_input(str(source)), output, options, engine=engine)


def test_an_interrupted_run_goes_on(tiny_folder: Path, source: Path, tmp_path: Path) -> None:
    run(tiny_folder, source, tmp_path / "expected")
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(tiny_folder, source, output, shards=3)
    there = {path: path.stat().st_ino for path in shards(output)}
    assert len(there) == 3
    (output / ".unfinished-0123456789abcdef").write_bytes(b"PAR1 half a shard")  # as after a kill
    assert shards(output) == list(there)
    assert run(tiny_folder, source, output).scored == ROWS + 1 - 3 * SHARD
    assert {path: path.stat().st_ino for path in there} == there
    assert_equal(whole(output), whole(tmp_path / "expected"))
    assert not list(output.glob(".unfinished*"))


@pytest.mark.long
def test_killed_at_twenty_random_moments(tiny_folder: Path, source: Path, tmp_path: Path) -> None:
    """kill -9, at least 15 times after the first shard; whole shards stay as they are."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    expected = tmp_path / "expected"
    run(tiny_folder, source, expected)
    runner = Runner(tiny_folder, source)
    try:
        start = time.perf_counter()
        runner.begin(tmp_path / "timed")
        assert runner.end() == 0
        seconds = time.perf_counter() - start
        kills = after_first = attempt = 0
        while kills < 20 or after_first < 15:
            attempt += 1
            assert attempt < 200
            output = tmp_path / f"killed-{attempt}"
            while True:  # kill the same folder's run again and again until one comes through
                there = {path: path.stat().st_ino for path in shards(output)}
                child = runner.begin(output)
                time.sleep(rng.uniform(0, 0.8 * seconds))
                with contextlib.suppress(ProcessLookupError):  # it has ended already
                    os.kill(child, signal.SIGKILL)
                if runner.end() == 0:
                    break
                kills += 1
                after_first += bool(shards(output))
                for path, inode in there.items():
                    assert path.stat().st_ino == inode  # not scored again
                for path in shards(output):
                    pq.read_table(path)  # whole, or not there
                if kills >= 20 and after_first >= 15:
                    runner.begin(output)
                    assert runner.end() == 0
                    break
            assert_equal(whole(output), whole(expected))
            assert not list(output.glob(".unfinished*"))
    finally:
        runner.close()


def test_what_is_done_is_not_scored_again(tiny_folder: Path, source: Path, tmp_path: Path) -> None:
    first = run(tiny_folder, source, tmp_path)
    assert first.scored == ROWS + 1
    before = whole(tmp_path)
    removed = shards(tmp_path)[3:5]
    for path in removed:
        path.unlink()
    removed[0].write_bytes(b"PAR1 damaged")
    again = run(tiny_folder, source, tmp_path)
    assert again.scored == 2 * SHARD
    assert again.statuses == first.statuses == {"missing_image": 1, "ok": ROWS}
    assert_equal(whole(tmp_path), before)
    assert run(tiny_folder, source, tmp_path).scored == 0


def test_a_full_disk_is_an_error_and_the_run_goes_on(tiny_folder: Path, source: Path, tmp_path: Path) -> None:
    """A limit on file sizes stands in for the full disk: writing fails in the middle of a shard."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # The manifest is small enough, a shard is not.
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, old[1]))
        with pytest.raises(DataError, match=r"part-000000.parquet: cannot be written"):
            run(tiny_folder, source, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.name != ".lock") == [
        ".manifest.json"
    ]
    assert run(tiny_folder, source, tmp_path / "out").scored == ROWS + 1
    run(tiny_folder, source, tmp_path / "expected")
    assert_equal(whole(tmp_path / "out"), whole(tmp_path / "expected"))


@pytest.mark.long
def test_workers_die_with_their_parent(tiny_folder: Path, source: Path, tmp_path: Path) -> None:
    runner = Runner(tiny_folder, source, workers=2)
    try:
        child = runner.begin(tmp_path / "out")
        deadline = time.monotonic() + 60
        while len(workers := children(child)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert workers
        os.kill(child, signal.SIGKILL)
        runner.end()
        while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(alive(worker) for worker in workers)
    finally:
        runner.close()


def children(process: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(process).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def alive(process: int) -> bool:
    import psutil

    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
