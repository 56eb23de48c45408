"""Score a whole input into a folder of shards, and continue a stopped run.

The path of a row: :func:`local_engine` reads it, :func:`descscore.stream.pairs.stream_rows` scores it, a
:class:`descscore.batch.shards.ShardFolder` writes it, and the manifest counts it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

from descscore.batch.manifest import MANIFEST_FILE, Identity, Manifest, read_manifest, write_manifest
from descscore.batch.shards import ShardFolder, ShardInfo, write_result_file
from descscore.context import extend_signature
from descscore.encoder import find_batch_size
from descscore.errors import DataError, UsageError
from descscore.files import locked, remove_unfinished
from descscore.records import DECORATIVE, OK, Outcome
from descscore.scorer import DescScorer
from descscore.stream.pairs import StreamOptions, stream_rows
from descscore.tables.reader import Reader, Scan
from descscore.tables.rows import Row

FORMATS = ("parquet", "csv", "jsonl")

_DEFAULT_STREAM = StreamOptions()


@dataclass(frozen=True)
class BatchOptions:
    """Settings of a run."""

    shard_size: int = 10_000
    """Rows of a shard."""
    format: str = "parquet"
    """``parquet`` for shards, ``csv`` or ``jsonl`` for one file."""
    batch_size: int | None = None
    """Rows per pass through the model; None to choose one at the first start."""
    job: tuple[int, int] | None = None
    """``(I, N)`` to score the I-th of N parts."""
    strict: bool = False
    """Stop at the first row that cannot be scored."""
    stream: StreamOptions = _DEFAULT_STREAM
    """How rows are decoded and scored."""
    input_options: tuple[tuple[str, Any], ...] = ()
    """Input options on which results depend, such as columns, by name."""
    contexts: bool = False
    """Whether the rows have contexts."""
    references: bool = False
    """Whether the rows have references."""

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise UsageError(f"shard size {self.shard_size}: must be at least 1")
        if self.format not in FORMATS:
            raise UsageError(f"format {self.format!r}: choose one of {', '.join(FORMATS)}")
        if self.job is not None and not 1 <= self.job[0] <= self.job[1]:
            raise UsageError(f"shard {self.job[0]}/{self.job[1]}: I must lie in 1..N")


@dataclass(frozen=True)
class Summary:
    """The result of a run, for people."""

    output: str
    """The folder of the results."""
    rows: int
    """Rows of this run, scored by this start or an earlier one."""
    statuses: dict[str, int]
    """Number of rows by status."""
    scored: int
    """Rows that this start processed, whatever their status."""
    seconds: float
    """Time that this start took."""
    signature: str
    """Everything that the scores depend on."""

    @property
    def failed(self) -> int:
        """Number of rows that could not be scored."""
        return sum(count for status, count in self.statuses.items() if status not in (OK, DECORATIVE))

    def to_json(self) -> str:
        """All fields and ``failed``."""
        return json.dumps({**asdict(self), "failed": self.failed}, indent=2)

    def to_text(self) -> str:
        """Rows by status, the rows that this start scored, and the signature."""
        statuses = sorted(self.statuses.items(), key=lambda item: (item[0] != OK, item[0]))
        lines = [f"{name:<20} {count:>12,}" for name, count in [*statuses, ("rows", self.rows)]]
        if self.scored:
            rate = self.scored / max(self.seconds, 1e-9)
            lines.append(f"{self.scored:,} rows done now in {self.seconds:.1f} s ({rate:.1f} a second)")
        return "\n".join([*lines, f"{self.output}: {self.signature}"])


@dataclass(frozen=True)
class Work:
    """The shards that an engine must write."""

    source: Reader
    """The input."""
    scan: Scan
    """The input's layout."""
    folder: ShardFolder
    """The folder for the shards."""
    todo: Sequence[int]
    """Numbers of the shards to write."""
    strict: bool
    """Stop at the first row that cannot be scored."""
    stream: StreamOptions
    """How rows are decoded and scored."""
    batch_size: int
    """Rows per pass through the model."""
    signature: str
    """The scorer's signature."""

    def rows_in(self, number: int) -> int:
        """Number of rows in shard ``number``."""
        return min(self.folder.size, self.scan.rows - number * self.folder.size)

    def read(self, number: int) -> Iterator[Row]:
        """The input's rows in shard ``number``."""
        rows = self.source.rows(number * self.folder.size, self.scan.marks[number])
        with closing(rows):  # type: ignore[type-var]
            for _ in range(self.rows_in(number)):
                row = next(rows, None)
                if row is None:
                    raise DataError(f"{self.source.source}: became shorter while it was read")
                yield row


Advance: TypeAlias = Callable[[int], object]
"""A function that receives the number of rows done since its last call."""

Engine: TypeAlias = Callable[[Work, Advance], Iterator[ShardInfo]]
"""A function that writes the shards and yields each one when it is on disk, in any order."""


