"""Score a whole input into a folder of shards, and go on where a stopped run left off."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from filelock import FileLock, Timeout

from descscore.batch.input_row import Input, InputRow, Scan
from descscore.batch.manifest import FILE, Identity, Manifest, count_statuses, read_manifest, write_manifest
from descscore.batch.result_file import write_result_file
from descscore.batch.shards import ResultRow, ShardFolder, ShardInfo
from descscore.batch.stream import Item, StreamOptions, stream_items
from descscore.batch_size import find_batch_size
from descscore.errors import DataError, UsageError
from descscore.records import DECORATIVE, OK, Outcome
from descscore.scorer import DescScorer

FORMATS = ("parquet", "csv", "jsonl")
LOCK_FILE = ".lock"

_DEFAULT_STREAM = StreamOptions()


@dataclass(frozen=True)
class BatchOptions:
    """How a run writes its results, and what else decides them.

    batch_size: None to find one at the first start. job: ``(I, N)`` to do the I-th of N
    parts. strict: stop at the first row that cannot be scored. options: what of the
    reading of the input belongs to a run's identity, such as columns and image root.
    """

    shard_size: int = 10_000
    format: str = "parquet"
    batch_size: int | None = None
    job: tuple[int, int] | None = None
    strict: bool = False
    stream: StreamOptions = _DEFAULT_STREAM
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise UsageError(f"shard size {self.shard_size}: must be at least 1")
        if self.format not in FORMATS:
            raise UsageError(f"format {self.format!r}: choose one of {', '.join(FORMATS)}")
        if self.job is not None and not 1 <= self.job[0] <= self.job[1]:
            raise UsageError(f"shard {self.job[0]}/{self.job[1]}: I must lie in 1..N")


@dataclass(frozen=True)
class Summary:
    """What a run came to. rows: of this run, done now or before; scored: done now, in ``seconds``."""

    output: str
    rows: int
    statuses: dict[str, int]
    scored: int
    seconds: float

    @property
    def failed(self) -> int:
        """Rows that should have been scored and could not be."""
        return sum(count for status, count in self.statuses.items() if status not in (OK, DECORATIVE))


@dataclass(frozen=True)
class Work:
    """What an engine is to do: the shards ``todo`` of ``source``, into ``folder``."""

    source: Input
    scan: Scan
    folder: ShardFolder
    todo: Sequence[int]
    strict: bool
    stream: StreamOptions

    def rows_of(self, number: int) -> int:
        """How many rows shard ``number`` holds."""
        return min(self.folder.size, self.scan.rows - number * self.folder.size)


class Engine(Protocol):
    """Does the work and says of each shard when it is on disk, in any order."""

    def __call__(self, work: Work, advance: Callable[[int], None]) -> Iterator[ShardInfo]: ...


MakeEngine: TypeAlias = Callable[[int, str], Engine]
"""Batch size and signature of a run -> its engine."""


class Progress(Protocol):
    """Hears of the rows to do, and of rows done."""

    def begin(self, total: int, done: int) -> None: ...

    def advance(self, rows: int) -> None: ...


class Quiet:
    """No progress is shown."""

    def begin(self, total: int, done: int) -> None:
        pass

    def advance(self, rows: int) -> None:
        pass


QUIET = Quiet()


def run_batch(
    scorer: DescScorer,
    source: Input,
    output: Path,
    options: BatchOptions,
    progress: Progress = QUIET,
    engine: MakeEngine | None = None,
) -> Summary:
    """Score ``source`` into ``output``; what lies there whole already is not scored again.

    engine: what makes the engine; by default this process does the work
    (:func:`local_engine`). Raises :class:`DataError` where another run writes to
    ``output``, where it holds results of something else, or where it cannot be written;
    under ``strict`` at the first row that fails.
    """
    started = time.perf_counter()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{output}: cannot be made ({error.strerror or error})") from None
    with locked(output):
        scan = source.scan(options.shard_size)
        manifest = _open_run(scorer, source, scan, output, options)
        if manifest.complete and _is_whole(manifest, output):
            rows = sum(manifest.statuses.values())
            return Summary(str(output), rows, manifest.statuses, 0, time.perf_counter() - started)
        return _go_on(scorer, source, scan, output, options, progress, engine, manifest, started)


def _go_on(
    scorer: DescScorer,
    source: Input,
    scan: Scan,
    output: Path,
    options: BatchOptions,
    progress: Progress,
    engine: MakeEngine | None,
    manifest: Manifest,
    started: float,
) -> Summary:
    folder = manifest.folder(output)
    folder.folder.mkdir(exist_ok=True)
    folder.remove_unfinished()
    done = folder.done(manifest.identity.shards, scan.rows)
    todo = [number for number in manifest.identity.shards if number not in done]
    work = Work(source, scan, folder, todo, options.strict, options.stream)
    before = sum(shard.rows for shard in done.values())
    progress.begin(before + sum(map(work.rows_of, todo)), before)
    made = engine(scorer.encoder.batch_size, scorer.signature) if engine else local_engine(scorer)
    for shard in made(work, progress.advance):
        done[shard.number] = shard
    manifest = manifest.finished(done.values())
    if manifest.identity.format != "parquet":
        write_result_file(folder, sorted(done), output, manifest.identity.format)
    write_manifest(output, manifest)
    if manifest.identity.format != "parquet":
        _remove_parts(folder)
    rows = sum(shard.rows for shard in done.values())
    statuses = count_statuses(done.values())
    return Summary(str(output), rows, statuses, rows - before, time.perf_counter() - started)


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other runs out of ``output``; the system frees the lock of a killed process."""
    lock = FileLock(output / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(
            f"{output}: another run is writing here; wait for it or give another --output"
        ) from None
    except OSError as error:
        raise DataError(f"{output}: cannot be locked ({error})") from None
    try:
        yield
    finally:
        lock.release()


def _open_run(scorer: DescScorer, source: Input, scan: Scan, output: Path, options: BatchOptions) -> Manifest:
    """The manifest to go on with, or a new one. Refuses a folder that holds something else."""
    there = read_manifest(output)
    scorer.encoder.batches.value = _batch_size(scorer, options, there)
    identity = Identity(
        input=source.source,
        fingerprint=source.fingerprint(),
        rows=scan.rows,
        signature=scorer.signature,
        batch_size=scorer.encoder.batch_size,
        shard_size=options.shard_size,
        format=options.format,
        options={**dict(options.options), "decorative_empty": options.stream.decorative_empty},
        job=list(options.job) if options.job else None,
    )
    if there is None:
        return _start(output, identity)
    differences = there.identity.differences(identity)
    if differences:
        raise DataError(
            f"{output}: holds a run that was started otherwise ({'; '.join(differences)}); "
            "start it with the same input, model and options, or give another --output"
        )
    return there


def _start(output: Path, identity: Identity) -> Manifest:
    foreign = sorted(path.name for path in output.glob("*.parquet"))
    if foreign:
        raise DataError(f"{output}: holds {foreign[0]} but no {FILE}; give an empty folder as --output")
    manifest = Manifest(identity)
    write_manifest(output, manifest)
    return manifest


def _batch_size(scorer: DescScorer, options: BatchOptions, there: Manifest | None) -> int:
    if options.batch_size is not None:
        return options.batch_size
    if there is not None:
        return there.identity.batch_size
    encoder = scorer.encoder

    def trial(size: int) -> None:
        encoder.batches.value = size
        spec = encoder.spec
        encoder.pixels(torch.zeros(size, spec.height, spec.width, 3, dtype=torch.uint8)).cpu()

    return find_batch_size(trial, scorer.model.device)


def _is_whole(manifest: Manifest, output: Path) -> bool:
    """Whether what a complete run wrote is still there."""
    return all((output / str(shard["file"])).is_file() for shard in manifest.shards)


def _remove_parts(folder: ShardFolder) -> None:
    for path in folder.folder.iterdir():
        path.unlink()
    folder.folder.rmdir()


def local_engine(scorer: DescScorer) -> Engine:
    """Scores in this process, shard after shard; decoding goes on across their borders."""

    def run(work: Work, advance: Callable[[int], None]) -> Iterator[ShardInfo]:
        ids: deque[str] = deque()
        outcomes = stream_items(scorer, _items(work, ids), work.stream)
        with contextlib.closing(outcomes):  # type: ignore[type-var]
            for number in work.todo:
                yield work.folder.write(number, list(_shard(work, number, ids, outcomes, advance)))

    return run


def _items(work: Work, ids: deque[str]) -> Iterator[Item]:
    """The rows of all shards to do; ``ids`` gets their ids as they are read."""
    for number in work.todo:
        for row in rows_of_shard(work, number):
            ids.append(row.id)
            yield Item(row.image, row.text, row.fault)


def rows_of_shard(work: Work, number: int) -> Iterator[InputRow]:
    """The input's rows in shard ``number``."""
    rows = work.source.rows(number * work.folder.size, work.scan.marks[number])
    with contextlib.closing(rows):  # type: ignore[type-var]
        for _ in range(work.rows_of(number)):
            row = next(rows, None)
            if row is None:
                raise DataError(f"{work.source.source}: became shorter while it was read")
            yield row


def _shard(
    work: Work, number: int, ids: deque[str], outcomes: Iterable[Outcome], advance: Callable[[int], None]
) -> Iterator[ResultRow]:
    first = number * work.folder.size
    stream = iter(outcomes)
    for row in range(first, first + work.rows_of(number)):
        outcome = next(stream)
        row_id = ids.popleft()
        if work.strict and outcome.failed:
            raise DataError(f"row {row + 1} ({row_id}): {outcome.status}: {outcome.error}")
        advance(1)
        yield ResultRow(row_id, outcome)


def absolute(path: Path | None) -> str | None:
    """A path as it goes into a run's identity."""
    return None if path is None else os.path.abspath(path)
