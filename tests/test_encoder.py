"""Rows as they go through a model in batches, and what happens when a batch does not fit into memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from descscore import DescScorer
from descscore.encoder import BatchSize, find_batch_size
from descscore.errors import ModelError
from descscore.images import picture_pixels


def sizes(parts: list[slice]) -> list[int]:
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    return [part.stop - part.start for part in parts]


def test_as_many_short_rows_as_take_the_room_of_full_ones() -> None:
    """Room for two rows of ten: ten of two, six of three, one of ten with one of nine."""
    lengths = [2] * 12 + [3] * 6 + [9, 10, 10]
    parts = BatchSize(2).run_lengths(lengths, 10, lambda part: part)
    assert sizes(parts) == [10, 6, 2, 2, 1]
    for part in parts:
        assert (part.stop - part.start) * lengths[part.stop - 1] <= 20


def test_a_row_over_the_full_length_still_runs() -> None:
    assert sizes(BatchSize(2).run_lengths([30, 40], 10, lambda part: part)) == [1, 1]


def test_batch_size_one_is_one_row_however_short() -> None:
    assert sizes(BatchSize(1).run_lengths([2, 2, 2], 10, lambda part: part)) == [1, 1, 1]


@pytest.mark.parametrize("most", [1, 2, 5, 100])
def test_what_does_not_fit_is_halved_until_it_does(most: int) -> None:
    batches, tried = BatchSize(8), []

    def run(part: slice) -> slice:
        tried.append(part.stop - part.start)
        if tried[-1] > most:
            raise MemoryError
        return part

    parts = batches.run_lengths([3] * 40, 10, run)
    assert sum(sizes(parts)) == 40
    assert max(sizes(parts)) <= most
    assert len(tried) - len(parts) <= 4
    assert batches.value <= 8


@pytest.mark.parametrize("full", [1, 2, 7, 64, 100, 1024])
def test_few_sizes_hold_any_number_of_rows(full: int) -> None:
    """Of a full batch at most half is more than was asked for, and but few sizes ever occur."""
    found = {count: BatchSize(full).next_size(count) for count in range(1, full + 1)}
    assert all(count <= size <= min(full, 2 * count) for count, size in found.items())
    assert len(set(found.values())) <= full.bit_length() + 1
    assert found[full] == full


def test_rounded_sizes_by_hand() -> None:
    sizes_of_100 = {1: 1, 2: 2, 3: 4, 5: 7, 8: 13, 13: 13, 14: 25, 26: 50, 51: 100, 100: 100}
    assert {count: BatchSize(100).next_size(count) for count in sizes_of_100} == sizes_of_100


def test_one_row_that_does_not_fit_is_an_error() -> None:
    def run(part: slice) -> slice:
        raise MemoryError

    with pytest.raises(ModelError, match="single row"):
        BatchSize(4).run_lengths([5, 5], 10, run)


def test_prepared_pixels_give_open_clips_features(tiny_folder: Path) -> None:
    encoder = DescScorer.from_pretrained(tiny_folder, device="cpu", batch_size=3).encoder
    noise = np.random.default_rng(0).integers(0, 256, (7, 60, 47, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels[:, : 40 + i]) for i, pixels in enumerate(noise)]
    pixels = torch.from_numpy(np.stack([picture_pixels(image, encoder.spec) for image in images]))
    torch.testing.assert_close(encoder.pixels(pixels), encoder.images(images), rtol=0, atol=1e-6)
    with torch.inference_mode():
        preprocess = open_clip.create_model_and_transforms(f"local-dir:{tiny_folder}")[2]
        ready = torch.stack([preprocess(image) for image in images])
        expected = encoder.model.clip.encode_image(ready, normalize=True)
    torch.testing.assert_close(encoder.pixels(pixels), expected, rtol=0, atol=1e-6)


def test_the_batch_size_stops_growing_where_the_rate_does() -> None:
    """Rates of 1, 2, 4, 4.1 at 64, 128, 256, 512: 256; where 256 does not fit: 128."""
    now = 0.0
    limit = 10**9

    def run(size: int) -> None:
        nonlocal now
        if size > limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        now += size / {64: 1, 128: 2, 256: 4, 512: 4.1}[size]

    assert find_batch_size(run, torch.device("cuda"), lambda: now) == 256
    limit = 200
    assert find_batch_size(run, torch.device("cuda"), lambda: now) == 128
    assert find_batch_size(run, torch.device("cpu"), lambda: now) == 32
