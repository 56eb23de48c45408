"""The reference score: by hand, against plain open_clip, and what must not change with references."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from planted import RED, plain_image, plain_texts, planted_scorer

from conftest import make_photo
from descscore import DescScorer, Pair
from descscore.cli import main
from descscore.context import MAX_REFERENCES, largest_by_row, reference_scores
from descscore.errors import InputError, TextError, UsageError
from descscore.stream.pairs import StreamOptions
from descscore.tables.cells import parse_references

TEXTS = ["A cat.", "Two dogs run over wet sand.", "Grace Hopper, 1984", "A red car.", "ein Hund", "A cat."]
REFERENCES: list[list[str] | None] = [
    *(["A cat sleeps.", "A pet on a wall."], ["Dogs at the sea. " * 30], [], None),
    *(["Ein Hund bellt.", "A dog barks.", "A dog barks."], ["A cat."]),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    return [make_photo(folder / f"{i}.png", seed=i, size=(40 + 9 * i, 50)) for i in range(3)] * 2


@pytest.fixture(scope="module")
def scorer(tiny_folder: Path) -> DescScorer:
    return DescScorer.from_pretrained(tiny_folder, device="cpu", text_policy="truncate")


def by_hand(
    image: np.ndarray[Any, Any], text: np.ndarray[Any, Any], references: np.ndarray[Any, Any]
) -> float:
    """RefCLIPScore of raw features with numpy alone: ``(d,)``, ``(d,)`` and ``(r, d)``."""
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (image, text, references)]
    clip_score = 2.5 * max(float(unit[0] @ unit[1]), 0.0)
    likeness = max(float((unit[2] @ unit[1]).max()), 0.0)
    return 2 * clip_score * likeness / (clip_score + likeness) if clip_score + likeness else 0.0


def test_by_hand_on_a_planted_model(tmp_path: Path) -> None:
    """Score 2.5 * 0.6 and largest cosine 0.8, so 2 * 1.5 * 0.8 / 2.3."""
    scorer = planted_scorer(tmp_path)
    found = scorer.score(RED, "cat dog", references=["cat", "dog"])
    assert found.score == pytest.approx(1.5, abs=1e-6)
    assert found.reference_score == pytest.approx(2 * 1.5 * 0.8 / 2.3, abs=1e-6)
    # The largest value there is, and a text that shares nothing with the image.
    assert scorer.score(RED, "cat", references=["cat"]).reference_score == pytest.approx(10 / 7, abs=1e-6)
    assert scorer.score(RED, "dog", references=["dog"]).reference_score == pytest.approx(0, abs=1e-6)


def test_negative_cosines_count_as_zero_and_two_zeros_make_zero() -> None:
    scores = torch.tensor([0.0, 0.0, 1.0, 1.0, 2.5], dtype=torch.float64)
    best = torch.tensor([-0.5, 0.5, -0.5, 0.5, 1.0], dtype=torch.float64)
    expected = [0, 0, 0, 2 / 3, 10 / 7]
    assert reference_scores(scores, best).tolist() == pytest.approx(expected, abs=1e-12)


def test_the_largest_of_each_row() -> None:
    found = largest_by_row(torch.tensor([0.1, -0.2, 0.4, -0.3]), torch.tensor([2, 0, 2, 0]), 3)
    assert found.tolist() == pytest.approx([-0.2, -np.inf, 0.4])


def test_equals_plain_open_clip(scorer: DescScorer, tiny_folder: Path, photos: list[Path]) -> None:
    results = scorer.score_batch(photos, TEXTS, references=REFERENCES)
    seen = 0
    for photo, text, references, result in zip(photos, TEXTS, REFERENCES, results, strict=True):
        if not references:
            assert (result.reference_score, result.references_truncated) == (None, None)
            continue
        own, *others = plain_texts(tiny_folder, [text, *references]).numpy()
        expected = by_hand(plain_image(tiny_folder, photo).numpy(), own, np.stack(others))
        assert result.reference_score == pytest.approx(expected, abs=1e-5)
        assert result.references_truncated == (len(references[0]) > 400)
        seen += result.reference_score > 0
    assert seen > 1


def test_references_change_no_other_number(scorer: DescScorer, photos: list[Path]) -> None:
    plain = scorer.score_batch(photos, TEXTS)
    found = scorer.score_batch(photos, TEXTS, references=REFERENCES, contexts=["Pets."] * 6)
    for before, after, references in zip(plain, found, REFERENCES, strict=True):
        said = "|context:kreiss2022-no-prefix" + "|references:refclipscore-no-prefix" * bool(references)
        assert after.signature == before.signature + said
        new = {"contextual_score": None, "context_truncated": None}
        new |= {"reference_score": None, "references_truncated": None}
        assert replace(after, signature=before.signature, **new) == before  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_neither_order_nor_batch_nor_way_matters(
    tiny_folder: Path, scorer: DescScorer, photos: list[Path], batch_size: int
) -> None:
    rows = list(zip(photos, TEXTS, REFERENCES, strict=True))
    expected = [scorer.score(image, text, references=r or ()).reference_score for image, text, r in rows]
    other = DescScorer.from_pretrained(
        tiny_folder, device="cpu", text_policy="truncate", batch_size=batch_size
    )
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(rows))
        images, texts, references = zip(*(rows[i] for i in order), strict=True)
        shuffled = [None if r is None else r[::-1] for r in references]
        together = other.score_batch(images, texts, references=shuffled)
        pairs = (Pair(image, text, references=r or ()) for image, text, r in (rows[i] for i in order))
        options = StreamOptions(workers=0, window=1 + 2 * seed)
        streamed = [outcome.score for outcome in other.score_stream(pairs, options)]
        for found in (together, streamed):
            values = [score and score.reference_score for score in found]
            assert values == [pytest.approx(expected[i], abs=1e-5) for i in order]


def test_each_distinct_reference_is_encoded_once(
    scorer: DescScorer, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    real = scorer.encoder.embeddings
    monkeypatch.setattr(scorer.encoder, "embeddings", lambda texts: encoded.append(len(texts)) or real(texts))
    scorer.score_batch(photos, TEXTS, references=[["One.", "Two."], ["Two.", "One."]] * 3)
    assert encoded == [2]


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ("A cat.", "references: expected a list of texts, got one str"),
        ({"a": 1}, "references: expected a list of texts, got one dict"),
        (["A cat.", " "], "reference 2: text ' ': empty or blank"),
        (["A cat.", None], "reference 2: text: expected a string, got NoneType"),
        ([7], "reference 1: text: expected a string, got int"),
        (["a"] * (MAX_REFERENCES + 1), "references: 1001, over 1000"),
    ],
)
def test_references_that_cannot_be_used_say_why(
    scorer: DescScorer, photos: list[Path], references: Any, message: str
) -> None:
    with pytest.raises(TextError) as caught:
        scorer.score(photos[0], "A cat.", references=references)
    assert caught.value.kind == "bad_references"
    assert str(caught.value).startswith(message)
    with pytest.raises(InputError, match="row 1: reference"):
        scorer.score_batch(photos[:2], ["a", "b"], references=[None, references])
    outcomes = list(scorer.score_stream([Pair(photos[0], "a", None, references)], StreamOptions(workers=0)))
    assert [outcome.status for outcome in outcomes] == ["bad_references"]


def test_lists_of_another_length_are_refused(scorer: DescScorer, photos: list[Path]) -> None:
    with pytest.raises(UsageError, match="1 references but 2 pairs"):
        scorer.score_batch(photos[:2], ["a", "b"], references=[["c"]])


def test_cells_of_tables() -> None:
    assert parse_references(["a", "b"]) == ["a", "b"]
    assert parse_references(None) is None
    assert parse_references(" ") is None
    assert parse_references("[]") == []
    assert parse_references('["A \\"dog\\", wet.", "ein Hund 🐕"]') == ['A "dog", wet.', "ein Hund 🐕"]
    for bad in ("A cat.", '"A cat."', '{"a": 1}', "[" * 100_000, "3", '["a"', "null"):
        with pytest.raises(TextError, match="expected a JSON list of texts") as caught:
            parse_references(bad)
        assert caught.value.kind == "bad_references"
        assert len(str(caught.value)) < 200


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_the_command_line_says_it_too(
    tiny_folder: Path, scorer: DescScorer, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("descscore.scorer.load_model", lambda *_: scorer.model)  # loaded once for all calls
    given = (
        "score",
        photos[0],
        "A cat.",
        "A dog.",
        "--model",
        tiny_folder,
        "--device",
        "cpu",
        "--text-policy",
        "truncate",
    )
    references = ["Ein Hund bellt.", "dogs " * 100]
    asked = [argument for text in references for argument in ("--reference", text)]
    expected = scorer.score_batch(photos[:1] * 2, ["A cat.", "A dog."], references=[references] * 2)
    rows = json.loads(run(*given, *asked, "--json").output)
    assert [row["reference_score"] for row in rows] == [
        pytest.approx(score.reference_score, abs=1e-5) for score in expected
    ]
    _, head, first, _, *_, signature = run(*given, *asked).output.splitlines()
    assert "reference" in head.split()
    assert f"{expected[0].reference_score:.2f}" in first
    assert "reference cut" in first
    assert signature == expected[0].signature
    assert "reference" not in run(*given).output
    failed = run(*given, "--reference", "")
    assert (failed.exit_code, failed.stderr.count("\n")) == (1, 1)
    assert "reference 1: text ''" in failed.stderr


def test_references_of_any_length_cost_their_own_row(scorer: DescScorer, photos: list[Path]) -> None:
    """A thousand references may not be a thousand books."""
    start = time.process_time()
    pairs = [
        Pair(photos[0], "A cat.", references=["猫が" * 40_000] * MAX_REFERENCES),
        Pair(photos[0], "A cat.", references=["A cat sleeps."] * MAX_REFERENCES),
    ]
    wrong, right = scorer.score_stream(pairs, StreamOptions(workers=0))
    assert time.process_time() - start < 5
    assert wrong.status == "bad_references"
    assert wrong.error == "references: 80,000,000 characters together, over 100,000"
    assert right.score is not None
