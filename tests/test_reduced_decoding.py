"""Large JPEG files are decoded smaller: which ones, how near the result is, and everywhere alike."""

from __future__ import annotations

import io
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from picture_files import saved
from PIL import Image

from descscore import DescScorer
from descscore.cache import FeatureCache, image_key
from descscore.explanations.explainer import explain
from descscore.images import LEAST_REDUCED, PixelSpec, load_image, picture_pixels
from descscore.page.uploads import prepare as prepare_upload
from descscore.stream.worker import prepare

SPEC = PixelSpec(32, 32, "squash")
LIMIT = 2 * LEAST_REDUCED * 32
"""Pixels of an edge from which a JPEG file is decoded at half its size."""


@cache
def photo(width: int, height: int) -> Image.Image:
    """Smooth colours with edges and the noise of a sensor."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    smooth[height // 3 : height // 2, width // 4 : width // 2] = (200, 30, 60)
    return Image.fromarray((smooth + rng.integers(-5, 6, smooth.shape)).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "loaded"),
    [
        ((LIMIT, LIMIT), (LIMIT // 2, LIMIT // 2)),
        ((LIMIT - 1, LIMIT), (LIMIT - 1, LIMIT)),
        ((4 * LIMIT, LIMIT - 1), (4 * LIMIT, LIMIT - 1)),
        ((2 * LIMIT + 2, 2 * LIMIT), (LIMIT + 1, LIMIT)),
        ((2 * LIMIT + 1, 2 * LIMIT), (2 * LIMIT + 1, 2 * LIMIT)),
        ((4 * LIMIT, 5 * LIMIT), (LIMIT // 2, 5 * LIMIT // 8)),
    ],
)
def test_a_jpeg_keeps_five_times_the_size_that_the_model_takes(
    size: tuple[int, int], loaded: tuple[int, int]
) -> None:
    data = saved(Image.new("RGB", size, "red"), "JPEG")
    assert load_image(data, spec=SPEC).size == loaded
    assert load_image(data).size == size


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_smaller_pictures_and_other_formats_keep_their_exact_pixels(form: str) -> None:
    size = (LIMIT - 1, 3 * LIMIT) if form == "JPEG" else (2 * LIMIT, 2 * LIMIT)
    data = saved(photo(*size), form)
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    assert np.array_equal(np.asarray(load_image(data, spec=SPEC)), np.asarray(whole))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_what_the_model_sees_hardly_changes(orientation: int, mode: str, progressive: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = photo(4 * LIMIT + 12, 3 * LIMIT + 4).convert(mode)
    data = saved(image, "JPEG", exif=exif.tobytes(), quality=92, progressive=progressive)
    for spec in (SPEC, PixelSpec(32, 32, "shortest"), PixelSpec(24, 32, "longest")):
        reduced = load_image(data, spec=spec)
        assert reduced.width < 4 * LIMIT // 2
        found = picture_pixels(reduced, spec).astype(int)
        difference = np.abs(found - picture_pixels(load_image(data), spec))
        assert difference.mean() < 0.5
        assert difference.max() <= 12  # at a sharp edge


def test_the_shape_of_the_model_counts_in_an_upright_picture() -> None:
    """Turned, the picture has room for two of the model's heights, but not for two of its widths."""
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = PixelSpec(16, 64, "squash")
    stored = Image.new("RGB", (LEAST_REDUCED * 32, LEAST_REDUCED * 128), "red")
    assert load_image(saved(stored, "JPEG", exif=exif.tobytes()), spec=wide).size == (
        stored.height // 2,
        stored.width // 2,
    )
    assert load_image(saved(stored, "JPEG"), spec=wide).size == stored.size


def test_every_way_to_score_a_large_photo_gives_the_same_score(tmp_path: Path, tiny_folder: Path) -> None:
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    spec, text = scorer.encoder.spec, "A red square on a colourful ground."
    path = tmp_path / "large.jpg"
    path.write_bytes(saved(photo(5 * LIMIT, 3 * LIMIT), "JPEG"))
    data = path.read_bytes()
    assert load_image(data, spec=spec).width < 5 * LIMIT // 3
    expected = scorer.score(path, text).cosine
    sources = [str(path), data, Image.open(path)]
    assert [scorer.score(source, text).cosine for source in sources] == pytest.approx(
        [expected] * 3, abs=1e-6
    )
    assert scorer.score_batch(sources, [text] * 3)[2].cosine == pytest.approx(expected, abs=1e-6)
    outcomes = list(scorer.score_stream((source, text) for source in [*sources, Image.open(path)]))
    found = [outcome.score.cosine for outcome in outcomes if outcome.score is not None]
    assert found == pytest.approx([expected] * 4, abs=1e-6)
    assert explain(path, text, scorer=scorer).score.cosine == pytest.approx(expected, abs=1e-6)
    pixels = prepare(str(path), spec)[0]
    assert np.array_equal(pixels, picture_pixels(load_image(path, spec=spec), spec))
    assert np.array_equal(pixels, prepare_upload(data, spec)[0])
    cache = FeatureCache(tmp_path / "cache", image_key(scorer.model))
    features = cache.get_many([path], scorer.encoder.images, spec)
    assert float(features[0] @ scorer.encoder.texts([text]).features[0].cpu()) == pytest.approx(
        expected, abs=1e-6
    )


def test_the_signature_says_how_files_become_pixels(tiny_folder: Path) -> None:
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    assert f"-v2-dct{LEAST_REDUCED}|" in scorer.signature


def test_a_large_photo_is_read_at_twice_the_rate() -> None:
    data = saved(photo(2000, 1504), "JPEG", quality=90)
    spec = PixelSpec(72, 72, "squash")

    def seconds(reduces: bool) -> float:
        start = time.process_time()
        picture_pixels(load_image(data, spec=spec if reduces else None), spec)
        return time.process_time() - start

    pairs = [(seconds(False), seconds(True)) for _ in range(3)]
    assert min(whole for whole, _ in pairs) > 2 * min(reduced for _, reduced in pairs)
