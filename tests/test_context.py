"""The contextual score: by hand, against plain open_clip, and what must not change with a context."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from batch_inputs import TEXTS
from click.testing import CliRunner, Result
from PIL import Image
from planted import RED, plain_image, plain_texts, planted_scorer
from torch import Tensor

from conftest import make_photo
from descscore import DescScorer, Pair
from descscore.cli import main
from descscore.context import ContextEncoder, ContextTexts, contextual_scores
from descscore.errors import TextError, UsageError
from descscore.images import ImageSource
from descscore.models import ASSETS
from descscore.stream.pairs import StreamOptions
from descscore.texts import WINDOWS

ARTICLE = "A naval officer is a person of rank in a navy. Hopper wrote the first compiler. " * 9
CONTEXTS = [ARTICLE, "Cats are kept as pets.", None, " \n", "Ein Hund bellt.", ARTICLE]
DESCRIPTIONS = [*TEXTS, "A cat."]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    return [make_photo(folder / f"{i}.png", seed=i, size=(40 + 9 * i, 50)) for i in range(3)] * 2


@pytest.fixture(scope="module")
def scorer(tiny_folder: Path) -> DescScorer:
    return DescScorer.from_pretrained(tiny_folder, device="cpu", text_policy="truncate")


def two_forms(image: Tensor, text: Tensor, context: Tensor) -> tuple[float, float]:
    """The contextual score of raw embeddings, as it is published and as it can be rewritten."""
    i, d, c = (vector / vector.norm() for vector in (image, text, context))
    published = context @ d + text @ (i - c)
    rewritten = text.norm() * (i @ d) + (context.norm() - text.norm()) * (c @ d)
    return float(published), float(rewritten)


def test_by_hand_on_a_planted_model(tmp_path: Path) -> None:
    """d = (3, 4) / 4, c = (0, 8) / 4, i = (1, 0), so c·d̂ + d·(î - ĉ) = 1.6 + (0.75 - 1)."""
    scorer = planted_scorer(tmp_path)
    result = scorer.score(RED, "cat dog", context="dog dog")
    assert result.cosine == pytest.approx(0.6, abs=1e-6)
    assert result.contextual_score == pytest.approx(1.6 + 0.75 - 1, abs=1e-6)
    assert result.contextual_score == pytest.approx(1.25 * 0.6 + (2 - 1.25) * 0.8, abs=1e-6)
    # Of a text and a context of the same length only the image's part is left.
    assert scorer.score(RED, "cat dog", context="dog cat").contextual_score == pytest.approx(0.75, abs=1e-6)


def test_the_two_forms_are_one_formula() -> None:
    vectors = torch.randn(3, 50, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for image, text, context in zip(*vectors, strict=True):
        published, rewritten = two_forms(image, text, context)
        unit = [vector / vector.norm() for vector in (image, text, context)]
        cosine, other = (unit[0] * unit[1]).sum(), (unit[2] * unit[1]).sum()
        own = contextual_scores(*(v[None] for v in (cosine, text.norm(), other, context.norm())))
        assert published == pytest.approx(rewritten, abs=1e-12)
        assert float(own) == pytest.approx(published, abs=1e-12)


def test_equals_plain_open_clip_in_both_forms(
    scorer: DescScorer, tiny_folder: Path, photos: list[Path]
) -> None:
    results = scorer.score_batch(photos, DESCRIPTIONS, contexts=CONTEXTS)
    for photo, text, context, result in zip(photos, DESCRIPTIONS, CONTEXTS, results, strict=True):
        if context is None or not context.strip():
            assert result.contextual_score is None
            continue
        raw = plain_texts(tiny_folder, [text, context])
        published, rewritten = two_forms(plain_image(tiny_folder, photo), *raw)
        assert result.contextual_score == pytest.approx(published, rel=1e-5, abs=1e-5)
        assert result.contextual_score == pytest.approx(rewritten, rel=1e-5, abs=1e-5)
        assert result.context_truncated == (context == ARTICLE)


def test_a_tuned_model_embeds_the_context_as_it_embeds_texts(photos: list[Path]) -> None:
    """With the bundled adapter: raw embeddings of the tuned text tower, from open_clip's own method."""
    scorer = DescScorer.from_pretrained("default", device="cpu")
    text, context = DESCRIPTIONS[1], CONTEXTS[1]
    tokens = torch.zeros(2, 77, dtype=torch.int64)
    for row, words in zip(tokens, (text, context), strict=True):
        ids = scorer.model.tokenizer.tokenize(words).rows[0]
        row[: len(ids)] = torch.tensor(ids)
    with torch.inference_mode():
        raw = scorer.model.clip.encode_text(tokens).double()
        preprocess = open_clip.create_model_and_transforms(f"local-dir:{ASSETS / 'base'}")[2]
        pixels = preprocess(Image.open(photos[0]).convert("RGB"))
        image = scorer.model.clip.encode_image(pixels[None])[0].double()
    found = scorer.score(photos[0], text, context=context).contextual_score
    assert found == pytest.approx(two_forms(image, *raw)[0], rel=1e-5, abs=1e-5)


