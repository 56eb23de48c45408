"""Put the results of several jobs of one run (``--shard I/N``) together."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from descscore.batch.manifest import Manifest, locked, read_manifest, result_file, write_manifest
from descscore.batch.runner import Summary
from descscore.batch.shards import ShardFolder, ShardInfo, replacing
from descscore.errors import DataError, UsageError


def merge(jobs: Sequence[Path], output: Path) -> Summary:
    """Make of all N jobs' folders what one run would have made; linked where possible, else copied.

    Raises :class:`DataError` for a job that is missing, doubled, incomplete or of another run.
    """
    found = _in_order({path: _complete(path) for path in jobs})
    output.mkdir(parents=True, exist_ok=True)
    with locked(output):
        first = next(iter(found.values()))
        whole = Manifest(replace(first.identity, job=None))
        if whole.identity.format == "parquet":
            merged = _merge_shards(found, output, whole)
        else:
            merged = _merge_files(found, output, whole)
        write_manifest(output, merged)
    rows = sum(merged.statuses.values())
    return Summary(str(output), rows, merged.statuses, 0, 0.0)


def _complete(path: Path) -> Manifest:
    manifest = read_manifest(path)
    if manifest is None:
        raise DataError(f"{path}: holds no results of a run")
    if manifest.identity.job is None:
        raise UsageError(f"{path}: is a whole run, not one job of several (--shard I/N)")
    if not manifest.complete:
        raise DataError(f"{path}: is not complete; start it again with the same command")
    return manifest


def _in_order(found: dict[Path, Manifest]) -> dict[Path, Manifest]:
    """Jobs by number, after checking that they are all there and belong together."""
    if not found:
        raise UsageError("no folders to merge")
    first_path, first = next(iter(found.items()))
    jobs: dict[int, Path] = {}
    for path, manifest in found.items():
        number, count = manifest.identity.job or [0, 0]
        if manifest.identity.run != first.identity.run or count != (first.identity.job or [0, 0])[1]:
            same = replace(manifest.identity, job=None, batch_size=first.identity.batch_size)
            reasons = replace(first.identity, job=None).differences(same) or ["another number of jobs"]
            raise DataError(f"{path}: does not belong with {first_path} ({'; '.join(reasons)})")
        if number in jobs:
            raise DataError(f"{path}: is job {number}/{count}, and so is {jobs[number]}")
        jobs[number] = path
    missing = sorted(set(range(1, (first.identity.job or [0, 0])[1] + 1)) - jobs.keys())
    if missing:
        raise DataError(
            f"missing of {(first.identity.job or [0, 0])[1]} jobs: {', '.join(map(str, missing))}"
        )
    return {jobs[number]: found[jobs[number]] for number in sorted(jobs)}


def _merge_shards(found: dict[Path, Manifest], output: Path, whole: Manifest) -> Manifest:
    infos: list[ShardInfo] = []
    target = whole.folder(output)
    for path, manifest in found.items():
        folder = manifest.folder(path)
        for number in manifest.identity.shards:
            folder.read(number, ["status"])  # a damaged shard is refused here, with its name
            _link(folder.path(number), target, number)
        infos += target.done(manifest.identity.shards, whole.identity.rows).values()
    return whole.finished(infos)


def _link(source: Path, target: ShardFolder, number: int) -> None:
    with replacing(target.path(number)) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def _merge_files(found: dict[Path, Manifest], output: Path, whole: Manifest) -> Manifest:
    """Jobs are consecutive ranges of rows: their files one after another, one header kept."""
    name = result_file(whole.identity.format)
    with replacing(output / name) as temporary, temporary.open("wb") as file:
        for i, path in enumerate(found):
            with (path / name).open("rb") as part:
                if i and whole.identity.format == "csv":
                    part.readline()
                shutil.copyfileobj(part, file)
    statuses = _sum(manifest.statuses for manifest in found.values())
    listed = [{"file": name, "rows": sum(statuses.values())}]
    return replace(whole, complete=True, statuses=statuses, shards=listed)


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))
