"""The metric over records, and errors that keep names through pickling."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import make_photo
from descscore import DescScorer, RecordMetric
from descscore.errors import DataError, ImageError, InputError, TextError, UsageError

TEXTS = ["A cat.", "Grace Hopper, 1984", "A tower in fog."]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    return [make_photo(folder / f"{i}.png", seed=i) for i in range(len(TEXTS))]


@pytest.fixture(scope="module")
def scorer(tiny_folder: Path) -> DescScorer:
    return DescScorer.from_pretrained(tiny_folder, device="cpu")


def test_a_score_for_every_record_in_their_order(
    tiny_folder: Path, scorer: DescScorer, photos: list[Path]
) -> None:
    metric = RecordMetric(tiny_folder)
    records = [{"image": photo, "text": text, "human": 3} for photo, text in zip(photos, TEXTS, strict=True)]
    expected = scorer.score_batch(photos, TEXTS)
    found = metric(records)
    assert all(type(value) is float for value in found)
    assert found == pytest.approx([result.score for result in expected], abs=1e-6)
    assert metric(reversed(records)) == pytest.approx(found[::-1], abs=1e-6)
    assert metric(iter(records)) == found
    assert metric([]) == []
    assert metric.dicts(records) == [result.to_dict() for result in metric.scores(records)]
    assert json.loads(json.dumps(metric.dicts(records)))[1]["cosine"] == pytest.approx(
        expected[1].cosine, abs=1e-6
    )
    assert metric.signature == scorer.signature


def test_names_of_the_keys_and_kinds_of_image_are_free(scorer: DescScorer, photos: list[Path]) -> None:
    metric = RecordMetric(scorer, image="img", text="cand")
    image = Image.open(photos[0])
    kinds = [photos[0], str(photos[0]), photos[0].read_bytes(), image, np.array(image)]
    found = metric([{"img": kind, "cand": TEXTS[0], "refs": []} for kind in kinds])
    assert found == pytest.approx([scorer.score(photos[0], TEXTS[0]).score] * len(kinds), abs=1e-6)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (
            [{"image": "a.png", "text": "a"}, {"img": "a.png", "text": "a"}],
            "^record 1: no 'image'; it has 'img', 'text'$",
        ),
        ([{}], "^record 0: no 'image' and no 'text'; it has nothing$"),
        ([("a.png", "a")], "^record 0: expected a dict, got tuple$"),
        (
            [None, {"image": "a.png"}],
            "^record 0: expected a dict, got NoneType; record 1: no 'text'; it has 'image'$",
        ),
        ([{}] * 12, "; and 2 more$"),
    ],
)
def test_a_record_that_lacks_something_is_named(scorer: DescScorer, records: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        RecordMetric(scorer)(records)


def test_a_record_that_cannot_be_scored_is_named(
    scorer: DescScorer, photos: list[Path], tmp_path: Path
) -> None:
    metric = RecordMetric(scorer)
    good = {"image": photos[0], "text": "A cat."}
    with pytest.raises(
        TextError, match=r"^record 1: text '': empty or blank; record 3: text: expected a string"
    ):
        metric([good, {**good, "text": ""}, good, {**good, "text": None}])
    with pytest.raises(ImageError, match=r"^record 2: .*none\.png: no such file$"):
        metric([good, good, {**good, "image": tmp_path / "none.png"}])
    with pytest.raises(ImageError, match=r"^record 0: image: expected a path"):
        metric([{**good, "image": None}])


@pytest.mark.parametrize("records", [{"image": "a.png", "text": "a"}, "records.json", b"x"])
def test_one_record_is_no_list(scorer: DescScorer, records: Any) -> None:
    with pytest.raises(UsageError, match="expected a list of dicts, got one"):
        RecordMetric(scorer)(records)


def test_errors_say_which_rows_also_after_pickling(scorer: DescScorer, photos: list[Path]) -> None:
    with pytest.raises(TextError) as caught:
        scorer.score_batch(photos, ["A cat.", "", 3])  # type: ignore[list-item]
    back = pickle.loads(pickle.dumps(caught.value))
    for error in (caught.value, back):
        assert {row: found.kind for row, found in error.rows.items()} == {1: "empty_text", 2: "not_text"}
    assert (str(back), back.kind) == (str(caught.value), caught.value.kind)
    assert InputError("kind", "message").rows == {}
