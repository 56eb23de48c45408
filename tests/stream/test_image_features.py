"""Features of a stream's images: each content once, in full batches, and in bounded memory."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from batch_inputs import make_pairs
from model_passes import image_batches

from conftest import make_photo
from descscore import DescScorer
from descscore.images import ImageSource
from descscore.records import Outcome
from descscore.stream.image_features import REMEMBERED, return_freed_memory
from descscore.stream.pairs import StreamOptions


@pytest.fixture(scope="module")
def scorer(tiny_folder: Path) -> DescScorer:
    return DescScorer.from_pretrained(tiny_folder, device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_pairs(tmp_path_factory.mktemp("photos"), 7, images=7).images


def cosines(outcomes: list[Outcome]) -> list[float]:
    assert {outcome.status for outcome in outcomes} == {"ok"}
    return [outcome.score.cosine for outcome in outcomes if outcome.score is not None]


def test_images_of_one_content_are_encoded_once(
    scorer: DescScorer, photos: list[Path], tmp_path: Path
) -> None:
    copies = [tmp_path / f"copy{i}.png" for i in range(6)]
    for copy in copies:
        copy.write_bytes(photos[0].read_bytes())
    images: list[ImageSource] = [photos[0], *copies, photos[0].read_bytes(), photos[1]] * 3
    pairs = [(image, f"Text {i}.") for i, image in enumerate(images)]
    with image_batches(scorer.model.clip) as encoded:
        found = cosines(list(scorer.score_stream(pairs, StreamOptions(workers=0, window=5))))
    assert sum(encoded) == 2
    assert found == pytest.approx([scorer.score(i, t).cosine for i, t in pairs], abs=1e-6)


def test_batches_are_full_until_too_little_is_left_to_decode(scorer: DescScorer, tmp_path: Path) -> None:
    """Whatever the window: batches of ever new sizes would each cost a GPU its preparation."""
    pairs = [(make_photo(tmp_path / f"{i}.png", seed=i, size=(40, 40)), f"Text {i}.") for i in range(40)]
    with image_batches(scorer.model.clip) as encoded:
        outcomes = list(scorer.score_stream(pairs, StreamOptions(workers=0, window=6)))
    full = scorer.encoder.batch_size
    assert sum(encoded) == 40
    assert encoded[: (40 - 3 * full) // full] == [full] * ((40 - 3 * full) // full)
    assert cosines(outcomes) == pytest.approx([scorer.score(i, t).cosine for i, t in pairs], abs=1e-6)


def plain_pictures(count: int) -> Iterator[np.ndarray]:
    """Pictures of one colour each, all different."""
    for number in range(count):
        yield np.full((32, 32, 3), (number % 256, number // 256, 0), np.uint8)


def test_what_is_remembered_is_bounded(tiny_folder: Path) -> None:
    """Of one image more than there is room for, the first is encoded again, the last is not."""
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu", batch_size=64)
    pictures = list(plain_pictures(REMEMBERED + 1))
    again = [pictures[-1], pictures[0]]
    pairs = ((picture, "A cat.") for picture in [*pictures, *[pictures[-1]] * 700, *again])
    with image_batches(scorer.model.clip) as encoded:
        found = cosines(list(scorer.score_stream(pairs, StreamOptions(workers=0, window=200))))
    assert sum(encoded) == REMEMBERED + 2
    expected = [scorer.score(picture, "A cat.").cosine for picture in again]
    assert found[-2:] == pytest.approx(expected, abs=1e-6)


HOLES = """
import ctypes
import psutil
from descscore.stream.image_features import return_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

blocks = [libc.malloc(60_000) for _ in range(3000)]  # small enough to lie in the heap, 180 MB in all
for block in blocks:
    ctypes.memset(block, 1, 60_000)
for block in blocks[:-1]:
    libc.free(block)
before = psutil.Process().memory_info().rss
return_freed_memory()
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.long
def test_what_lies_free_below_a_block_in_use_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100_000_000


class CLibrary:
    """Stands in for the C library, and counts how often memory is returned."""

    def __init__(self) -> None:
        self.returned = 0

    def malloc_trim(self, _: int) -> int:
        self.returned += 1
        return 1


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> CLibrary:
    stand_in = CLibrary()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: stand_in)
    return stand_in


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    return_freed_memory()


def test_memory_is_returned_after_the_windows_of_a_stream(
    scorer: DescScorer, photos: list[Path], library: CLibrary
) -> None:
    pairs = [(photos[0], f"Text {i}.") for i in range(24)]
    cosines(list(scorer.score_stream(pairs, StreamOptions(workers=0, window=2))))
    assert library.returned >= 12 - 2


def test_memory_is_returned_within_a_window_too(
    scorer: DescScorer, tmp_path: Path, library: CLibrary
) -> None:
    """A window holds many batches, and what they leave behind would add up until its end."""
    pairs = [(make_photo(tmp_path / f"{i}.png", seed=i, size=(40, 40)), f"Text {i}.") for i in range(32)]
    cosines(list(scorer.score_stream(pairs, StreamOptions(workers=0))))
    assert library.returned >= 32 // scorer.encoder.batch_size // 2
