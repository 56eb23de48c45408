"""Made-up pictures, photos and captions, for measuring speed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from descscore.errors import DataError
from descscore.formats import IMAGE_SUFFIXES
from descscore.images import PixelSpec, content_digest

DECODE = f"{__name__}:blank"
"""For :class:`descscore.stream.pairs.StreamOptions`."""


def blank(source: str | bytes, spec: PixelSpec) -> tuple[np.ndarray[Any, Any], bytes]:
    """A black picture, with another digest for each ``source``; reads no file."""
    return _black(spec), content_digest(os.fsencode(source))


@lru_cache(maxsize=1)
def _black(spec: PixelSpec) -> np.ndarray[Any, Any]:
    return np.zeros((spec.height, spec.width, 3), np.uint8)


WORDS = (
    *("brown", "dog", "runs", "over", "wet", "sand", "towards", "child"),
    *("red", "coat", "green", "field", "while", "two", "men"),
)
CAPTION_TOKENS = 14
"""Length of a Flickr8k caption in CLIP tokens, start and end token included."""


def caption(number: int) -> str:
    """A caption of :data:`CAPTION_TOKENS` tokens, a different one for each number.

    They share beginnings about as often as real captions do. In 1,024 captions sorted by length, 79 %
    of the tokens are in distinct beginnings; in as many captions of Flickr8k, 81 %.
    """
    rng = np.random.default_rng(number)
    return " ".join(rng.choice(WORDS, CAPTION_TOKENS - 2))


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
    """All images in ``folder`` and below, by their endings; :class:`DataError` if there are none."""
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not photos:
        raise DataError(f"{folder}: holds no photos")
    return photos


def as_many(photos: Sequence[Path], folder: Path, count: int) -> list[Path]:
    """At least ``count`` photos; if there are fewer, copies are added.

    A copy is the photo's file with a number after its end. Decoders ignore the number. But the file's
    content is new, so a scorer that remembers contents decodes and encodes the copy again.
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
