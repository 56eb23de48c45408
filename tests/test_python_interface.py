"""What a person at a Python prompt or in a notebook meets: short names of results, order, frames, tensors."""

from __future__ import annotations

import html.parser
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from conftest import make_photo
from descscore import DescScorer, Pair, explain
from descscore.errors import ImageError, UsageError
from descscore.records import Comparison, Score
from descscore.stream.pairs import StreamOptions

TEXTS = ["A cat.", "Grace Hopper, 1984", "Two dogs run over wet sand towards the sea."]
INLINE = StreamOptions(workers=0)


@pytest.fixture(scope="module")
def scorer(tiny_folder: Path) -> DescScorer:
    return DescScorer.from_pretrained(tiny_folder, device="cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    return [make_photo(folder / f"{i}.png", seed=i) for i in range(3)]


def full_score(**given: Any) -> Score:
    fields = {
        "score": 2.4999999,
        "cosine": -0.99999999,
        "clip_score": 1.23456789,
        "description_probability": 1 / 3,
        "percentile": 100.0,
        "tokens": 123456,
        "truncated": True,
        "windows": 12,
        "signature": "descscore:0.1.0|model:<b>x</b>|" + "w" * 200,
    }
    return Score(**{**fields, **given})


def test_results_and_scorer_name_themselves_on_one_line(
    scorer: DescScorer, photos: list[Path], tiny_folder: Path
) -> None:
    """Before, a score printed fifteen fields with all their digits over four lines."""
    comparison = scorer.compare(photos[0], TEXTS[0], TEXTS[1])
    for value in (scorer, scorer.score(photos[0], TEXTS[0]), full_score(), comparison):
        assert len(repr(value)) <= 80
        assert repr(value).startswith(f"{type(value).__name__}(")
        assert "\n" not in repr(value)
    assert tiny_folder.name in repr(scorer)
    assert "good 100 %" in repr(full_score())
    assert repr(full_score(percentile=None, description_probability=None)).count("%") == 0
    assert pickle.loads(pickle.dumps(comparison)) == comparison


class Tables(html.parser.HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows:
            self.rows[-1][-1] += data


def test_a_notebook_gets_a_table_that_escapes_and_has_heads() -> None:
    one = full_score()
    both = Comparison(one, full_score(percentile=None), 0.1, "description", 0.5, one.signature)
    for value, width in ((one, 2), (both, 3)):
        page = Tables(value._repr_html_())
        names = [tag for tag, _ in page.tags]
        assert names[:2] == ["table", "caption"]
        assert "b" not in names
        assert all(attrs.get("scope") in ("row", "col") for tag, attrs in page.tags if tag == "th")
        assert {len(row) for row in page.rows} == {width}
        cells = {row[0]: row[1:] for row in page.rows}
        assert cells["clip_score"][0] == "1.2346"
        assert cells["signature"][0] == one.signature
        assert "reference_score" not in cells
    assert {row[0]: row[1:] for row in page.rows}["percentile"] == ["100.0000", ""]


def test_results_sort_also_below_zero_where_scores_tie() -> None:
    cosines = [0.3, -0.2, -0.1, 0.9]
    scores = [full_score(score=2.5 * max(c, 0), cosine=c) for c in cosines]
    assert [s.cosine for s in sorted(scores)] == sorted(cosines)
    assert max(scores).cosine == 0.9
    comparisons = [Comparison(s, scores[0], s.cosine, "tie", 0.5, "") for s in scores]
    assert [c.margin for c in sorted(comparisons, reverse=True)] == sorted(cosines, reverse=True)
    with pytest.raises(TypeError):
        assert scores[0] < 0.5  # type: ignore[operator]


def test_ranked_texts_are_those_of_scoring_the_best_first(scorer: DescScorer, photos: list[Path]) -> None:
    texts = [*TEXTS, TEXTS[0]]
    ranked = scorer.rank(photos[0], texts)
    cosines = [scorer.score(photos[0], text).cosine for text in texts]
    order = sorted(range(4), key=lambda i: -round(cosines[i], 5))
    assert [text for text, _ in ranked] == [texts[i] for i in order]
    assert [score.cosine for _, score in ranked] == pytest.approx([cosines[i] for i in order], abs=1e-6)
    assert scorer.rank(photos[0], []) == []
    with pytest.raises(UsageError, match="texts: expected a list"):
        scorer.rank(photos[0], "A cat.")


def test_one_image_serves_many_texts_and_is_encoded_once(
    scorer: DescScorer, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = scorer.score_batch([photos[0]] * 3, TEXTS)
    encoded = []
    real = scorer.encoder.pixels
    monkeypatch.setattr(scorer.encoder, "pixels", lambda pixels: encoded.append(len(pixels)) or real(pixels))
    with Image.open(photos[0]) as opened:
        picture = opened.convert("RGB")
    for image in (photos[0], str(photos[0]), photos[0].read_bytes(), picture, np.array(picture)):
        encoded.clear()
        assert scorer.score_batch(image, TEXTS) == expected
        assert encoded == [1]


def test_a_column_of_paths_is_a_list_whatever_holds_it(scorer: DescScorer, photos: list[Path]) -> None:
    paths, texts = [str(photo) for photo in photos[:2]], TEXTS[:2]
    expected = scorer.score_batch(paths, texts)
    frame = pd.DataFrame({"image": paths, "text": texts})
    for column in (np.array(paths), np.array(paths, dtype=object), frame["image"], frame["image"].array):
        assert scorer.score_batch(column, frame["text"].to_numpy()) == expected


def test_tensors_score_as_their_pictures_everywhere(scorer: DescScorer, photos: list[Path]) -> None:
    with Image.open(photos[0]) as opened:
        pixels = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
    expected = scorer.score(photos[0], TEXTS[0]).cosine
    for tensor in (pixels, pixels.float() / 255, pixels.double().requires_grad_() / 255):
        (streamed,) = scorer.score_stream([(tensor, TEXTS[0])], INLINE)
        assert streamed.score is not None
        values = [
            scorer.score(tensor, TEXTS[0]),
            *scorer.score_batch(tensor, TEXTS[:1]),
            *scorer.score_batch([tensor], TEXTS[:1]),
            *scorer.score_batch(tensor[None], TEXTS[:1]),
            scorer.compare(tensor, TEXTS[0], TEXTS[1]).description,
            streamed.score,
        ]
        assert [value.cosine for value in values] == pytest.approx([expected] * 6, abs=1e-6)
    wrong = pixels.permute(1, 2, 0)
    with pytest.raises(ImageError, match=r"expected \(channels, height, width"):
        scorer.score(wrong, TEXTS[0])
    with pytest.raises(ImageError, match="row 1: image: tensor of shape"):
        scorer.score_batch([pixels, wrong], TEXTS[:2])
    (failed,) = scorer.score_stream([(wrong, TEXTS[0])], INLINE)
    assert failed.status == "bad_array"


def test_the_scorer_explains(scorer: DescScorer, photos: list[Path]) -> None:
    one = scorer.explain(photos[0], TEXTS[0])
    assert one == explain(photos[0], TEXTS[0], scorer=scorer)


def test_a_stream_takes_dicts_by_their_keys(scorer: DescScorer, photos: list[Path]) -> None:
    article, good = "An article on cats.", ["A cat on a wall."]
    dicts: list[Any] = [
        {"image": photos[0], "text": TEXTS[0], "id": 7},
        {"image": photos[1], "text": TEXTS[1], "context": article, "references": good, "id": "b"},
        {"image": photos[2]},
        {"text": TEXTS[2], "id": "d"},
        {"image": None, "text": TEXTS[2]},
        (photos[2], TEXTS[2]),
    ]
    outcomes = list(scorer.score_stream(dicts, INLINE))
    assert [outcome.id for outcome in outcomes] == ["7", "b", None, "d", None, None]
    pairs = [(photos[0], TEXTS[0]), Pair(photos[1], TEXTS[1], article, good), (photos[2], TEXTS[2])]
    expected = [outcome.score for outcome in scorer.score_stream(pairs, INLINE)]
    assert [outcome.score for outcome in outcomes if outcome.score] == expected
    assert [outcome.status for outcome in outcomes[2:5]] == ["missing_text", "missing_image", "missing_image"]
    assert "no key image; its keys: text, id" in str(outcomes[3].error)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"picture": 0, "text": "A cat."}, "unknown keys picture;"),
        ({"image": 0, "text": "A cat.", "refrences": [], "width": 4}, "unknown keys refrences, width;"),
        ({"photo": 0, "alt": "A cat."}, "unknown keys photo, alt;"),
        ({}, "no keys;"),
    ],
)
def test_a_dict_with_other_keys_is_an_error_that_names_them(
    scorer: DescScorer, photos: list[Path], wrong: dict[str, Any], said: str
) -> None:
    """A misspelt key would otherwise fail row by row, or be left out in silence."""
    pairs = [(photos[0], TEXTS[0]), {key: photos[0] if value == 0 else value for key, value in wrong.items()}]
    with pytest.raises(UsageError, match=f"^pair 2: .*{said} its keys can be image, text, context,"):
        list(scorer.score_stream(pairs, INLINE))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("a.jpg", "A cat.", "Our cat"), "tuple of length 3"),
        (["a.jpg"], "list of length 1"),
        ("a.jpg", "str"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_pair_is_an_error_that_says_its_place(
    scorer: DescScorer, photos: list[Path], wrong: Any, said: str
) -> None:
    with pytest.raises(UsageError, match=f"^pair 2: expected .image, text., a .*Pair or a dict, got {said}$"):
        list(scorer.score_stream([(photos[0], TEXTS[0]), wrong], INLINE))


def test_a_score_prints_as_the_number_that_it_is() -> None:
    score = full_score(score=0.6826, cosine=0.27304)
    assert f"{score:.2f}" == "0.68"
    assert f"{score:>8.3f}" == "   0.683"
    assert f"{score}" == str(score) == repr(score)


def test_images_are_taken_as_datasets_writes_them(
    scorer: DescScorer, photos: list[Path], tmp_path: Path
) -> None:
    """As structs of an image's bytes and its path, of which one may be null."""
    images = [{"bytes": photos[0].read_bytes(), "path": None}, {"bytes": None, "path": str(photos[1])}]
    expected = [scorer.score(*pair).score for pair in zip(photos[:2], TEXTS[:2], strict=True)]
    assert scorer.score(images[0], TEXTS[0]).score == pytest.approx(expected[0], abs=1e-6)
    assert [s.score for s in scorer.score_batch(images, TEXTS[:2])] == pytest.approx(expected, abs=1e-6)
    assert len(scorer.score_batch(images[0], TEXTS)) == len(TEXTS)
    pd.DataFrame({"image": [*images, None], "text": TEXTS[:3]}).to_parquet(tmp_path / "data.parquet")
    scored = scorer.score_frame(pd.read_parquet(tmp_path / "data.parquet"), options=INLINE)
    assert scored["status"].tolist() == ["ok", "ok", "missing_image"]
    assert scored["score"].tolist()[:2] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ImageError, match="got dict"):
        scorer.score({"url": "https://example.org/a.jpg"}, TEXTS[0])