def test_a_context_changes_no_other_number(scorer: DescScorer, photos: list[Path]) -> None:
    plain = scorer.score_batch(photos, DESCRIPTIONS)
    found = scorer.score_batch(photos, DESCRIPTIONS, contexts=CONTEXTS)
    for before, after in zip(plain, found, strict=True):
        assert (before.contextual_score, before.context_truncated) == (None, None)
        bare = replace(after, contextual_score=None, context_truncated=None, signature=before.signature)
        assert bare == before
        said = "|context:kreiss2022-no-prefix" if after.contextual_score is not None else ""
        assert after.signature == before.signature + said
    assert [score.contextual_score is None for score in found] == [c is None or c == " \n" for c in CONTEXTS]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_neither_order_nor_batch_nor_way_matters(
    tiny_folder: Path, scorer: DescScorer, photos: list[Path], batch_size: int
) -> None:
    rows = list(zip(photos, DESCRIPTIONS, CONTEXTS, strict=True))
    expected = [scorer.score(image, text, context=c).contextual_score for image, text, c in rows]
    other = DescScorer.from_pretrained(
        tiny_folder, device="cpu", text_policy="truncate", batch_size=batch_size
    )
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(rows))
        images, texts, contexts = zip(*(rows[i] for i in order), strict=True)
        together = other.score_batch(images, texts, contexts=contexts)
        pairs = (Pair(*rows[i]) for i in order)
        options = StreamOptions(workers=0, window=1 + 2 * seed)
        streamed = [outcome.score for outcome in other.score_stream(pairs, options)]
        for found in (together, streamed):
            values = [score and score.contextual_score for score in found]
            assert values == [pytest.approx(expected[i], abs=1e-5) for i in order]


def test_a_stream_takes_pairs_and_plain_tuples(scorer: DescScorer, photos: list[Path]) -> None:
    pairs: list[tuple[ImageSource, str] | Pair] = [
        (photos[0], "A cat."),
        Pair(photos[0], "A cat.", "Cats are pets."),
        Pair(photos[0], "A cat.", context=7),  # type: ignore[arg-type]
    ]
    first, second, third = scorer.score_stream(pairs, StreamOptions(workers=0))
    assert first.score is not None
    assert second.score is not None
    assert (first.score.contextual_score, first.score.cosine) == (None, second.score.cosine)
    assert second.score.contextual_score is not None
    assert third.status == "bad_context"
    assert third.error == "context: text: expected a string, got int ('7')"


