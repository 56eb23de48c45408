"""The module that Hugging Face's evaluate loads, through evaluate.load, with the network off."""

from __future__ import annotations

import io
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import evaluate
import evaluate.config
import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_photo
from descscore import DescScorer
from descscore.errors import DataError, ImageError, TextError
from descscore.evaluate_module import module_path

TEXTS = ["A cat.", "Grace Hopper, 1984", "A tower in fog."]

LENGTH = """
import datasets
import evaluate

class Words(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, *, predictions):
        return {"words": sum(len(text.split()) for text in predictions)}
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    return [make_photo(folder / f"{i}.jpg", seed=i) for i in range(len(TEXTS))]


@pytest.fixture(scope="module")
def scorer(tiny_folder: Path) -> DescScorer:
    return DescScorer.from_pretrained(tiny_folder, device="cpu")


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No connection, and nothing written outside the test's own folder."""

    def refuse(*args: object) -> None:
        raise AssertionError(f"the network was used: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path / "modules")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in [name for name in sys.modules if name.startswith("evaluate_modules")]:
        del sys.modules[name]


@pytest.fixture
def metric(no_network: None, tmp_path: Path) -> Any:
    return evaluate.load(module_path(), cache_dir=str(tmp_path / "cache"))


def test_it_gives_the_scorers_numbers(
    metric: Any, tiny_folder: Path, scorer: DescScorer, photos: list[Path]
) -> None:
    expected = scorer.score_batch(photos, TEXTS)
    for model in (str(tiny_folder), scorer):
        found = metric.compute(predictions=TEXTS, images=[str(photo) for photo in photos], model=model)
        assert found["scores"] == pytest.approx([result.score for result in expected], abs=1e-6)
        assert found["cosines"] == pytest.approx([result.cosine for result in expected], abs=1e-6)
        assert found["description_score"] == pytest.approx(np.mean(found["scores"]), abs=1e-6)
        assert found["signature"] == scorer.signature
    windows = metric.compute(
        predictions=TEXTS[:1], images=photos[:1], model=tiny_folder, text_policy="windows", device="cpu"
    )
    assert windows["signature"].endswith("text:windows77")
    assert (metric.name, metric.module_type) == ("description_score", "metric")
    assert "images (list)" in metric.inputs_description


def test_a_model_by_default_is_the_bundled_one(metric: Any, photos: list[Path]) -> None:
    found = metric.compute(predictions=TEXTS[:1], images=photos[:1])
    expected = DescScorer.from_pretrained().score(photos[0], TEXTS[0])
    assert found["description_score"] == pytest.approx(expected.score, abs=1e-6)


def test_pictures_are_stored_without_losses(metric: Any, scorer: DescScorer, photos: list[Path]) -> None:
    from_file = Image.open(photos[0])
    # Without a file name a JPEG would be compressed once more, and with one a
    # picture that was changed would be read again as it was.
    from_bytes = Image.open(io.BytesIO(photos[0].read_bytes()))
    changed = Image.open(photos[0])
    changed.thumbnail((20, 20))
    see_through = Image.fromarray(np.full((8, 8, 4), (200, 30, 30, 60), np.uint8), "RGBA")
    kinds: list[Any] = [
        photos[0], str(photos[0]), photos[0].read_bytes(), from_file, from_bytes, np.array(from_file),
        np.array(from_file) / 255, changed, see_through, from_file.convert("CMYK"), from_file.convert("P"),
        torch.from_numpy(np.array(from_file)).permute(2, 0, 1), memoryview(photos[0].read_bytes()),
    ]  # fmt: skip
    found = metric.compute(predictions=["A cat."] * len(kinds), images=kinds, model=scorer)
    expected = [scorer.score(kind, "A cat.").cosine for kind in kinds]
    assert found["cosines"] == pytest.approx(expected, abs=1e-6)
    assert len({round(value, 5) for value in found["cosines"]}) > 2


def test_an_image_that_occurs_again_is_encoded_once(
    metric: Any, scorer: DescScorer, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    encode = scorer.encoder.pixels
    monkeypatch.setattr(scorer.encoder, "pixels", lambda pixels: counts.append(len(pixels)) or encode(pixels))
    picture = Image.open(photos[1])
    images = [photos[0], str(photos[0]), picture, picture]
    metric.compute(predictions=["A cat.", "A dog.", "A cat.", "A dog."], images=images, model=scorer)
    assert counts == [2]


def test_one_by_one_and_in_batches(metric: Any, scorer: DescScorer, photos: list[Path]) -> None:
    metric.add(prediction=TEXTS[0], images=Image.open(photos[0]))
    metric.add_batch(predictions=TEXTS[1:], images=photos[1:])
    expected = [result.score for result in scorer.score_batch(photos, TEXTS)]
    assert metric.compute(model=scorer)["scores"] == pytest.approx(expected, abs=1e-6)


def test_beside_another_metric(metric: Any, scorer: DescScorer, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text(LENGTH)
    words = evaluate.load(str(tmp_path / "words.py"), cache_dir=str(tmp_path / "cache"))
    both = evaluate.combine([metric, words])
    both.add_batch(predictions=TEXTS, images=photos)
    found = both.compute()
    assert found["words"] == 9
    expected = DescScorer.from_pretrained().score_batch(photos, TEXTS)
    assert found["description_score"] == pytest.approx(np.mean([r.score for r in expected]), abs=1e-6)
    both.add(prediction=TEXTS[0], images=photos[0])
    assert both.compute()["words"] == 2


def test_what_cannot_be_scored_is_named_and_does_not_stay(
    metric: Any, scorer: DescScorer, photos: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(TextError, match=r"^prediction 1: text ' ': empty or blank$"):
        metric.compute(predictions=["A cat.", " ", "a"], images=photos, model=scorer)
    with pytest.raises(ImageError, match=r"^prediction 0: .*none\.png: no such file$"):
        metric.compute(predictions=["a"], images=[tmp_path / "none.png"], model=scorer)
    with pytest.raises(ImageError, match=r"^prediction 0: image bytes: empty$"):
        metric.compute(predictions=["a"], images=[b""], model=scorer)
    with pytest.raises(ImageError, match=r"^image 1: array of type int64"):
        metric.compute(predictions=TEXTS[:2], images=[photos[0], np.zeros((8, 8), int)], model=scorer)
    found = metric.compute(predictions=TEXTS[:1], images=photos[:1], model=scorer)
    assert found["scores"] == pytest.approx([scorer.score(photos[0], TEXTS[0]).score], abs=1e-6)


def test_inputs_that_do_not_fit_are_errors(metric: Any, scorer: DescScorer, photos: list[Path]) -> None:
    with pytest.raises(ValueError, match="images"):
        metric.compute(predictions=TEXTS, model=scorer)
    with pytest.raises(ValueError, match=r"Mismatch in the number of predictions \(3\) and images \(2\)"):
        metric.compute(predictions=TEXTS, images=photos[:2], model=scorer)
    with pytest.raises(DataError, match="nothing to score"):
        metric.compute(predictions=[], images=[], model=scorer)
