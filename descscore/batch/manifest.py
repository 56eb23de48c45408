"""``.manifest.json``, the record of a run: its input, its settings and its results.

A run that is started again continues only if its input and settings equal those in the manifest. The file
is hidden, so that programs that read the folder as a table do not read it. Earlier runs called it
``manifest.json``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from descscore.batch.shards import ShardFolder, ShardInfo, count_statuses, result_file
from descscore.batch.summary import Digest
from descscore.errors import DataError
from descscore.files import atomic_write
from descscore.tables.cells import cut

MANIFEST_FILE = ".manifest.json"
_EARLIER_FILE = "manifest.json"
IMAGE_AND_TEXT = "image_and_text"
"""The option of a run whose rows hold image and text. Runs of earlier versions lack it, as lean runs do."""

_FORMAT = 2
_PARTS = "parts"


@dataclass(frozen=True)
class Identity:
    """What must be equal for a run to be continued; fixed at the first start."""

    input: str
    """Name of the input."""
    fingerprint: dict[str, Any]
    """Values that change when the input changes."""
    rows: int
    """Number of rows of the whole input."""
    signature: str
    """The scorer's signature."""
    batch_size: int
    """Rows per pass through the model; results do not depend on it."""
    shard_size: int
    """Rows of a shard."""
    format: str
    """Format of the results, of :data:`descscore.batch.shards.RESULT_FORMATS`."""
    options: dict[str, Any]
    """Other options on which results depend, by name."""
    job: list[int] | None = None
    """``[I, N]`` for the I-th of N jobs (``--shard I/N``), else None."""

    @property
    def shard_count(self) -> int:
        """Shards of the whole input."""
        return -(-self.rows // self.shard_size)

    @property
    def shards(self) -> range:
        """Numbers of the shards that this run writes: all, or the I-th of N parts."""
        if self.job is None:
            return range(self.shard_count)
        part, parts = self.job
        return range((part - 1) * self.shard_count // parts, part * self.shard_count // parts)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings of the run, and the parts of its signature, each under its own name."""
        names = ("rows", "batch_size", "shard_size", "format", "job")
        parts = [part.partition(":") for part in self.signature.split("|")]
        signature = {name: value for name, _, value in parts}
        return {name: getattr(self, name) for name in names} | signature | self.options

    def differences(self, other: Identity) -> list[str]:
        """What differs between this earlier run and ``other``, the run now: a text for each difference."""
        there, now = self.settings, other.settings
        content = ["the content of the input"] if self.fingerprint != other.fingerprint else []
        return content + [
            _difference(name, there.get(name), now.get(name))
            for name in {**there, **now}
            if there.get(name) != now.get(name)
        ]

    @property
    def run(self) -> str:
        """An id of 32 hex digits in every shard; runs with equal ids may share shards.

        It does not depend on the input's name, the job or the batch size.
        """
        content = {k: v for k, v in asdict(self).items() if k not in ("input", "job", "batch_size")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest."""

    identity: Identity
    """The run's input and settings."""
    complete: bool = False
    """Whether all shards are written."""
    statuses: dict[str, int] = field(default_factory=dict)
    """Number of rows by status; empty until the run is complete."""
    shards: Sequence[dict[str, Any]] = ()
    """The result files in order, with their rows; empty until the run is complete."""
    format: int = _FORMAT
    """Version of the manifest's format."""
    begun: int = 0
    """When the results were begun, in nanoseconds since 1970; 0 if nobody knows."""
    digest: Digest | None = None
    """The results as a whole; None until the run is complete."""

    def finished(self, shards: Iterable[ShardInfo], digest: Digest) -> Manifest:
        """This manifest, completed with all shards."""
        ordered = sorted(shards, key=lambda shard: shard.number)
        size = self.identity.shard_size
        files = [{"file": s.file, "first_row": s.number * size, "rows": s.rows} for s in ordered]
        if self.identity.format != "parquet":
            files = [{"file": result_file(self.identity.format), "rows": sum(s.rows for s in ordered)}]
        statuses = count_statuses(shard.statuses for shard in ordered)
        return replace(self, complete=True, statuses=statuses, shards=files, digest=digest)

    def folder(self, output: Path) -> ShardFolder:
        """The folder of this run's shards."""
        lean = IMAGE_AND_TEXT not in self.identity.options
        folder = ShardFolder(output, self.identity.run, self.identity.shard_size, lean=lean)
        if self.identity.format == "parquet":
            return folder
        return replace(folder, folder=output / _PARTS, suffix=".arrow")

    def is_whole(self, output: Path) -> bool:
        """Whether the run is complete and its files still exist."""
        return self.complete and all((output / str(shard["file"])).is_file() for shard in self.shards)


def read_manifest(output: Path) -> Manifest | None:
    """The manifest in ``output``, or None. Raises :class:`DataError` if it is damaged."""
    path = output / MANIFEST_FILE
    if not path.exists():
        path = output / _EARLIER_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.get("format") != _FORMAT:
            raise DataError(
                f"{path}: format {data.get('format')!r}; this version of descscore reads {_FORMAT}"
            )
        begun = data.get("begun") or path.stat().st_mtime_ns
        digest = data.get("digest") and Digest(**data["digest"])
        return Manifest(
            **{**data, "identity": Identity(**data["identity"]), "begun": begun, "digest": digest}
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a manifest of descscore ({error!r})") from None


def check_new_folder(output: Path, form: str) -> None:
    """Raise :class:`DataError` for a folder of no run with files that would count as results, or be replaced.

    form: The format of the results to come.
    """
    foreign = sorted(path.name for name in ("*.parquet", result_file(form)) for path in output.glob(name))
    if foreign:
        raise DataError(
            f"{output}: holds {foreign[0]} but no {MANIFEST_FILE}; give an empty folder as --output"
        )


def write_manifest(output: Path, manifest: Manifest) -> None:
    with atomic_write(output / MANIFEST_FILE) as temporary:
        text = json.dumps(asdict(manifest), indent=2, ensure_ascii=True)
        temporary.write_text(text + "\n", encoding="utf-8")
    (output / _EARLIER_FILE).unlink(missing_ok=True)


def _difference(name: str, there: Any, now: Any) -> str:
    if name == IMAGE_AND_TEXT:
        return f"--lean: {'no' if there else 'yes'} there, {'no' if now else 'yes'} now"
    return f"{name}: {_as_json(there)} there, {_as_json(now)} now"


def _as_json(value: object) -> str:
    return cut(json.dumps(value, sort_keys=True))
