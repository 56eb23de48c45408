"""What decides a run's results besides its input and its model, and how they are written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from descscore.batch.stream import StreamOptions
from descscore.errors import UsageError
from descscore.scorer import DescScorer
from descscore.side_texts import signed

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
