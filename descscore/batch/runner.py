"""Score a whole input into a folder of shards, and continue a stopped run.

The path of a row: :func:`local_engine` reads it, :func:`descscore.stream.outcomes.stream_rows` scores it, a
:class:`descscore.batch.shards.ShardFolder` writes it, and the manifest counts it.
"""

from __future__ import annotations

import functools
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
from tqdm import tqdm

from descscore.batch.manifest import (
    IMAGE_AND_TEXT,
    Identity,
    Manifest,
    check_new_folder,
    read_manifest,
    write_manifest,
)
from descscore.batch.shards import (
    RESULT_FORMATS,
    Result,
    ShardFolder,
    ShardInfo,
    read_result_file,
    result_table,
    write_result_file,
)
from descscore.batch.summary import Digest, Summary
from descscore.context import extend_signature
from descscore.encoder import find_batch_size
from descscore.errors import DataError, UsageError
from descscore.files import locked, remove_unfinished
from descscore.records import DECORATIVE, OK, Outcome
from descscore.scorer import DescScorer
from descscore.stream.outcomes import stream_rows
from descscore.stream.pairs import StreamOptions
from descscore.tables.cells import short
from descscore.tables.reader import Reader, Scan
from descscore.tables.rows import Row


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
    stream: StreamOptions = StreamOptions()  # noqa: RUF009 - frozen
    """How rows are decoded and scored."""
    input_options: Mapping[str, Any] = field(default_factory=dict)
    """Input options on which results depend, such as columns, by name."""
    contexts: bool = False
    """Whether the rows have contexts."""
    references: bool = False
    """Whether the rows have references."""
    lean: bool = False
    """Whether results leave out image and text."""
    retry_failed: bool = False
    """Whether to score again the rows that failed, and those whose images have changed."""

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise UsageError(f"shard size {self.shard_size}: must be at least 1")
        if self.format not in RESULT_FORMATS:
            raise UsageError(f"format {self.format!r}: choose one of {', '.join(RESULT_FORMATS)}")
        if self.job is not None and not 1 <= self.job[0] <= self.job[1]:
            raise UsageError(f"shard {self.job[0]}/{self.job[1]}: I must lie in 1..N")


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
    again: frozenset[int] = frozenset()
    """Those of the shards in which only some rows are scored again: those that failed, and those whose images
    have changed."""
    since: int = 0
    """When the results were begun; a file that was changed later counts as changed."""

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

    def chosen(self, number: int) -> list[int]:
        """Places in shard ``number`` of the rows to score.

        Raises:
            DataError: The shard was made from other rows.
        """
        if number not in self.again:
            return list(range(self.rows_in(number)))
        before = self.folder.read(number, ["id", "status"])
        ids, statuses = before["id"].to_pylist(), before["status"].to_pylist()
        places = []
        for place, row in enumerate(self.read(number)):
            if row.id != ids[place]:
                name = f"row {number * self.folder.size + place + 1}"
                raise DataError(f"{self.source.source}: {name} was {short(ids[place])}, is {short(row.id)}")
            if statuses[place] not in (OK, DECORATIVE) or _changed_since(row.image, self.since):
                places.append(place)
        return places


