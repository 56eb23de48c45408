"""descscore.coco beside pycocoevalcap's own scorers, in pycocoevalcap's own loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pycocoevalcap.eval
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocotools.coco import COCO

from conftest import make_photo
from descscore import DescScorer
from descscore.coco import DescScore
from descscore.errors import DataError, ImageError, ModelError, TextError, UsageError

IDS = [30, 4, 11]
RESULTS = {4: ["a tower in fog"], 11: ["two dogs run over wet sand"], 30: ["a cat on a wall"]}
REFERENCES = {
    30: ["a grey cat on a wall", "a cat"],
    4: ["a tower", "fog and a tower"],
    11: ["dogs on a beach"],
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    folder = tmp_path_factory.mktemp("photos")
    return {number: make_photo(folder / f"{number}.png", seed=number) for number in (4, 11, 30, 99)}


@pytest.fixture(scope="module")
def scorer(tiny_folder: Path) -> DescScorer:
    return DescScorer.from_pretrained(tiny_folder, device="cpu")


@pytest.fixture(scope="module")
def expected(scorer: DescScorer, images: dict[Any, Path]) -> dict[int, float]:
    return {number: scorer.score(images[number], RESULTS[number][0]).score for number in IDS}


def test_scores_stand_in_the_order_of_the_other_scorers(
    scorer: DescScorer, images: dict[Any, Path], expected: dict[int, float]
) -> None:
    found = {}
    for other, method in [
        (Bleu(4), ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4"]),
        (Rouge(), "ROUGE_L"),
        (Cider(), "CIDEr"),
        (DescScore(images, scorer), "DescScore"),
    ]:
        found[str(method)] = other.compute_score(REFERENCES, RESULTS)
    mean, scores = found["DescScore"]
    assert isinstance(scores, np.ndarray)
    assert (scores.dtype, scores.shape) == (np.float64, found["CIDEr"][1].shape)
    assert scores.tolist() == pytest.approx([expected[number] for number in REFERENCES], abs=1e-6)
    assert mean == pytest.approx(np.mean(list(expected.values())), abs=1e-6)
    # The references' order is not the results': a scorer that took the wrong one would differ here.
    assert list(REFERENCES) != list(RESULTS)
    assert found["ROUGE_L"][1][0] == Rouge().calc_score(RESULTS[30], REFERENCES[30])


class PlainTokenizer:
    """In place of the tokenizer that needs Java."""

    def tokenize(self, captions: dict[int, list[dict[str, str]]]) -> dict[int, list[str]]:
        return {number: [row["caption"] for row in rows] for number, rows in captions.items()}


def test_it_runs_in_the_evaluation_loop_itself(
    scorer: DescScorer,
    images: dict[Any, Path],
    expected: dict[int, float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pycocoevalcap.eval, "PTBTokenizer", PlainTokenizer)
    monkeypatch.setattr(pycocoevalcap.eval, "Meteor", Rouge)  # this and Spice need Java
    monkeypatch.setattr(pycocoevalcap.eval, "Spice", lambda: DescScore(images, scorer))
    coco = COCO()
    rows = [(number, text) for number in IDS for text in REFERENCES[number]]
    coco.dataset = {
        "images": [{"id": number} for number in IDS],
        "annotations": [{"image_id": n, "caption": text, "id": i} for i, (n, text) in enumerate(rows)],
    }
    coco.createIndex()
    results = coco.loadRes([{"image_id": number, "caption": RESULTS[number][0]} for number in RESULTS])
    evaluation = pycocoevalcap.eval.COCOEvalCap(coco, results)
    evaluation.evaluate()
    assert "computing DescScore score..." in capsys.readouterr().out
    assert {row["image_id"]: row["SPICE"] for row in evaluation.evalImgs} == pytest.approx(expected, abs=1e-6)
    assert evaluation.eval["SPICE"] == pytest.approx(np.mean(list(expected.values())), abs=1e-6)
    assert 0 < evaluation.eval["ROUGE_L"] < 1


def test_results_before_the_tokenizer_are_taken_too(
    scorer: DescScorer, images: dict[Any, Path], expected: dict[int, float]
) -> None:
    raw = {number: [{"image_id": number, "caption": texts[0]}] for number, texts in RESULTS.items()}
    _, scores = DescScore(images, scorer).compute_score(REFERENCES, raw)
    assert scores.tolist() == pytest.approx([expected[number] for number in REFERENCES], abs=1e-6)


def test_a_model_by_name_and_its_signature(
    tiny_folder: Path, images: dict[Any, Path], expected: dict[int, float]
) -> None:
    metric = DescScore(images, tiny_folder)
    assert metric.compute_score(REFERENCES, RESULTS)[0] == pytest.approx(
        np.mean(list(expected.values())), abs=1e-6
    )
    assert metric.method() == "DescScore"
    assert "|weights:" in metric.signature
    with pytest.raises(ModelError, match="no-such-model"):
        DescScore(images, "no-such-model")


def test_image_ids_that_do_not_match_are_named(scorer: DescScorer, images: dict[Any, Path]) -> None:
    metric = DescScore({4: images[4], 30: images[30]}, scorer)
    with pytest.raises(DataError, match=r"^no image for image id 11$"):
        metric.compute_score(REFERENCES, RESULTS)
    with pytest.raises(DataError, match=r"^no result for image id 30, 11$"):
        metric.compute_score(REFERENCES, {4: RESULTS[4]})
    with pytest.raises(DataError, match=r"^results but no references for image id 11$"):
        metric.compute_score({4: [], 30: []}, RESULTS)
    with pytest.raises(DataError, match="nothing to score"):
        metric.compute_score({}, {})
    many = {number: ["a"] for number in range(100, 115)}
    with pytest.raises(DataError, match=r"no image for image id 100, .*, 109, and 5 more$"):
        metric.compute_score(many, many)


def test_ids_of_another_type_are_told_apart(scorer: DescScorer, images: dict[Any, Path]) -> None:
    metric = DescScore({str(number): path for number, path in images.items()}, scorer)
    with pytest.raises(
        DataError, match=r"no image for image id 30, 4, 11; the ids of the images are str, such as '4'"
    ):
        metric.compute_score(REFERENCES, RESULTS)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "image id 11: 0 results; it must be one"),
        (["a", "b"], "image id 11: 2 results; it must be one"),
        ("a dog", "image id 11: expected a list of one text, got str"),
        (None, "image id 11: expected a list of one text, got NoneType"),
    ],
)
def test_not_one_text_names_the_image_id(
    scorer: DescScorer, images: dict[Any, Path], texts: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        DescScore(images, scorer).compute_score(REFERENCES, {**RESULTS, 11: texts})


def test_what_cannot_be_scored_names_the_image_id(
    scorer: DescScorer, images: dict[Any, Path], tmp_path: Path
) -> None:
    metric = DescScore(images, scorer)
    with pytest.raises(TextError, match=r"^image id 11: text ' ': empty or blank$"):
        metric.compute_score(REFERENCES, {**RESULTS, 11: [" "]})
    with pytest.raises(TextError, match="image id 30: text: expected a string, got int"):
        metric.compute_score(REFERENCES, {**RESULTS, 30: [3]})
    broken = DescScore({**images, "x y": tmp_path / "none.png", 4: tmp_path / "gone.png"}, scorer)
    with pytest.raises(TextError) as caught:
        broken.compute_score({**REFERENCES, "x y": []}, {**RESULTS, "x y": ["a"], 30: [""]})
    assert caught.value.kind == "empty_text"
    for part in ("image id 4: ", "gone.png", "image id 30: text ''", "image id 'x y': "):
        assert part in str(caught.value)
    with pytest.raises(ImageError, match=r"^image id 4: .*gone"):
        broken.compute_score(REFERENCES, RESULTS)
    with pytest.raises(UsageError, match="expected a dict of image id and image, got list"):
        DescScore(list(images.values()), scorer)  # type: ignore[arg-type]
