"""Store image features on disk, so that an image tower encodes each image only once.

Each combination of image tower and preprocessing has its own folder. In the folder, safetensors
files hold the features. The SHA-256 of an image file's bytes identifies its features, so the
image file's name does not matter. A feature file is written in one step and never changes. So writers need
no lock (two writers of the same images store the same features twice), and a killed process leaves
only whole feature files. Every feature file has a checksum. If it does not match, the file is deleted and
its images are encoded again.

A cache belongs to one user: whoever can write a feature file decides what a model sees. So the folder is
made for its owner alone, a folder of another user is refused, and a file that others could have written is
not read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from descscore.adapters import weights_hash
from descscore.errors import DataError, ImageError, ModelError, shown
from descscore.files import atomic_write, remove_unfinished
from descscore.images import BYTES_NAME, content_digest, load_image
from descscore.models import LoadedModel
from descscore.tables.rows import FileImage, StoredImage

log = logging.getLogger(__name__)

CachedSource: TypeAlias = "str | os.PathLike[str] | bytes | StoredImage"
Encode: TypeAlias = Callable[[Sequence[Image.Image]], Tensor]
"""RGB images -> ``(len(images), embed_dim)`` features."""

_STALE_SECONDS = 3600.0
"""Age from which an unfinished file belongs to a killed process, not to another writer."""


@dataclass(frozen=True)
class ImageKey:
    """Everything that image features depend on, except the image."""

    weights: str
    """Hash of the image tower's weights."""
    structure: str
    """Hash of its modules; the weights do not show the activation function (QuickGELU or GELU)."""
    preprocessing: str
    """:func:`descscore.models.describe_preprocessing`."""

    @property
    def folder(self) -> str:
        """Name of the folder for these features: 16 hex digits."""
        return hashlib.sha256(json.dumps(vars(self), sort_keys=True).encode()).hexdigest()[:16]


def image_key(model: LoadedModel) -> ImageKey:
    """The key of a model's image features: the same for a base and every adapter on it."""
    tower = model.base.visual
    structure = hashlib.sha256(repr(tower).encode()).hexdigest()[:12]
    return ImageKey(weights_hash(tower), structure, model.preprocessing)


class FeatureCache:
    """Features of one image tower.

    Args:
        folder: The cache's folder; this tower's features get a folder inside it.
        key: The image tower and its preprocessing.
        batch_size: Images decoded and encoded at a time.
        file_size: Features kept in memory before they are written; a killed process loses at
            most this many.
    """

    def __init__(
        self, folder: str | os.PathLike[str], key: ImageKey, batch_size: int = 64, file_size: int = 1024
    ) -> None:
        self.folder = Path(folder) / key.folder
        self.key, self.batch_size, self.file_size = key, batch_size, file_size

    def get_many(self, sources: Sequence[CachedSource], encode: Encode) -> Tensor:
        """Features of all sources, in order: ``(n, embed_dim)`` float32 on the CPU.

        Images without stored features are decoded and encoded, a repeated image once.

        Args:
            sources: Paths, bytes of image files, or images of a data set.
            encode: Encodes the images without stored features.

        Raises:
            ImageError: An image cannot be decoded. The error is the first image's; the features of all
                other images are stored before it is raised.
            DataError: There are no sources, or the cache cannot be written.
            ModelError: The features are not finite, or not one per image.
        """
        if not sources:
            raise DataError("no images to encode")
        failures: dict[int, ImageError] = {}
        digests: dict[int, bytes] = {}
        first: dict[bytes, int] = {}
        for row, source in enumerate(sources):
            try:
                digests[row] = content_digest(_read(source))
                first.setdefault(digests[row], row)
            except ImageError as error:
                failures[row] = error
        features = self._stored(set(first))
        missing = {digest: sources[row] for digest, row in first.items() if digest not in features}
        bad = self._encode_missing(missing, encode, features)
        failures |= {first[digest]: error for digest, error in bad.items()}
        if failures:
            raise failures[min(failures)]
        return torch.stack([features[digests[row]] for row in range(len(sources))])

    def _stored(self, wanted: set[bytes]) -> dict[bytes, Tensor]:
        """The wanted features that feature files hold; one file is in memory at a time."""
        features: dict[bytes, Tensor] = {}
        _claim(self.folder)
        for path in sorted(self.folder.glob("*.safetensors")):
            if not _is_private(path):
                log.warning(
                    "%s: others may have written this file, so its images are encoded again", shown(path)
                )
                continue
            stored = _read_features(path)
            if stored is None:
                log.warning(
                    "%s: damaged feature cache file, deleted; its images are encoded again", shown(path)
                )
                path.unlink(missing_ok=True)
                continue
            for digest, feature in zip(*stored, strict=True):
                if digest in wanted and digest not in features:
                    features[digest] = feature.clone()  # a view would keep the whole file in memory
        return features

    def _encode_missing(
        self, missing: dict[bytes, CachedSource], encode: Encode, features: dict[bytes, Tensor]
    ) -> dict[bytes, ImageError]:
        """Encode ``missing`` into ``features`` and feature files; returns the errors of damaged images."""
        failures: dict[bytes, ImageError] = {}
        fresh: dict[bytes, Tensor] = {}
        pending = list(missing.items())
        try:
            for start in range(0, len(pending), self.batch_size):
                images = _decode(pending[start : start + self.batch_size], failures)
                if images:
                    fresh |= zip(images, _encoded(list(images.values()), encode), strict=True)
                if len(fresh) >= self.file_size:
                    features |= fresh
                    self._write(fresh)
                    fresh = {}
        finally:  # features from before an error of the model must not be lost
            features |= fresh
            self._write(fresh)
        return failures

    def _write(self, fresh: dict[bytes, Tensor]) -> None:
        """Write ``fresh`` as a new file; its images' digests determine its name."""
        if not fresh:
            return
        name = hashlib.sha256(b"".join(sorted(fresh))).hexdigest()[:16]
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            key_file = self.folder / "key.json"
            if not key_file.exists():  # for people who look at the folder
                with atomic_write(key_file) as temporary:
                    temporary.write_text(json.dumps(vars(self.key), indent=2) + "\n", encoding="utf-8")
            _write_features(self.folder / f"{name}.safetensors", fresh)
            remove_unfinished(self.folder, _STALE_SECONDS)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{self.folder}: image features cannot be written ({error})") from error


