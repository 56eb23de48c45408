"""Image features on disk, so that an image is encoded once per image tower.

A key space is a folder named after the image tower and its preprocessing; within
it, features are found by the SHA-256 of the image file's bytes, whatever its name.
They lie in safetensors shards that are written under a temporary name and renamed,
and never changed afterwards. Writers therefore need no lock (two that encode the
same images write the same features twice), and a process killed at any moment
leaves whole shards behind. Every shard carries a checksum; one that does
not match is deleted and its images are encoded anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from descscore.adapters import weights_hash
from descscore.errors import DataError, ImageError, ModelError
from descscore.images import load_image
from descscore.models import LoadedModel
from descscore.tables.rows import FileImage, StoredImage

log = logging.getLogger(__name__)

CachedSource: TypeAlias = "str | os.PathLike[str] | bytes | StoredImage"
Encode: TypeAlias = Callable[[Sequence[Image.Image]], Tensor]
"""RGB images -> ``(len(images), embed_dim)`` features."""

KEY_FILE = "key.json"
_STALE_SECONDS = 3600.0


@dataclass(frozen=True)
class ImageKey:
    """What image features depend on besides the image.

    weights: hash of the image tower's weights. structure: hash of its modules,
    since an activation function (QuickGELU or GELU) is no weight. preprocessing:
    :func:`descscore.models.describe_preprocessing`.
    """

    weights: str
    structure: str
    preprocessing: str

    @property
    def folder(self) -> str:
        """Name of the key space's folder: 16 hex digits."""
        return hashlib.sha256(json.dumps(vars(self), sort_keys=True).encode()).hexdigest()[:16]


def image_key(model: LoadedModel) -> ImageKey:
    """The key of a model's image features: the same for a base and every adapter on it."""
    tower = model.base.visual
    structure = hashlib.sha256(repr(tower).encode()).hexdigest()[:12]
    return ImageKey(weights_hash(tower), structure, model.preprocessing)


@dataclass(frozen=True)
class Lookup:
    """What a look-up found. features: ``(n, embed_dim)`` float32 on the CPU, rows of
    failed images NaN. failures: by row number, why an image could not be decoded.
    """

    features: Tensor
    failures: dict[int, ImageError]


class FeatureCache:
    """Features of one key space.

    batch_size: images decoded and encoded at a time. shard_size: features kept in
    memory before they are written; a killed process loses at most so many.
    """

    def __init__(
        self, folder: str | os.PathLike[str], key: ImageKey, batch_size: int = 64, shard_size: int = 1024
    ) -> None:
        self.folder = Path(folder) / key.folder
        self.key, self.batch_size, self.shard_size = key, batch_size, shard_size

    def get_many(self, sources: Sequence[CachedSource], encode: Encode) -> Tensor:
        """Features of all sources, in order: ``(n, embed_dim)`` float32 on the CPU.

        Only images that no shard holds are decoded and encoded, each once however
        often it occurs. Raises the first :class:`ImageError`, after all others have
        been kept; :class:`DataError` for no sources or where the cache cannot be
        written; :class:`ModelError` for features that are not finite or not one per image.
        """
        found = self.lookup(sources, encode)
        if found.failures:
            raise found.failures[min(found.failures)]
        return found.features

    def lookup(self, sources: Sequence[CachedSource], encode: Encode) -> Lookup:
        """As :meth:`get_many`, but an image that cannot be decoded is reported and the rest returned."""
        if not sources:
            raise DataError("no images to encode")
        rows, failures = self._rows_by_digest(sources)
        found = self._stored(set(rows))
        missing = [sources[rows[digest][0]] for digest in rows if digest not in found]
        bad = self._encode_missing(missing, [d for d in rows if d not in found], encode, found)
        for digest, error in bad.items():
            failures |= dict.fromkeys(rows[digest], error)
        return Lookup(_arrange(len(sources), rows, found, failures), failures)

    @staticmethod
    def _rows_by_digest(
        sources: Sequence[CachedSource],
    ) -> tuple[dict[bytes, list[int]], dict[int, ImageError]]:
        """Row numbers of each distinct content, and the rows that cannot be read at all."""
        rows: dict[bytes, list[int]] = {}
        failures: dict[int, ImageError] = {}
        for row, source in enumerate(sources):
            try:
                rows.setdefault(_digest(_read(source)), []).append(row)
            except ImageError as error:
                failures[row] = error
        return rows, failures

    def _stored(self, wanted: set[bytes]) -> dict[bytes, Tensor]:
        """The wanted features that shards hold; one shard is in memory at a time."""
        found: dict[bytes, Tensor] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            shard = _read_shard(path)
            if shard is None:
                log.warning("%s: damaged feature cache file, deleted; its images are encoded anew", path)
                path.unlink(missing_ok=True)
                continue
            digests, features = shard
            for digest, feature in zip(digests, features, strict=True):
                if digest in wanted and digest not in found:
                    found[digest] = feature.clone()  # a view would keep the whole shard in memory
        return found

    def _encode_missing(
        self,
        sources: Sequence[CachedSource],
        digests: Sequence[bytes],
        encode: Encode,
        found: dict[bytes, Tensor],
    ) -> dict[bytes, ImageError]:
        """Encode ``sources`` into ``found`` and into new shards; returns those that cannot be decoded."""
        failures: dict[bytes, ImageError] = {}
        fresh: dict[bytes, Tensor] = {}
        try:
            for start in range(0, len(sources), self.batch_size):
                part = slice(start, start + self.batch_size)
                images = _decode(sources[part], digests[part], failures)
                if images:
                    fresh |= zip(images, _encoded(list(images.values()), encode), strict=True)
                if len(fresh) >= self.shard_size:
                    found |= fresh
                    self._write(fresh)
                    fresh = {}
        finally:  # an error in the model must not cost what was encoded before it
            found |= fresh
            self._write(fresh)
        return failures

    def _write(self, fresh: dict[bytes, Tensor]) -> None:
        """Put ``fresh`` into a shard of its own, named after its contents' hashes."""
        if not fresh:
            return
        name = hashlib.sha256(b"".join(sorted(fresh))).hexdigest()[:16]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._describe()
            _write_shard(self.folder / f"{name}.safetensors", fresh)
            _remove_stale(self.folder)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{self.folder}: image features cannot be written ({error})") from error

    def _describe(self) -> None:
        """Say in the folder what its features were computed with."""
        path = self.folder / KEY_FILE
        if not path.exists():
            with _replacing(path) as temporary:
                temporary.write_text(json.dumps(vars(self.key), indent=2) + "\n", encoding="utf-8")