def run_batch(
    scorer: DescScorer,
    source: Reader,
    output: Path,
    options: BatchOptions,
    *,
    engine: Engine | None = None,
    show_progress: bool = False,
) -> Summary:
    """Score ``source`` into ``output``; existing shards of the same run are kept.

    Args:
        scorer: the scorer.
        source: the input.
        output: the folder for the results.
        options: settings of the run.
        engine: function that scores the shards; by default :func:`local_engine`.
        show_progress: whether to show a progress bar, if standard error is a terminal.

    Raises:
        DataError: if another process writes to ``output``, if it holds results of another run, if it
            cannot be written, or, under ``strict``, if a row cannot be scored.
    """
    started = time.perf_counter()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{output}: cannot be made ({error.strerror or error})") from None
    with locked(output, "wait for it or give another --output"):
        scan = source.scan(options.shard_size)
        manifest = _manifest(scorer, source, scan.rows, output, options)
        scored = 0
        if not manifest.is_whole(output):
            folder = manifest.folder(output)
            if folder.folder != output:
                folder.make()
            remove_unfinished(output)
            remove_unfinished(folder.folder)
            done = folder.done(manifest.identity.shards, scan.rows)
            todo = [number for number in manifest.identity.shards if number not in done]
            stream, size = options.stream, scorer.encoder.batch_size
            work = Work(source, scan, folder, todo, options.strict, stream, size, scorer.signature)
            scored = sum(map(work.rows_in, todo))
            before = sum(shard.rows for shard in done.values())
            done |= _make_shards(work, engine or local_engine(scorer), before, show_progress)
            manifest = _finish(manifest, folder, done, output)
    seconds = time.perf_counter() - started
    rows = sum(manifest.statuses.values())
    return Summary(str(output), rows, manifest.statuses, scored, seconds, manifest.identity.signature)


def _manifest(scorer: DescScorer, source: Reader, rows: int, output: Path, options: BatchOptions) -> Manifest:
    """The manifest of the run to continue, or a new one. Refuses a folder with other content."""
    earlier = read_manifest(output)
    scorer.encoder.batches.value = _batch_size(scorer, options, earlier)
    identity = Identity(
        input=source.source,
        fingerprint=source.fingerprint(),
        rows=rows,
        signature=extend_signature(scorer.signature, options.contexts, options.references),
        batch_size=scorer.encoder.batch_size,
        shard_size=options.shard_size,
        format=options.format,
        options={**dict(options.input_options), "decorative_empty": options.stream.decorative_empty},
        job=list(options.job) if options.job else None,
    )
    if earlier is None:
        foreign = sorted(path.name for path in output.glob("*.parquet"))
        if foreign:
            raise DataError(
                f"{output}: holds {foreign[0]} but no {MANIFEST_FILE}; give an empty folder as --output"
            )
        write_manifest(output, Manifest(identity))
        return Manifest(identity)
    differences = earlier.identity.differences(identity)
    if differences:
        raise DataError(
            f"{output}: holds a run with another input or other settings. What differs: "
            f"{'; '.join(differences)}. To continue that run, give the same input, model and options as "
            "before; to score anew, give another --output"
        )
    return earlier


def _batch_size(scorer: DescScorer, options: BatchOptions, earlier: Manifest | None) -> int:
    if options.batch_size is not None:
        return options.batch_size
    if earlier is not None:
        return earlier.identity.batch_size
    return find_batch_size(scorer.encoder.try_batch, scorer.model.device)


def _make_shards(work: Work, engine: Engine, before: int, show_progress: bool) -> dict[int, ShardInfo]:
    """Run the engine with a progress bar. before: rows that an earlier start has scored."""
    total = before + sum(map(work.rows_in, work.todo))
    # disable=None shows no bar unless standard error is a terminal.
    disable = None if show_progress else True
    with tqdm(total=total, initial=before, unit=" pairs", disable=disable, smoothing=0.1) as bar:
        return {shard.number: shard for shard in engine(work, bar.update)}


def _finish(manifest: Manifest, folder: ShardFolder, done: dict[int, ShardInfo], output: Path) -> Manifest:
    """Write the complete manifest and, for ``csv`` and ``jsonl``, the single file of results."""
    manifest, form = manifest.finished(done.values()), manifest.identity.format
    if form != "parquet":
        write_result_file(folder, sorted(done), output, form)
    write_manifest(output, manifest)
    if form != "parquet":
        folder.remove(done)
    return manifest


def load_scorer(model: dict[str, Any], compiled: bool, batch_size: int = 64) -> DescScorer:
    """A scorer from the arguments of :meth:`DescScorer.from_pretrained`, with its name under ``model``."""
    arguments = {name: value for name, value in model.items() if name != "model"}
    scorer = DescScorer.from_pretrained(model["model"], batch_size=batch_size, **arguments)
    if compiled:
        scorer.encoder.compile()
    return scorer


def local_engine(scorer: DescScorer) -> Engine:
    """An engine that scores in this process, shard after shard; decoding runs ahead into the next shard."""

    def run(work: Work, advance: Advance) -> Iterator[ShardInfo]:
        rows = (row for number in work.todo for row in work.read(number))
        with closing(stream_rows(scorer.scoring, rows, work.stream)) as scored:  # type: ignore[type-var]
            for number in work.todo:
                yield work.folder.write(number, list(_shard(work, number, scored, advance)))

    return run


def _shard(
    work: Work, number: int, scored: Iterator[tuple[str, Outcome]], advance: Advance
) -> Iterator[tuple[str, Outcome]]:
    """Id and outcome of each row of shard ``number``."""
    first = number * work.folder.size
    for row in range(first, first + work.rows_in(number)):
        row_id, outcome = next(scored)
        if work.strict and outcome.failed:
            raise DataError(f"row {row + 1} ({row_id}): {outcome.status}: {outcome.error}")
        advance(1)
        yield row_id, outcome
