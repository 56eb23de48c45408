"""Preparing pictures without torch equals open_clip's own transform, to the bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from descscore import DescScorer
from descscore.encoder import find_batch_size
from descscore.errors import ModelError
from descscore.images import picture_pixels, pixel_spec


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@settings(deadline=None, max_examples=150)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    size=st.sampled_from([32, 33, (32, 48), (47, 31), (32, 32)]),
    mode=st.sampled_from(["shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
)
def test_equals_open_clips_transform(
    width: int, height: int, size: Any, mode: str, interpolation: str
) -> None:
    if mode == "longest" and max(width, height) > 30 * min(width, height):
        return  # a side would round to nothing, which open_clip cannot do either
    config = {"size": size, "resize_mode": mode, "interpolation": interpolation, "fill_color": 7}
    image = picture(width, height)
    original = image_transform_v2(PreprocessCfg(**config), is_train=False)
    cut = [step for step in original.transforms if type(step).__name__ not in ("MaybeToTensor", "Normalize")]
    expected = image
    for step in cut:
        expected = step(expected)
    found = picture_pixels(image, pixel_spec(config))
    assert np.array_equal(found, np.asarray(expected))


def test_prepared_pixels_give_the_features_of_the_pictures(tiny_folder: Path) -> None:
    encoder = DescScorer.from_pretrained(tiny_folder, device="cpu", batch_size=3).encoder
    images = [picture(40 + i, 60, seed=i) for i in range(7)]
    pixels = torch.from_numpy(np.stack([picture_pixels(image, encoder.spec) for image in images]))
    torch.testing.assert_close(encoder.pixels(pixels), encoder.images(images), rtol=0, atol=1e-7)


def test_an_unknown_resize_mode_is_refused() -> None:
    with pytest.raises(ModelError, match="'stretch'"):
        pixel_spec({"size": 32, "resize_mode": "stretch", "interpolation": "bicubic"})


def test_a_decoding_worker_imports_no_torch() -> None:
    code = "import sys, descscore.stream.worker; print(sorted({'torch', 'open_clip'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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
