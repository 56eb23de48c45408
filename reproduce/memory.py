"""Memory and time of ``descscore batch`` as its input grows: runs of rising size, each watched from outside.

The input is the hardest for a long run's memory: it has more photos than a run remembers, in an
order in which none comes back in time, and every text has a word of its own.
"""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from descscore.errors import DataError
from descscore.eval.sample_inputs import as_many, caption, make_photos

PHOTOS = 6000
"""Photos of the longest run: more than the stream remembers."""
MADE, SIZE = 64, (160, 120)
SHARD = 1000

Sample = tuple[float, int]
"""Seconds since the start, and resident bytes of all processes of the run."""


@dataclass(frozen=True)
class Watched:
    """One run."""

    pairs: int
    seconds: float
    """Of scoring, as the run says."""
    row_bytes: float
    """Bytes of results on disk for a row."""
    samples: tuple[Sample, ...]
    shards: tuple[float, ...]
    """Seconds from the start to each finished shard of :data:`SHARD` rows."""

    @property
    def peak(self) -> int:
        """Most resident bytes at a time."""
        return max(size for _, size in self.samples)

    def to_json(self) -> dict[str, Any]:
        """With at most 200 samples, each the largest of its stretch."""
        step = -(-len(self.samples) // 200)
        kept = [
            max(self.samples[i : i + step], key=lambda s: s[1]) for i in range(0, len(self.samples), step)
        ]
        return {**asdict(replace(self, samples=tuple(kept))), "peak": self.peak}


def watch_runs(sizes: Sequence[int], model: str, every: float = 0.5, device: str = "cpu") -> list[Watched]:
    """A run of each size, one after the other, with a bundled or other model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = as_many(make_photos(folder / "made", MADE, SIZE), folder / "photos", min(PHOTOS, max(sizes)))
        return [
            _watch(
                write_input(folder / f"{size}.csv", photos, size),
                size,
                ("--model", model, "--device", device),
                every,
            )
            for size in sizes
        ]


def write_input(path: Path, photos: Sequence[Path], pairs: int) -> Path:
    """A table of ``pairs`` rows over ``photos`` in turn."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "image", "text"))
        for i in range(pairs):
            writer.writerow((i, photos[i % len(photos)].resolve(), f"{caption(i)} {_name(i)}"))
    return path


_SYLLABLES = [
    "ba",
    "dre",
    "fi",
    "gno",
    "hu",
    "ki",
    "lo",
    "mer",
    "nu",
    "pol",
    "qua",
    "ri",
    "so",
    "tu",
    "ve",
    "wy",
]


def _name(number: int) -> str:
    """A word of its own for each number."""
    return "".join(_SYLLABLES[number >> shift & 15] for shift in (20, 16, 12, 8, 4, 0))


def _watch(source: Path, pairs: int, chosen: Sequence[str], every: float) -> Watched:
    output = source.with_suffix("")
    code = "from descscore.cli import main; main()"
    options = ("--output", str(output), *chosen, "--shard-size", str(SHARD))
    started, wall = time.perf_counter(), time.time()
    process = subprocess.Popen(
        [sys.executable, "-c", code, "batch", str(source), *options, "--image-root", "/", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    samples = []
    while process.poll() is None:
        samples.append((time.perf_counter() - started, resident(process.pid)))
        time.sleep(every)
    summary = _summary(process, pairs)
    files = sorted(output.glob("*.parquet"))
    shards = tuple(sorted(path.stat().st_mtime - wall for path in files))
    size = sum(path.stat().st_size for path in files)
    return Watched(pairs, summary["seconds"], size / pairs, tuple(samples), shards)


def _summary(process: subprocess.Popen[str], pairs: int) -> dict[str, Any]:
    assert process.stdout is not None
    with process.stdout as stream:
        text = stream.read()
    if process.returncode:
        raise DataError(f"a batch of {pairs} pairs ended with exit code {process.returncode}")
    summary: dict[str, Any] = json.loads(text)
    if summary["statuses"] != {"ok": pairs}:
        raise DataError(f"of {pairs} pairs not all were scored: {summary['statuses']}")
    return summary


def resident(pid: int) -> int:
    """Resident bytes of a process and of all that it has started, memory that they share counted once.

    The sum of their proportional set sizes: decoded pictures lie in memory that every worker maps, which
    plain resident sizes would count once for each, and the more of it the longer the workers run.
    """
    try:
        import psutil
    except ImportError:
        raise DataError("watching memory needs psutil: pip install psutil") from None
    total = 0
    try:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            total += _resident(one)
    except psutil.NoSuchProcess:
        pass
    return total


def _resident(process: Any) -> int:
    import psutil

    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return 0


def typical(run: Watched) -> float:
    """Seconds a pair in the middle of a run: the median over its shards, NaN for a run of one shard."""
    gaps = [later - earlier for earlier, later in zip(run.shards, run.shards[1:], strict=False)]
    return statistics.median(gaps) / SHARD if gaps else float("nan")
