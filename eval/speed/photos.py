"""Photos to measure speed with: real ones from a folder, or made up with as much detail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from descscore.errors import DataError

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def make_photos(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """JPEG photos of ``size`` with the detail of real ones (about a third of a byte a pixel)."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(count):
        rng = np.random.default_rng(i)
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(size)
        fine = rng.normal(0, 6, (size[1], size[0], 1))
        pixels = (np.asarray(coarse, np.float32) + fine).clip(0, 255).astype(np.uint8)
        paths.append(folder / f"{i:05d}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=85)
    return paths


def find_photos(folder: Path) -> list[Path]:
    """All photos in ``folder``; :class:`DataError` where there are none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES)
    if not found:
        raise DataError(f"{folder}: holds no photos ({', '.join(PHOTO_SUFFIXES)})")
    return found


def as_many(photos: Sequence[Path], folder: Path, count: int) -> list[Path]:
    """At least ``count`` photos: where there are fewer, all are used again as files of their own,
    as often as it takes.

    Such a file has the pixels of the photo and a number behind its end, which decoders
    pass over, so that a scorer that knows contents again decodes and encodes it anew.
    """
    out = list(photos)
    folder.mkdir(parents=True, exist_ok=True)
    while len(out) < count:
        out += [_copy(photo, folder, len(out) + i) for i, photo in enumerate(photos)]
    return out


def _copy(photo: Path, folder: Path, number: int) -> Path:
    copy = folder / f"copy{number:06d}{photo.suffix}"
    copy.write_bytes(photo.read_bytes() + number.to_bytes(8, "big"))
    return copy
