"""Join the results of all jobs of one run (``--shard I/N``)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from descscore.batch.manifest import Manifest, check_new_folder, read_manifest, write_manifest
from descscore.batch.shards import RESULT_FILES, ShardInfo, count_statuses, result_file
from descscore.batch.summary import Digest, Summary
from descscore.errors import DataError, UsageError
from descscore.files import atomic_write, locked


def merge(jobs: Sequence[Path], output: Path) -> Summary:
    """Join the folders of all N jobs into the folder that one run would have written.

    Files are linked if possible, else copied.

    Raises:
        DataError: if a job is missing, occurs twice, is incomplete or belongs to another run, or ``output``
            holds results of another run.
    """
    manifests = _in_order({path: _complete(path) for path in jobs})
    output.mkdir(parents=True, exist_ok=True)
    with locked(output, "wait for it or give another --output"):
        first = next(iter(manifests.values()))
        begun = min(manifest.begun for manifest in manifests.values())
        whole = Manifest(replace(first.identity, job=None), begun=begun)
        _enter(output, whole)
        if whole.identity.format == "parquet":
            merged = _merge_shards(manifests, output, whole)
        else:
            merged = _merge_files(manifests, output, whole)
        write_manifest(output, merged)
    rows = sum(merged.statuses.values())
    digest = merged.digest or Digest()
    return Summary(str(output), rows, merged.statuses, 0, 0.0, merged.identity.signature, digest)


def _complete(path: Path) -> Manifest:
    manifest = read_manifest(path)
    if manifest is None:
        raise DataError(f"{path}: holds no results of a run")
    if manifest.identity.job is None:
        raise UsageError(f"{path}: is a whole run, not one job of several (--shard I/N)")
    if not manifest.is_whole(path):
        raise DataError(f"{path}: is not complete; start it again with the same command")
    return manifest


def _enter(output: Path, whole: Manifest) -> None:
    """Make ``output`` the folder of this run. It may hold no other results: readers would mix them in."""
    earlier = read_manifest(output)
    if earlier is None:
        check_new_folder(output, whole.identity.format)
        write_manifest(output, whole)  # a merge that is stopped can then be started again
    elif earlier.identity.run != whole.identity.run:
        raise DataError(f"{output}: holds results of another run; give another --output")


def _in_order(manifests: dict[Path, Manifest]) -> dict[Path, Manifest]:
    """The jobs in order of their numbers; checks that all exist and belong to one run."""
    if not manifests:
        raise UsageError("no folders to merge")
    first_path, first = next(iter(manifests.items()))
    count = _job(first)[1]
    jobs: dict[int, Path] = {}
    for path, manifest in manifests.items():
        number = _job(manifest)[0]
        if manifest.identity.run != first.identity.run or _job(manifest)[1] != count:
            same = replace(manifest.identity, job=None, batch_size=first.identity.batch_size)
            reasons = replace(first.identity, job=None).differences(same) or ["the number of jobs"]
            raise DataError(f"{path}: does not belong with {first_path}; what differs: {'; '.join(reasons)}")
        if number in jobs:
            raise DataError(f"{path}: is job {number}/{count}, and so is {jobs[number]}")
        jobs[number] = path
    missing = sorted(set(range(1, count + 1)) - jobs.keys())
    if missing:
        raise DataError(f"of {count} jobs these are missing: {', '.join(map(str, missing))}")
    return {jobs[number]: manifests[jobs[number]] for number in sorted(jobs)}


def _job(manifest: Manifest) -> list[int]:
    return manifest.identity.job or [0, 0]


def _merge_shards(manifests: dict[Path, Manifest], output: Path, whole: Manifest) -> Manifest:
    infos: list[ShardInfo] = []
    target = whole.folder(output)
    for path, manifest in manifests.items():
        folder = manifest.folder(path)
        for number in manifest.identity.shards:
            folder.read(number, ["status"])  # raises an error that names a damaged shard
            with atomic_write(target.path(number)) as temporary:
                try:
                    os.link(folder.path(number), temporary)
                except OSError:
                    shutil.copyfile(folder.path(number), temporary)
        infos += target.done(manifest.identity.shards, whole.identity.rows).values()
    return whole.finished(infos, _digest(manifests))


def _digest(manifests: dict[Path, Manifest]) -> Digest:
    return sum((manifest.digest or Digest() for manifest in manifests.values()), Digest())


def _merge_files(manifests: dict[Path, Manifest], output: Path, whole: Manifest) -> Manifest:
    """Join the files of the jobs, which are consecutive ranges of rows, and keep one header."""
    name = result_file(whole.identity.format)
    with atomic_write(output / name) as temporary, temporary.open("wb") as file:
        for i, path in enumerate(manifests):
            with (path / name).open("rb") as part:
                if i and RESULT_FILES[whole.identity.format].has_header:
                    part.readline()
                shutil.copyfileobj(part, file)
    statuses = count_statuses(manifest.statuses for manifest in manifests.values())
    files = [{"file": name, "rows": sum(statuses.values())}]
    return replace(whole, complete=True, statuses=statuses, shards=files, digest=_digest(manifests))