def _claim(folder: Path) -> None:
    """Let nobody else write to a cache's folder. Raises :class:`DataError` for a folder of another user."""
    try:
        status = folder.stat()
        if status.st_uid == os.geteuid():
            folder.chmod(stat.S_IMODE(status.st_mode) & ~_OTHERS_WRITE)
        elif status.st_uid != 0 or status.st_mode & _OTHERS_WRITE:
            raise DataError(
                f"{folder}: others can write here, and so could give images false features; choose a "
                "folder of your own for image features"
            )
    except (FileNotFoundError, NotADirectoryError):
        return  # it will be made, or that will fail
    except OSError as error:
        raise DataError(f"{folder}: cannot be used for image features ({error})") from None


def _is_private(path: Path) -> bool:
    """Whether only this user, or the system's administrator, can have written a file."""
    status = path.lstat()
    is_ours = status.st_uid in (0, os.geteuid()) and not status.st_mode & _OTHERS_WRITE
    return is_ours and stat.S_ISREG(status.st_mode)


_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def _read(source: CachedSource) -> bytes:
    if isinstance(source, bytes):
        return source
    if isinstance(source, (str, os.PathLike)):
        return FileImage(Path(source)).read()
    return source.read()


def _decode(
    sources: Sequence[tuple[bytes, CachedSource]], failures: dict[bytes, ImageError]
) -> dict[bytes, Image.Image]:
    """Decoded images by digest; errors go into ``failures``."""
    images: dict[bytes, Image.Image] = {}
    for digest, source in sources:
        name = BYTES_NAME if isinstance(source, bytes) else str(source)
        try:
            data = _read(source)
            if content_digest(data) != digest:
                # The new content's features must not be stored under the old content's hash.
                raise ImageError("changed_image", f"{name}: changed while it was read")
            images[digest] = load_image(data, bytes_name=name)
        except ImageError as error:
            failures[digest] = error
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


def _read_features(path: Path) -> tuple[list[bytes], Tensor] | None:
    """Digests and features ``(m, embed_dim)`` of a feature file; None if it is damaged."""
    try:
        with safe_open(str(path), framework="pt") as file:
            digests, features = file.get_tensor("digests"), file.get_tensor("features")
            expected = (file.metadata() or {}).get("sha256")
        is_ours = (digests.dtype, features.dtype) == (torch.uint8, torch.float32)
        shaped = (digests.ndim, features.ndim) == (2, 2) and digests.shape == (len(features), 32)
        if not (is_ours and shaped and features.isfinite().all()):
            return None
    except (OSError, SafetensorError):
        return None
    if expected != _checksum(digests, features):
        return None
    return [row.numpy().tobytes() for row in digests], features


def _write_features(path: Path, fresh: dict[bytes, Tensor]) -> None:
    digests = torch.tensor([list(digest) for digest in fresh], dtype=torch.uint8)
    features = torch.stack(list(fresh.values())).contiguous()
    metadata = {"format": "pt", "sha256": _checksum(digests, features)}
    with atomic_write(path, 0o600) as temporary:
        temporary.write_bytes(save({"digests": digests, "features": features}, metadata=metadata))