def _arrange(
    count: int, rows: dict[bytes, list[int]], found: dict[bytes, Tensor], failures: dict[int, ImageError]
) -> Tensor:
    """Features in the order of the sources, NaN where there is none."""
    if not found:
        return torch.full((count, 0), float("nan"))
    width = len(next(iter(found.values())))
    out = torch.full((count, width), float("nan"))
    for digest, places in rows.items():
        if places[0] not in failures:
            out[places] = found[digest]
    return out


def _read(source: CachedSource) -> bytes:
    if isinstance(source, bytes):
        return source
    if isinstance(source, (str, os.PathLike)):
        return FileImage(Path(source)).read()
    return source.read()


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _decode(
    sources: Sequence[CachedSource], digests: Sequence[bytes], failures: dict[bytes, ImageError]
) -> dict[bytes, Image.Image]:
    """Decoded images by digest; what fails goes into ``failures``."""
    images: dict[bytes, Image.Image] = {}
    for source, digest in zip(sources, digests, strict=True):
        name = "image bytes" if isinstance(source, bytes) else str(source)
        try:
            data = _read(source)
            if _digest(data) != digest:
                # Kept under the old hash, the new content's features would be found for good.
                raise ImageError("changed_image", "changed while it was read")
            images[digest] = load_image(data)
        except ImageError as error:
            failures[digest] = ImageError(error.kind, f"{name}: {error}")
    return images


def _encoded(images: Sequence[Image.Image], encode: Encode) -> Tensor:
    features = encode(images).detach().to("cpu", torch.float32)
    if features.ndim != 2 or len(features) != len(images):
        raise ModelError(f"{len(images)} images gave features of shape {tuple(features.shape)}")
    if not features.isfinite().all():
        raise ModelError("the image tower gave features that are not finite")
    return features


def _checksum(digests: Tensor, features: Tensor) -> str:
    both = hashlib.sha256(digests.numpy().tobytes())
    both.update(features.numpy().tobytes())
    return both.hexdigest()


def _read_shard(path: Path) -> tuple[list[bytes], Tensor] | None:
    """Digests and features ``(m, embed_dim)`` of a shard; None where it is damaged."""
    try:
        with safe_open(str(path), framework="pt") as file:
            digests, features = file.get_tensor("digests"), file.get_tensor("features")
            expected = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    if expected != _checksum(digests, features):
        return None
    return [row.numpy().tobytes() for row in digests], features


def _write_shard(path: Path, fresh: dict[bytes, Tensor]) -> None:
    digests = torch.tensor([list(digest) for digest in fresh], dtype=torch.uint8)
    features = torch.stack(list(fresh.values())).contiguous()
    metadata = {"format": "pt", "sha256": _checksum(digests, features)}
    with _replacing(path) as temporary:
        save_file({"digests": digests, "features": features}, temporary, metadata=metadata)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place, whole and on disk, when the block ends well."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _remove_stale(folder: Path) -> None:
    """Delete temporary files that a killed process left; young ones may belong to a running one."""
    for path in folder.glob(".tmp-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()
