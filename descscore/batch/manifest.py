"""``manifest.json`` in a run's output: what the run was started with, and what came of it.

A run that is started again compares itself with the manifest, and goes on only if nothing differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from descscore.batch.shards import ShardFolder, ShardInfo, count_statuses, result_file
from descscore.errors import DataError
from descscore.files import atomic_write

MANIFEST_FILE = "manifest.json"

_FORMAT = 2
_PARTS = "parts"


@dataclass(frozen=True)
class Identity:
    """All that a run's results depend on; fixed when it is first started.

    Attributes:
        input: name of the input.
        fingerprint: what changes when the input does.
        rows: number of rows of the whole input.
        signature: the scorer's signature.
        batch_size: rows per pass through the model; no result depends on it.
        shard_size: rows of a shard.
        format: ``parquet``, ``csv`` or ``jsonl``.
        options: other options that decide results, by name.
        job: ``[I, N]`` for the I-th of N jobs (``--shard I/N``), else None.
    """

    input: str
    fingerprint: dict[str, Any]
    rows: int
    signature: str
    batch_size: int
    shard_size: int
    format: str
    options: dict[str, Any]
    job: list[int] | None = None

    @property
    def shard_count(self) -> int:
        """Shards of the whole input."""
        return -(-self.rows // self.shard_size)

    @property
    def shards(self) -> range:
        """The shards that this run makes: all, or the I-th of N parts of them."""
        if self.job is None:
            return range(self.shard_count)
        part, parts = self.job
        return range((part - 1) * self.shard_count // parts, part * self.shard_count // parts)

    def differences(self, other: Identity) -> list[str]:
        """``field: there, now`` for each field in which two runs differ, this one being there."""
        return [
            f"{f.name}: {_short(getattr(self, f.name))} there, {_short(getattr(other, f.name))} now"
            for f in fields(self)
            if f.name != "input" and getattr(self, f.name) != getattr(other, f.name)
        ]

    @property
    def run(self) -> str:
        """32 hex digits that every shard bears: equal for runs whose shards are interchangeable.

        They do not depend on the name of the input, on the job, and on the batch size.
        """
        deciding = {k: v for k, v in asdict(self).items() if k not in ("input", "job", "batch_size")}
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest.

    Attributes:
        identity: what the run was started with.
        complete: whether all shards are there.
        statuses: once complete, all rows counted by status.
        shards: once complete, the files in order, with their rows.
        format: version of the manifest's own form.
    """

    identity: Identity
    complete: bool = False
    statuses: dict[str, int] = field(default_factory=dict)
    shards: Sequence[dict[str, Any]] = ()
    format: int = _FORMAT

    def finished(self, shards: Iterable[ShardInfo]) -> Manifest:
        """This manifest once all shards are there."""
        ordered = sorted(shards, key=lambda shard: shard.number)
        size = self.identity.shard_size
        listed = [{"file": s.file, "first_row": s.number * size, "rows": s.rows} for s in ordered]
        if self.identity.format != "parquet":
            listed = [{"file": result_file(self.identity.format), "rows": sum(s.rows for s in ordered)}]
        statuses = count_statuses(shard.statuses for shard in ordered)
        return replace(self, complete=True, statuses=statuses, shards=listed)

    def folder(self, output: Path) -> ShardFolder:
        """Where this run's shards lie."""
        if self.identity.format == "parquet":
            return ShardFolder(output, self.identity.run, self.identity.shard_size)
        return ShardFolder(output / _PARTS, self.identity.run, self.identity.shard_size, ".arrow")

    def is_whole(self, output: Path) -> bool:
        """Whether the run is complete and its files are still there."""
        return self.complete and all((output / str(shard["file"])).is_file() for shard in self.shards)


def read_manifest(output: Path) -> Manifest | None:
    """The manifest in ``output``; None if there is none. Raises :class:`DataError` for a damaged one."""
    path = output / MANIFEST_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.get("format") != _FORMAT:
            raise DataError(
                f"{path}: format {data.get('format')!r}; this version of descscore reads {_FORMAT}"
            )
        return Manifest(**{**data, "identity": Identity(**data["identity"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a manifest of descscore ({error!r})") from None


def write_manifest(output: Path, manifest: Manifest) -> None:
    with atomic_write(output / MANIFEST_FILE) as temporary:
        text = json.dumps(asdict(manifest), indent=2, ensure_ascii=True)
        temporary.write_text(text + "\n", encoding="utf-8")


def _short(value: object) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 200 else text[:197] + "..."