def _changed_since(image: object, since: int) -> bool:
    """Whether a file was written, replaced or moved here after ``since``."""
    try:
        return isinstance(image, str) and os.stat(image).st_ctime_ns >= since
    except (OSError, ValueError):
        return True


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
    """Score ``source`` into the folder ``output``; existing shards of the same run are kept.

    The engine scores the shards; by default it is :func:`local_engine`. A progress bar is shown only if
    standard error is a terminal.

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
        if options.retry_failed or not manifest.is_whole(output):
            now = time.time_ns()
            folder = _open_folder(manifest, output)
            done = folder.done(manifest.identity.shards, scan.rows)
            again = frozenset(done if options.retry_failed else ())
            work = Work(
                source=source,
                scan=scan,
                folder=folder,
                todo=[n for n in manifest.identity.shards if n in again or n not in done],
                strict=options.strict,
                stream=options.stream,
                batch_size=scorer.encoder.batch_size,
                signature=scorer.signature,
                again=again,
                since=manifest.begun,
            )
            before = sum(shard.rows for n, shard in done.items() if n not in again)
            made = _make_shards(work, engine or local_engine(scorer), before, show_progress)
            scored = sum(shard.scored for shard in made.values())
            manifest = _finish(manifest, folder, done | made, output, now if again else None)
    seconds = time.perf_counter() - started
    rows, digest = sum(manifest.statuses.values()), manifest.digest or Digest()
    signature = manifest.identity.signature
    return Summary(str(output), rows, manifest.statuses, scored, seconds, signature, digest)


def _open_folder(manifest: Manifest, output: Path) -> ShardFolder:
    """The folder of a run's shards, ready to be written to.

    The rows of a complete run with one file of results become shards again.
    """
    folder, form = manifest.folder(output), manifest.identity.format
    if folder.folder != output:
        folder.make()
    remove_unfinished(output)
    remove_unfinished(folder.folder)
    if manifest.is_whole(output):
        if form != "parquet":
            table = read_result_file(output, form, folder.lean)
            for place, number in enumerate(manifest.identity.shards):
                folder.write(number, table.slice(place * folder.size, folder.size))
        write_manifest(output, replace(manifest, complete=False))
    return folder


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
        options={
            **options.input_options,
            "decorative_empty": options.stream.decorative_empty,
            **({} if options.lean else {IMAGE_AND_TEXT: True}),
        },
        job=list(options.job) if options.job else None,
    )
    if earlier is None:
        check_new_folder(output, identity.format)
        manifest = Manifest(identity, begun=time.time_ns())
        write_manifest(output, manifest)
        return manifest
    differences = earlier.identity.differences(identity)
    if differences == ["--lean: yes there, no now"]:
        raise DataError(f"{output}: holds a run whose rows lack image and text; --lean goes on with it")
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
    total = None if work.again else before + sum(map(work.rows_in, work.todo))
    # disable=None shows no bar unless standard error is a terminal.
    disable = None if show_progress else True
    with tqdm(total=total, initial=before, unit=" pairs", disable=disable, smoothing=0.1) as bar:
        return {shard.number: shard for shard in engine(work, bar.update)}


def _finish(
    manifest: Manifest, folder: ShardFolder, done: dict[int, ShardInfo], output: Path, begun: int | None
) -> Manifest:
    """Write the complete manifest and, for ``csv`` and ``jsonl``, the single file of results.

    begun: when rows were scored again.
    """
    columns = [name for name in Digest.COLUMNS if name in folder.schema.names]
    digest = Digest.of(folder.read(number, columns) for number in sorted(done))
    manifest, form = manifest.finished(done.values(), digest), manifest.identity.format
    manifest = replace(manifest, begun=begun or manifest.begun)
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
        chosen = functools.cache(work.chosen)
        inputs: deque[tuple[int, str | None, object]] = deque()

        def rows() -> Iterator[Row]:
            for number in work.todo:
                places = set(chosen(number))
                for place, row in enumerate(work.read(number) if places else ()):
                    if place in places:
                        inputs.append((row.number, row.image_as_written, row.text))
                        yield row

        with closing(stream_rows(scorer.scoring, rows(), work.stream)) as scored:  # type: ignore[type-var]
            for number in work.todo:
                results = _results(len(chosen(number)), scored, inputs, work.strict, advance)
                yield _write(work, number, chosen(number), results)

    return run


def _write(work: Work, number: int, places: list[int], results: Iterator[Result]) -> ShardInfo:
    """Write a shard, or put the results at ``places`` of one that is there."""
    if number not in work.again:
        return work.folder.write(number, results)
    if not places:
        return work.folder.info(number)
    before = work.folder.read(number).replace_schema_metadata(None)
    after = result_table(list(results), work.folder.schema)
    order = list(range(before.num_rows))
    for new, place in enumerate(places, before.num_rows):
        order[place] = new
    return work.folder.write(number, pa.concat_tables([before, after]).take(order), len(places))


def _results(
    count: int,
    scored: Iterator[tuple[str, Outcome]],
    inputs: deque[tuple[int, str | None, object]],
    strict: bool,
    advance: Advance,
) -> Iterator[Result]:
    """The next ``count`` results, with the image and the text of each row."""
    for _ in range(count):
        row_id, outcome = next(scored)
        number, image, text = inputs.popleft()
        if strict and outcome.failed:
            raise DataError(f"row {number} ({short(row_id)}): {outcome.status}: {outcome.error}")
        advance(1)
        yield Result(row_id, outcome, image, text if isinstance(text, str) else None)
