"""Score on a Ray cluster: the same shards, made by actors of a Ray Data pipeline.

Each actor loads the model once, reads the rows of its shard itself and writes the
shard itself, so that nothing but shard numbers travels. Input and output must lie
where every node sees them under the same path. A shard is written whole or not at
all, so Ray may run one again when an actor dies.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from descscore.batch.runner import Engine, MakeEngine, Work, local_engine
from descscore.batch.shards import ShardInfo
from descscore.errors import DataError, DescscoreError, UsageError


@dataclass(frozen=True)
class RayOptions:
    """model: arguments of :meth:`DescScorer.from_pretrained`, its name as ``model``. actors:
    by default one for each GPU of the cluster, or one for each two cores where it has none.
    address: of the cluster; by default the one that RAY_ADDRESS names, or a local one.
    """

    model: dict[str, Any]
    actors: int | None = None
    compiled: bool = False
    address: str | None = None


@dataclass(frozen=True)
class ActorSetup:
    """What an actor is made from."""

    work: Work
    options: RayOptions
    batch_size: int
    signature: str


def ray_engine(options: RayOptions) -> MakeEngine:
    """An engine for :func:`descscore.batch.runner.run_batch`, made for a batch size and a signature."""

    def bind(batch_size: int, signature: str) -> Engine:
        def run(work: Work, advance: Callable[[int], None]) -> Iterator[ShardInfo]:
            setup = ActorSetup(work, options, batch_size, signature)
            for answer in _answers(setup):
                error = answer.pop("failure")
                if error:
                    raise DataError(error)
                advance(answer["rows"])
                yield ShardInfo(**{**answer, "statuses": dict(answer["statuses"])})

        return run

    return bind


class ShardActor:
    """Makes one shard at a time with a model of its own."""

    def __init__(self, setup: ActorSetup) -> None:
        from descscore.scorer import DescScorer

        arguments = dict(setup.options.model)
        self.scorer = DescScorer.from_pretrained(
            arguments.pop("model"), batch_size=setup.batch_size, **arguments
        )
        if self.scorer.signature != setup.signature:
            raise UsageError(
                f"this node would score as {self.scorer.signature}, the run as {setup.signature}"
            )
        if setup.options.compiled:
            self.scorer.encoder.compile()
        self.work = setup.work

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """``{"number": [shard]}`` -> what became of it."""
        number = int(batch["number"][0])
        try:
            info = asdict(make_shard(self.scorer, self.work, number)) | {"failure": ""}
        except DescscoreError as error:  # Ray would try an error of the program again
            info = asdict(ShardInfo(number, "", 0, {})) | {"failure": str(error)}
        info["statuses"] = sorted(info["statuses"].items())
        return {"info": [json.dumps(info)]}


def make_shard(scorer: Any, work: Work, number: int) -> ShardInfo:
    """One shard, as the local engine makes it."""
    (info,) = local_engine(scorer)(replace(work, todo=[number]), lambda rows: None)
    return info


def _answers(setup: ActorSetup) -> Iterator[dict[str, Any]]:
    """What the actors say of each shard, in whatever order they finish."""
    if not setup.work.todo:
        return
    for row in _pipeline(setup).iter_rows():
        yield json.loads(row["info"])


def _pipeline(setup: ActorSetup) -> Any:
    """A Ray data set of shard numbers, mapped by a pool of actors."""
    try:
        import ray
    except ImportError:
        raise UsageError("--engine ray needs Ray; run: pip install 'descscore[ray]'") from None
    if not ray.is_initialized():
        ray.init(address=setup.options.address, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus = int(there.get("GPU", 0))
    actors = setup.options.actors or gpus or max(1, int(there.get("CPU", 2)) // 2)
    todo = [{"number": number} for number in setup.work.todo]
    numbers = ray.data.from_items(todo, override_num_blocks=len(todo))
    return numbers.map_batches(
        ShardActor,
        fn_constructor_args=(setup,),
        batch_size=1,
        concurrency=min(actors, len(todo)),
        num_gpus=1 if gpus else 0,
        num_cpus=0 if gpus else 1,
    )
