"""Memory that a stream freed goes back to the system, though blocks that are kept lie above it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import make_photo
from descscore import DescScorer
from descscore.stream import image_features as heap
from descscore.stream import image_features as image_stage
from descscore.stream import pairs as stream
from descscore.stream.pairs import StreamOptions

HOLES = """
import ctypes, os
from descscore.stream.image_features import give_back
from reproduce.memory import resident

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

blocks = [libc.malloc(60_000) for _ in range(3000)]  # small enough to lie in the heap, 180 MB in all
for block in blocks:
    ctypes.memset(block, 1, 60_000)
for block in blocks[:-1]:
    libc.free(block)
before = resident(os.getpid())
give_back()
print(before - resident(os.getpid()))
"""


def test_what_lies_free_below_a_block_in_use_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100_000_000


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: object())
    heap._trim.cache_clear()
    try:
        heap.give_back()
        assert heap._trim() is None
    finally:
        heap._trim.cache_clear()


def test_a_stream_gives_back_after_its_windows(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    photo = make_photo(tmp_path / "a.png", seed=1)
    times: list[None] = []
    monkeypatch.setattr(stream, "give_back", lambda: times.append(None))
    pairs = [(photo, f"Text {i}.") for i in range(24)]
    found = list(scorer.score_stream(pairs, StreamOptions(workers=0, window=2)))
    assert [outcome.status for outcome in found] == ["ok"] * 24
    assert len(times) >= 24 // 2 - stream._AHEAD


def test_a_stream_gives_back_within_a_window_too(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many batches make up a window, and what they leave behind would add up until its end."""
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu", batch_size=2)
    times: list[None] = []
    monkeypatch.setattr(image_stage, "give_back", lambda: times.append(None))
    pairs = [(make_photo(tmp_path / f"{i}.png", seed=i, size=(40, 40)), f"Text {i}.") for i in range(16)]
    list(scorer.score_stream(pairs, StreamOptions(workers=0)))
    assert len(times) == 16 // 2 // image_stage._GIVEN_BACK
