"""Score a whole input into a folder of shards, and go on where a stopped run left off."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from descscore.batch.engine import Engine, MakeEngine, Work, local_engine
from descscore.batch.input_row import Input, Scan
from descscore.batch.manifest import FILE, Identity, Manifest, read_manifest, write_manifest
from descscore.batch.output_lock import locked
from descscore.batch.progress import QUIET, Progress
from descscore.batch.result_file import write_result_file
from descscore.batch.run_options import BatchOptions
from descscore.batch.shards import ShardFolder
from descscore.batch_size import find_batch_size
from descscore.errors import DataError
from descscore.records import DECORATIVE, OK
from descscore.scorer import DescScorer


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
    source: Input
    scan: Scan
    output: Path
    options: BatchOptions
    progress: Progress
    engine: MakeEngine | None


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
    (:func:`descscore.batch.engine.local_engine`). Raises :class:`DataError` where another
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
