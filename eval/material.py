"""Rates of the scorer's parts, and what they say together."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import PIL
import torch
from PIL import Image
from torch import Tensor

from descscore.errors import DataError
from descscore.images import PixelSpec
from descscore.stream.pairs import cores
from descscore.stream.worker import content_digest

# Pictures that take no decoding, to see how fast everything else is.


DECODE = f"{__name__}:blank"
"""For :class:`descscore.stream.pairs.StreamOptions`."""


def blank(source: str | bytes, spec: PixelSpec) -> tuple[np.ndarray[Any, Any], bytes]:
    """A black picture, of a content of its own for each ``source``; nothing is read."""
    return _black(spec), content_digest(os.fsencode(source))


@lru_cache(maxsize=1)
def _black(spec: PixelSpec) -> np.ndarray[Any, Any]:
    return np.zeros((spec.height, spec.width, 3), np.uint8)


# Captions made up for measurements of speed.


WORDS = (
    *("brown", "dog", "runs", "over", "wet", "sand", "towards", "child"),
    *("red", "coat", "green", "field", "while", "two", "men"),
)
CAPTION_TOKENS = 14
"""Length of a Flickr8k caption in CLIP tokens, start and end token included."""


def caption(number: int) -> str:
    """A caption of :data:`CAPTION_TOKENS` tokens, a different one for each number.

    They begin alike about as often as real ones do: of 1,024 captions sorted by length,
    distinct beginnings hold 0.79 of the tokens, of as many from Flickr8k 0.81.
    """
    rng = np.random.default_rng(number)
    return " ".join(rng.choice(WORDS, CAPTION_TOKENS - 2))


# Wall-clock time of work that may run on another device.


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def wait(result: Tensor) -> Tensor:
    """Wait until the device has made ``result``."""
    return result[:1].cpu()


# The machine and versions that figures belong to, in one line.


def machine(device: torch.device) -> str:
    """Processor or GPU, cores, and versions of what decides speed."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return (
        f"{name}, {cores()} cores; Python {platform.python_version()}, torch {torch.__version__}, "
        f"open_clip {open_clip.__version__}, Pillow {PIL.__version__}"
    )


def _processor() -> str:
    """Its name, and the vector instructions that torch uses: of one name there are fast and slow ones."""
    name = platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


# Photos to measure speed with: real ones from a folder, or made up with as much detail.


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


@dataclass(frozen=True)
class Work:
    """Floating-point operations. matrix: a second, of matrix products as large as the towers'.
    image, text: of one through its tower. torchmetrics: of a pair, None where it was not asked.
    batch: images that ran at a time.
    """

    matrix: float
    image: float
    text: float
    torchmetrics: float | None = None
    batch: int | None = None


@dataclass(frozen=True)
class Rates:
    """A second: images decoded by the workers; images and texts through the towers, with inputs
    resident; pairs end to end; pairs by torchmetrics, None where it was not asked. undecoded:
    pairs end to end of pictures that need no decoding, None where that was not measured.
    """

    decode: float
    image: float
    text: float
    pairs: float
    work: Work
    torchmetrics: float | None = None
    undecoded: float | None = None

    def summed(self, texts: int) -> float:
        """Pairs a second if decoding and forward passes came one after the other, on all cores."""
        return texts / (1 / self.decode + 1 / self.image + texts / self.text)

    def ceiling(self, texts: int) -> float:
        """Pairs a second at the lower of the two ceilings: decoding only, forward passes only."""
        return texts * min(self.decode, 1 / (1 / self.image + texts / self.text))

    def figures(self, texts: int) -> dict[str, float | None]:
        """What is reported, by name, for ``texts`` texts an image."""
        other, work = self.torchmetrics, self.work
        return {
            "decoding alone, images a second": self.decode,
            "image tower alone, images a second": self.image,
            "text tower alone, texts a second": self.text,
            "end to end, pairs a second": self.pairs,
            "without decoding, pairs a second": self.undecoded,
            "share of decoding and forward passes added up": self.pairs / self.summed(texts),
            "share of the lower ceiling": self.pairs / self.ceiling(texts),
            "matrix products, GFLOP a second": work.matrix / 1e9,
            "image tower, GFLOP an image": work.image / 1e9,
            "image tower, share of the matrix rate": self.image * work.image / work.matrix,
            "text tower, GFLOP a text": work.text / 1e9,
            "text tower, share of the matrix rate": self.text * work.text / work.matrix,
            "both towers, GFLOP a pair": (work.image / texts + work.text) / 1e9,
            "torchmetrics CLIPScore, GFLOP a pair": work.torchmetrics and work.torchmetrics / 1e9,
            "torchmetrics CLIPScore, pairs a second": other,
            "times torchmetrics": self.pairs / other if other else None,
            "batch size": work.batch,
        }
