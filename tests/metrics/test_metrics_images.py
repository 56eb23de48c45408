"""Images as users of torchmetrics have them: tensors beside what a scorer takes, and nothing ambiguous."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_photo
from descscore import DescScorer
from descscore.errors import ImageError, UsageError
from descscore.metrics import DescriptionScore

TEXTS = ["A cat.", "Grace Hopper, 1984", "Two dogs run over wet sand towards the sea."]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    return [make_photo(folder / f"{i}.png", seed=i, size=(40 + 9 * i, 50)) for i in range(len(TEXTS))]


@pytest.fixture(scope="module")
def scorer(tiny_folder: Path) -> DescScorer:
    return DescScorer.from_pretrained(tiny_folder, device="cpu")


def tensor(photo: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(photo).convert("RGB"))).permute(2, 0, 1)


def test_every_kind_of_image_gives_the_same_number(scorer: DescScorer, photos: list[Path]) -> None:
    photo = photos[2]
    pixels = tensor(photo)
    opaque = torch.cat([pixels, torch.full_like(pixels[:1], 255)])
    batches: list[Any] = [
        [photo],
        [str(photo)],
        np.array([str(photo)]),
        np.array([photo], dtype=object),
        [photo.read_bytes()],
        [Image.open(photo)],
        [np.array(Image.open(photo).convert("RGB"))],
        np.array(Image.open(photo).convert("RGB"))[None],
        [pixels],
        pixels,
        pixels[None],
        pixels[None] / 255,
        [pixels.double() / 255],
        [pixels.float().requires_grad_() / 255],
        [opaque],
    ]
    reference = scorer.score(photo, TEXTS[0]).cosine
    for images in batches:
        metric = DescriptionScore(scorer, per_item=True)
        metric.update(images, TEXTS[:1])
        assert metric.cosines().tolist() == pytest.approx([reference], abs=1e-6)
    metric = DescriptionScore(scorer, per_item=True)
    array = np.array(Image.open(photo))
    for single in (photo, pixels, pixels[None], Image.open(photo), array, array[None]):
        metric.update(single, TEXTS[0])
    assert metric.cosines().tolist() == pytest.approx([reference] * 6, abs=1e-6)


def test_grey_and_bfloat16_tensors_are_images_too(scorer: DescScorer) -> None:
    grey = torch.arange(0, 256, 4, dtype=torch.uint8).reshape(1, 8, 8)
    metric = DescriptionScore(scorer, per_item=True)
    metric.update([grey, grey.expand(3, -1, -1), (grey / 255).bfloat16()], TEXTS[:1] * 3)
    first, second, third = metric.cosines().tolist()
    assert first == pytest.approx(second, abs=1e-6)
    assert third == pytest.approx(first, abs=0.02)


def test_a_batch_of_tensors_pairs_row_by_row(scorer: DescScorer) -> None:
    images = torch.randint(
        0, 256, (3, 3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    metric = DescriptionScore(scorer, per_item=True)
    metric.update(images, TEXTS[:3])
    alone = [
        scorer.score(image.permute(1, 2, 0).numpy(), text).cosine
        for image, text in zip(images, TEXTS[:3], strict=True)
    ]
    assert metric.cosines().tolist() == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), r"row 0: array of type int64: expected uint8"),
        (torch.full((1, 3, 8, 8), 255.0), r"row 0: float array: values must lie in 0\.\.1, got 255\.\.255"),
        (torch.full((1, 3, 8, 8), -1.5), r"must lie in 0\.\.1"),
        (torch.full((1, 3, 8, 8), torch.nan), r"must lie in 0\.\.1"),
        ([torch.zeros(8, 9, 3, dtype=torch.uint8)], r"row 0: tensor of shape 8x9x3: expected \(channels"),
        ([torch.zeros(8, 9, dtype=torch.uint8)], r"row 0: tensor of shape 8x9"),
        (torch.zeros(8, 9, dtype=torch.uint8), r"tensor of shape 8x9 for 1 texts"),
        (torch.zeros(1, 3, 0, 8, dtype=torch.uint8), r"has no pixels"),
    ],
)
def test_tensors_that_could_mean_anything_are_refused(scorer: DescScorer, images: Any, message: str) -> None:
    metric = DescriptionScore(scorer)
    with pytest.raises(ImageError, match=message):
        metric.update(images, TEXTS[:1])
    assert int(metric.count) == 0


def test_one_image_where_a_list_belongs_is_refused(scorer: DescScorer, photos: list[Path]) -> None:
    metric = DescriptionScore(scorer)
    pixels = tensor(photos[0])
    with pytest.raises(ImageError, match=r"for 3 texts: expected \(n, channels"):
        metric.update(pixels, TEXTS[:3])
    with pytest.raises(UsageError, match="one array"):
        metric.update(pixels.permute(1, 2, 0).numpy(), TEXTS[:3])
    for image in (photos[0], str(photos[0]), bytearray(photos[0].read_bytes()), Image.open(photos[0])):
        with pytest.raises(UsageError, match="expected a list, got one"):
            metric.update(image, TEXTS[:3])
    with pytest.raises(UsageError, match="2 images but 3 texts"):
        metric.update(photos[:2], TEXTS[:3])
