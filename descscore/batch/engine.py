"""What scores the rows of a run's shards: an engine's form, and the one that works in this process."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from descscore.batch.input_row import Input, InputRow, Scan
from descscore.batch.shards import ResultRow, ShardFolder, ShardInfo
from descscore.batch.stream import Item, StreamOptions, stream_items
from descscore.errors import DataError
from descscore.records import Outcome
from descscore.scorer import DescScorer


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
