"""The Ray engine on a local cluster of two workers, one of which is killed in the middle."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_inputs import make_pairs, write_csv

from descscore import DescScorer
from descscore.batch.manifest import read_manifest
from descscore.batch.ray_engine import RayOptions, ShardActor, ray_engine
from descscore.batch.runner import BatchOptions, Work, run_batch
from descscore.errors import UsageError
from descscore.stream.pairs import StreamOptions
from descscore.tables.open import open_input

OPTIONS = BatchOptions(shard_size=5, batch_size=8, stream=StreamOptions(workers=0))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    path = write_csv(folder / "in.csv", make_pairs(folder, 60))
    lines = path.read_text().splitlines(keepends=True)
    lines[4:4] = ["bad,none.png,A cat.\n"]
    path.write_text("".join(lines))
    return path


def kill_one_actor(output: Path, killed: list[int]) -> None:
    """Once the first shard is there, kill -9 one of the processes that make shards."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and not killed:
        if list(output.glob("*.parquet")):
            for process in psutil.process_iter(["cmdline"]):
                if re.search("ray::_?MapWorker", " ".join(process.info["cmdline"] or [])):
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    return
        time.sleep(0.01)


@pytest.mark.long
def test_equals_the_local_engine_with_an_actor_killed(
    cluster: None, tiny_folder: Path, source: Path, tmp_path: Path
) -> None:
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    opened = open_input(str(source))
    local = run_batch(scorer, opened, tmp_path / "local", OPTIONS)
    model = {"model": str(tiny_folder), "device": "cpu"}
    engine = ray_engine(RayOptions(model=model, actors=2))
    killed: list[int] = []
    killer = threading.Thread(target=kill_one_actor, args=(tmp_path / "ray", killed))
    killer.start()
    remote = run_batch(scorer, opened, tmp_path / "ray", OPTIONS, engine=engine)
    killer.join()
    assert killed
    assert remote.statuses == local.statuses == {"missing_image": 1, "ok": 60}
    manifests = [read_manifest(tmp_path / name) for name in ("local", "ray")]
    assert replace(manifests[1], begun=manifests[0].begun) == manifests[0]  # type: ignore[type-var, union-attr]
    here, there = (whole(tmp_path / name) for name in ("local", "ray"))
    for name in ("id", "tokens", "truncated", "status", "error"):
        assert there[name].to_pylist() == here[name].to_pylist()
    for name in ("score", "cosine", "clip_score"):
        assert there[name].to_pylist() == pytest.approx(here[name].to_pylist(), abs=1e-6)
    # Either engine goes on where the other left off.
    (tmp_path / "ray" / "part-000003.parquet").unlink()
    assert run_batch(scorer, opened, tmp_path / "ray", OPTIONS).scored == 5


def test_an_actor_makes_a_shard_from_what_travels_to_it(
    tiny_folder: Path, source: Path, tmp_path: Path
) -> None:
    """Without a cluster: the same shard as the local engine's, and an error as an answer."""
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    opened = open_input(str(source))
    run_batch(scorer, opened, tmp_path, OPTIONS)
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    before = pq.read_table(tmp_path / "part-000002.parquet")
    (tmp_path / "part-000002.parquet").unlink()
    folder, signature = manifest.folder(tmp_path), scorer.signature
    work = Work(opened, opened.scan(5), folder, [2], True, OPTIONS.stream, 8, signature)
    options = RayOptions(model={"model": str(tiny_folder), "device": "cpu"})
    actor = ShardActor(*pickle.loads(pickle.dumps((work, options))))
    (answer,) = actor({"number": [2]})["answer"]
    assert json.loads(answer) == {
        **{"number": 2, "file": "part-000002.parquet", "rows": 5},
        **{"statuses": {"ok": 5}, "scored": 5},
    }
    after = pq.read_table(tmp_path / "part-000002.parquet")
    assert after["id"] == before["id"]
    assert after["cosine"].to_pylist() == pytest.approx(before["cosine"].to_pylist(), abs=1e-6)
    (answer,) = actor({"number": [0]})["answer"]  # --strict, and the first shard has a bad row
    assert "row 4 (bad): missing_image" in json.loads(answer)["failure"]
    assert json.loads(answer)["error"] == "DataError"
    with pytest.raises(UsageError, match="this node would score as"):
        ShardActor(replace(work, signature="another"), options)


def whole(output: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(output.glob("*.parquet"))])
