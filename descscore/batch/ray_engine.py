"""Score the shards of a run on a Ray cluster, with a pool of Ray Data actors.

Each actor loads the model once, and reads and writes its shards itself. So only shard numbers travel
between nodes. All nodes must see input and output under the same path. A shard is written in one step, so
Ray may score it again when an actor dies.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from descscore.batch.runner import Advance, Engine, Work, load_scorer, local_engine
from descscore.batch.shards import ShardInfo
from descscore.errors import DataError, DescscoreError, ModelError, UsageError
from descscore.stream.worker import WorkerError

_ERRORS: dict[str, type[DescscoreError]] = {
    kind.__name__: kind for kind in (DataError, ModelError, UsageError, WorkerError)
}
"""The errors that scoring a shard raises, by name."""


@dataclass(frozen=True)
class RayOptions:
    """Settings of the Ray engine."""

    model: dict[str, Any]
    """As for :func:`descscore.batch.runner.load_scorer`."""
    actors: int | None = None
    """Number of actors; by default one for each GPU of the cluster, or, without GPUs, one for every two
    cores."""
    compiled: bool = False
    """Whether to use ``torch.compile`` for the image tower."""


def ray_engine(options: RayOptions) -> Engine:
    """An engine for :func:`descscore.batch.runner.run_batch` that scores on a Ray cluster."""

    def run(work: Work, advance: Advance) -> Iterator[ShardInfo]:
        if not work.todo:
            return
        for row in _pipeline(work, options).iter_rows():
            answer = json.loads(row["answer"])
            if "failure" in answer:
                raise _ERRORS.get(answer["error"], DataError)(answer["failure"])
            advance(answer["scored"])
            yield ShardInfo(**answer)

    return run


class ShardActor:
    """Scores one shard at a time with its own copy of the model."""

    def __init__(self, work: Work, options: RayOptions) -> None:
        self.scorer = load_scorer(options.model, options.compiled, work.batch_size)
        if self.scorer.signature != work.signature:
            raise UsageError(f"this node would score as {self.scorer.signature}, the run as {work.signature}")
        self.work = work

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """``{"number": [shard]}`` -> the shard's :class:`ShardInfo`, or why it failed, as JSON."""
        work = replace(self.work, todo=[int(batch["number"][0])])
        try:
            (info,) = local_engine(self.scorer)(work, lambda rows: None)
            answer = asdict(info)
        except DescscoreError as error:  # returned, because Ray would repeat a task that raises
            answer = {"error": type(error).__name__, "failure": str(error)}
        return {"answer": [json.dumps(answer)]}


def _pipeline(work: Work, options: RayOptions) -> Any:
    """A Ray data set of shard numbers, mapped by a pool of actors."""
    try:
        import ray
    except ImportError:
        raise UsageError("--engine ray needs Ray; run: pip install 'descscore[ray]'") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.ERROR)  # on RAY_ADDRESS, or a local cluster
    ray.data.DataContext.get_current().enable_progress_bars = False
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus = int(resources.get("GPU", 0))
    actors = options.actors or gpus or max(1, int(resources.get("CPU", 2)) // 2)
    items = [{"number": number} for number in work.todo]
    numbers = ray.data.from_items(items, override_num_blocks=len(items))
    return numbers.map_batches(
        ShardActor,
        fn_constructor_args=(work, options),
        batch_size=1,
        concurrency=min(actors, len(items)),
        num_gpus=1 if gpus else 0,
        num_cpus=0 if gpus else 1,
    )