def test_each_distinct_context_is_encoded_once(
    scorer: DescScorer, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    real = scorer.encoder.embeddings

    def counting(texts: Any) -> Any:
        encoded.append(len(texts))
        return real(texts)

    monkeypatch.setattr(scorer.encoder, "embeddings", counting)
    articles = [f"Article {i % 4} of many." for i in range(24)]
    images, texts = photos * 4, [f"Text {i}." for i in range(24)]
    together = scorer.score_batch(images, texts, contexts=articles)
    assert sum(encoded) == 4
    encoded.clear()
    pairs = (Pair(*row) for row in zip(images, texts, articles, strict=True))
    streamed = list(scorer.score_stream(pairs, StreamOptions(workers=0, window=5)))
    assert sum(encoded) == 4  # over several windows of the stream
    values = [outcome.score and outcome.score.contextual_score for outcome in streamed]
    assert values == [pytest.approx(score.contextual_score, abs=1e-5) for score in together]
    encoded.clear()
    scorer.score_batch(images, texts)
    assert encoded == []


def test_only_the_last_used_contexts_are_remembered(scorer: DescScorer, photos: list[Path]) -> None:
    encoded: list[int] = []

    def counting(texts: Any) -> Any:
        encoded.append(len(texts))
        return scorer.encoder.embeddings(texts)

    encoder = ContextEncoder(counting, remembered=3)
    images = scorer.encoder.images([Image.open(photos[0]).convert("RGB")])
    text = scorer.encoder.texts(["A cat."])
    articles = [f"Article {i}." for i in range(4)]
    expected = scorer.score_batch(photos[:1] * 4, ["A cat."] * 4, contexts=articles)
    for number, fresh in [(0, 1), (1, 1), (2, 1), (0, 0), (3, 1), (0, 0), (2, 0), (1, 1)]:
        encoded.clear()
        context = ContextTexts(scorer.tokenize(articles[number]))
        (score,) = scorer.scoring.scores(images, text, [context], encoder)
        assert score.contextual_score == pytest.approx(expected[number].contextual_score, abs=1e-5)
        assert sum(encoded) == fresh


@pytest.mark.parametrize("policy", WINDOWS)
def test_windows_keep_direction_and_mean_length(policy: str, tiny_folder: Path, photos: list[Path]) -> None:
    """A long context: the unit mean of its windows' unit embeddings, at their mean length."""
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu", text_policy=policy)  # type: ignore[arg-type]
    first, second = "A red car stands at a green gate. " * 7, "Cats and dogs sleep on wet sand all day. " * 4
    tokenized = scorer.tokenize(first + second)
    assert len(tokenized.rows) == 2
    tokens = [len(row) - 2 for row in tokenized.rows]
    weights = torch.tensor([n / sum(tokens) if policy == "weighted-windows" else 0.5 for n in tokens])
    raw = torch.stack([scorer_raw(scorer, row) for row in tokenized.rows])
    lengths = raw.norm(dim=-1)
    direction = (weights[:, None] * raw / lengths[:, None]).sum(0)
    context = direction / direction.norm() * (weights * lengths).sum()
    text = plain_texts(tiny_folder, ["A cat."])[0]
    expected, _ = two_forms(plain_image(tiny_folder, photos[0]), text, context)
    result = scorer.score(photos[0], "A cat.", context=first + second)
    assert result.contextual_score == pytest.approx(expected, abs=1e-5)
    assert result.context_truncated is False
    cut = DescScorer(scorer.model, "truncate").score(photos[0], "A cat.", context=first + second)
    assert cut.context_truncated is True
    assert cut.contextual_score != pytest.approx(expected, abs=1e-4)


def scorer_raw(scorer: DescScorer, row: tuple[int, ...]) -> Tensor:
    """Raw feature of one row of tokens by open_clip's own method."""
    tokens = torch.zeros(1, 77, dtype=torch.int64)
    tokens[0, : len(row)] = torch.tensor(row)
    with torch.inference_mode():
        return scorer.model.clip.encode_text(tokens)[0].double()


def test_compare_decides_without_the_context(scorer: DescScorer, photos: list[Path]) -> None:
    plain = scorer.compare(photos[0], DESCRIPTIONS[1], DESCRIPTIONS[2])
    found = scorer.compare(photos[0], DESCRIPTIONS[1], DESCRIPTIONS[2], context=ARTICLE)
    assert (found.margin, found.probability) == pytest.approx((plain.margin, plain.probability), abs=1e-5)
    assert found.preferred == plain.preferred
    singles = [scorer.score(photos[0], text, context=ARTICLE).contextual_score for text in DESCRIPTIONS[1:3]]
    assert found.description.contextual_score == pytest.approx(singles[0], abs=1e-5)
    assert found.contextual_margin == pytest.approx(singles[0] - singles[1], abs=1e-5)  # type: ignore[operator]
    assert found.signature == found.description.signature == plain.signature + "|context:kreiss2022-no-prefix"
    assert plain.contextual_margin is None
    assert scorer.compare(photos[0], "a", "b", context="  ").contextual_margin is None


def test_contexts_that_cannot_be_used_name_their_row(tiny_folder: Path, photos: list[Path]) -> None:
    strict = DescScorer.from_pretrained(tiny_folder, device="cpu", text_policy="error")
    contexts: list[Any] = ["Fine.", ARTICLE, None, 3, "", "Fine."]
    with pytest.raises(TextError) as caught:
        strict.score_batch(photos, ["A cat."] * 6, contexts=contexts)
    assert caught.value.kind == "bad_context"
    expected = ("row 1: context: text 'A naval officer", "over the model's 77", "row 3: context: text: expec")
    for mention in expected:
        assert mention in str(caught.value)
    for fine in ("row 0", "row 2", "row 4", "row 5"):
        assert fine not in str(caught.value)
    with pytest.raises(UsageError, match="2 contexts but 1 pairs"):
        strict.score_batch(photos[:1], ["a"], contexts=["b", "c"])
    with pytest.raises(UsageError, match="contexts: expected a list"):
        strict.score_batch(photos[:1], ["a"], contexts="b")


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_the_command_line_says_it_too(
    tiny_folder: Path, scorer: DescScorer, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("descscore.scorer.load_model", lambda *_: scorer.model)  # loaded once for all calls
    model = ("--model", tiny_folder, "--device", "cpu", "--text-policy", "truncate")
    given = (photos[0], "A cat.", "A dog.", "--context", ARTICLE, *model)
    rows = json.loads(run("score", *given, "--json").output)
    expected = scorer.score_batch(photos[:1] * 2, ["A cat.", "A dog."], contexts=[ARTICLE] * 2)
    assert [row["contextual_score"] for row in rows] == [
        pytest.approx(score.contextual_score, abs=1e-5) for score in expected
    ]
    _, head, first, second, *_, signature = run("score", *given).output.splitlines()
    assert "contextual" in head.split()
    assert f"{expected[0].contextual_score:+.4f}" in first
    assert "context cut" in first
    assert second.endswith("A dog.")
    assert signature == expected[0].signature
    compared = ("compare", photos[0], "--description", "A cat.", "--caption", "A dog.", *model)
    assert "contextual margin" in run(*compared, "--context", "Pets.").output
    assert "contextual" not in run(*compared).output
    assert "contextual" not in run("score", photos[0], "A cat.", "--context", " ", *model).output
