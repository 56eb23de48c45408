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

from descscore.batch.manifest import (
    FILE,
    Identity,
    Manifest,
    locked,
    read_manifest,
    write_manifest,
    write_result_file,
)
from descscore.batch.shards import ResultRow, ShardFolder, ShardInfo
from descscore.context import signed
from descscore.encoder import find_batch_size
from descscore.errors import DataError, UsageError
from descscore.records import DECORATIVE, OK, Outcome
from descscore.scorer import DescScorer
from descscore.stream.pairs import Item, StreamOptions, stream_items
from descscore.tables.reader import Reader, Scan
from descscore.tables.rows import Row

# What scores the rows of a run's shards: an engine's form, and the one that works in this process.


@dataclass(frozen=True)
class Work:
    """What an engine is to do: the shards ``todo`` of ``source``, into ``folder``."""

    source: Reader
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


def local_engine(scorer: DescScorer) -> Engine:
    """Scores in this process, shard after shard; decoding goes on across their borders."""

    def run(work: Work, advance: Callable[[int], None]) -> Iterator[ShardInfo]:
        ids: deque[str] = deque()
        outcomes = stream_items(scorer.scoring, _items(work, ids), work.stream)
        with contextlib.closing(outcomes):  # type: ignore[type-var]
            for number in work.todo:
                yield work.folder.write(number, list(_shard(work, number, ids, outcomes, advance)))

    return run


def _items(work: Work, ids: deque[str]) -> Iterator[Item]:
    """The rows of all shards to do; ``ids`` gets their ids as they are read."""
    for number in work.todo:
        for row in rows_of_shard(work, number):
            ids.append(row.id)
            yield Item(row.image, row.text, row.fault, row.context, row.references)


def rows_of_shard(work: Work, number: int) -> Iterator[Row]:
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


# What decides a run's results besides its input and its model, and how they are written.


FORMATS = ("parquet", "csv", "jsonl")

_DEFAULT_STREAM = StreamOptions()


@dataclass(frozen=True)
class BatchOptions:
    """How a run writes its results, and what else decides them.

    batch_size: None to find one at the first start. job: ``(I, N)`` to do the I-th of N
    parts. strict: stop at the first row that cannot be scored. options: what of the
    reading of the input belongs to a run's identity, such as columns and image root.
    contexts, references: whether the input's rows bring such, which the run's signature says.
    """

    shard_size: int = 10_000
    format: str = "parquet"
    batch_size: int | None = None
    job: tuple[int, int] | None = None
    strict: bool = False
    stream: StreamOptions = _DEFAULT_STREAM
    options: tuple[tuple[str, Any], ...] = ()
    contexts: bool = False
    references: bool = False

    def signature(self, scorer: DescScorer) -> str:
        """All that the run's scores depend on."""
        return signed(scorer.signature, self.contexts, self.references)

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise UsageError(f"shard size {self.shard_size}: must be at least 1")
        if self.format not in FORMATS:
            raise UsageError(f"format {self.format!r}: choose one of {', '.join(FORMATS)}")
        if self.job is not None and not 1 <= self.job[0] <= self.job[1]:
            raise UsageError(f"shard {self.job[0]}/{self.job[1]}: I must lie in 1..N")


def absolute(path: Path | None) -> str | None:
    """A path as it goes into a run's identity."""
    return None if path is None else os.path.abspath(path)


# Who hears how far a run has come: nobody, or a bar on standard error.


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


class Bar:
    """Shows rows done, rows a second and the time left; only on a terminal."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def begin(self, total: int, done: int) -> None:
        from tqdm import tqdm

        # disable=None: no bar where standard error is no terminal, such as in a log.
        self._bar = tqdm(total=total, initial=done, unit=" pairs", disable=None, smoothing=0.1)

    def advance(self, rows: int) -> None:
        self._bar.update(rows)


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
class _Run:
    """What :func:`run_batch` was given, and the input's layout."""

    scorer: DescScorer
    source: Reader
    scan: Scan
    output: Path
    options: BatchOptions
    progress: Progress
    engine: MakeEngine | None