def test_a_frame_keeps_its_rows_order_and_index(scorer: DescScorer, photos: list[Path]) -> None:
    frame = pd.DataFrame(
        {
            "photo": [str(photos[0]), "none.jpg", str(photos[1]), str(photos[2])],
            "alt": [TEXTS[0], TEXTS[1], None, TEXTS[2]],
            "page": ["An article.", "An article.", "An article.", None],
        },
        index=[9, 3, 3, 1],
    )
    before = frame.copy()
    scored = scorer.score_frame(frame, image="photo", text="alt", context="page", options=INLINE)
    pd.testing.assert_frame_equal(frame, before)
    assert list(scored.index) == [9, 3, 3, 1]
    pd.testing.assert_frame_equal(scored[list(before.columns)], before)
    assert scored["status"].tolist() == ["ok", "missing_image", "empty_text", "ok"]
    assert scored["error"].isna().tolist() == [True, False, False, True]
    assert "none.jpg" in scored["error"].iloc[1]
    assert scored["windows"].dropna().tolist() == [1, 1]
    first = scorer.score(photos[0], TEXTS[0], context="An article.")
    assert scored["score"].iloc[0] == pytest.approx(first.score, abs=1e-6)
    assert scored["contextual_score"].iloc[0] == pytest.approx(first.contextual_score, abs=1e-5)
    assert scored["score"].isna().tolist() == [False, True, True, False]
    assert pd.isna(scored["contextual_score"].iloc[3])
    assert not any(name.startswith("reference") for name in scored.columns)
    for rows in (frame[:0], frame[1:2]):
        none = scorer.score_frame(rows, image="photo", text="alt", options=INLINE)
        assert len(none) == len(rows)
        assert none["score"].dtype == scored["score"].dtype == float
    with pytest.raises(UsageError, match="expected a pandas frame, got dict"):
        scorer.score_frame({"photo": [], "alt": []})
    with pytest.raises(
        UsageError, match="text: the frame has no column 'txt'; its columns: photo, alt, page"
    ):
        scorer.score_frame(frame, image="photo", text="txt")
    with pytest.raises(UsageError, match=r"has the columns score, .* already"):
        scorer.score_frame(scored, image="photo", text="alt")