def run_batch(
    scorer: DescScorer,
    source: Reader,
    output: Path,
    options: BatchOptions,
    progress: Progress = QUIET,
    engine: MakeEngine | None = None,
) -> Summary:
    """Score ``source`` into ``output``; what lies there whole already is not scored again.

    engine: what makes the engine; by default this process does the work
    (:func:`descscore.batch.runner.local_engine`). Raises :class:`DataError` where another
    run writes to ``output``, where it holds results of something else, or where it cannot
    be written; under ``strict`` at the first row that fails.
    """
    started = time.perf_counter()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{output}: cannot be made ({error.strerror or error})") from None
    with locked(output):
        run = _Run(scorer, source, source.scan(options.shard_size), output, options, progress, engine)
        manifest = _manifest(run)
        if manifest.complete and _is_whole(manifest, output):
            rows, scored = sum(manifest.statuses.values()), 0
        else:
            manifest, scored = _go_on(run, manifest)
            rows = sum(manifest.statuses.values())
    return Summary(str(output), rows, manifest.statuses, scored, time.perf_counter() - started)


def _go_on(run: _Run, manifest: Manifest) -> tuple[Manifest, int]:
    """Do what is left; the complete manifest, and how many rows were done now."""
    folder = manifest.folder(run.output)
    folder.folder.mkdir(exist_ok=True)
    folder.remove_unfinished()
    done = folder.done(manifest.identity.shards, run.scan.rows)
    todo = [number for number in manifest.identity.shards if number not in done]
    work = Work(run.source, run.scan, folder, todo, run.options.strict, run.options.stream)
    before, now = sum(shard.rows for shard in done.values()), sum(map(work.rows_of, todo))
    run.progress.begin(before + now, before)
    for shard in _engine(run)(work, run.progress.advance):
        done[shard.number] = shard
    manifest = manifest.finished(done.values())
    if manifest.identity.format != "parquet":
        write_result_file(folder, sorted(done), run.output, manifest.identity.format)
    write_manifest(run.output, manifest)
    if manifest.identity.format != "parquet":
        _remove_parts(folder)
    return manifest, now


def _engine(run: _Run) -> Engine:
    if run.engine is None:
        return local_engine(run.scorer)
    return run.engine(run.scorer.encoder.batch_size, run.scorer.signature)


def _manifest(run: _Run) -> Manifest:
    """The manifest to go on with, or a new one. Refuses a folder that holds something else."""
    output, there = run.output, read_manifest(run.output)
    run.scorer.encoder.batches.value = _batch_size(run.scorer, run.options, there)
    identity = _identity(run)
    if there is None:
        return _start(output, identity)
    differences = there.identity.differences(identity)
    if differences:
        raise DataError(
            f"{output}: holds a run that was started otherwise ({'; '.join(differences)}); "
            "start it with the same input, model and options, or give another --output"
        )
    return there


def _identity(run: _Run) -> Identity:
    options = run.options
    return Identity(
        input=run.source.source,
        fingerprint=run.source.fingerprint(),
        rows=run.scan.rows,
        signature=options.signature(run.scorer),
        batch_size=run.scorer.encoder.batch_size,
        shard_size=options.shard_size,
        format=options.format,
        options={**dict(options.options), "decorative_empty": options.stream.decorative_empty},
        job=list(options.job) if options.job else None,
    )


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
    return find_batch_size(scorer.encoder.try_batch, scorer.model.device)


def _is_whole(manifest: Manifest, output: Path) -> bool:
    """Whether what a complete run wrote is still there."""
    return all((output / str(shard["file"])).is_file() for shard in manifest.shards)


def _remove_parts(folder: ShardFolder) -> None:
    for path in folder.folder.iterdir():
        path.unlink()
    folder.folder.rmdir()
