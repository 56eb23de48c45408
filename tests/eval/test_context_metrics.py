"""Ratings with the article around each image, and what contexts and references change in the metrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from descscore import DescScorer
from descscore.errors import DataError
from descscore.eval.captions import (
    expert_tau,
    own_captions,
    read_caption_judgments,
    reference_tau_row,
    tau_rows,
)
from descscore.eval.cli import captions, human
from descscore.eval.metric_scores import PREFIX, VARIANTS, context_metrics
from descscore.eval.ratings import read_kreiss, read_ratings
from descscore.options import Group
from report_data import IMAGES, TEXTS, make_flickr, make_kreiss, write_csv


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_kreiss(root / "kreiss2022")
    make_flickr(root)
    return root


@pytest.fixture(scope="module")
def scorer(tiny_folder: Path) -> DescScorer:
    return DescScorer.from_pretrained(tiny_folder, device="cpu", text_policy="truncate")


def test_articles_are_read_with_the_ratings(data: Path, shared_data: Path | None) -> None:
    items = read_kreiss(data).items
    assert len(items) == IMAGES * TEXTS
    assert {item.context for item in items if item.cluster == "place4"} == {
        "Article 1, which says more of a place. " * 10
    }
    if shared_data:
        real = read_kreiss(shared_data).items
        assert len({item.context for item in real}) == 17
        assert all(len(item.context or "") > 200 for item in real)


def test_a_text_in_two_articles_is_refused(tmp_path: Path) -> None:
    make_kreiss(tmp_path)
    path = tmp_path / "blv_ratings.csv"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("Article 0,", "Article 7,", 1), encoding="utf-8")
    with pytest.raises(DataError, match=r"line 3: .* stands in another article_text"):
        read_kreiss(tmp_path)


def test_the_four_metrics_are_the_scorer_s(data: Path, scorer: DescScorer) -> None:
    items = read_kreiss(data).items
    metrics = context_metrics(items, scorer, "tiny")
    assert [metric.metric for metric in metrics] == ["tiny" + variant for variant in VARIANTS]
    for item, *values in zip(items, *(metric.values for metric in metrics), strict=True):
        assert item.image is not None
        plain = scorer.score(item.image, item.text, context=item.context)
        prefixed = scorer.score(item.image, "A photo depicts " + item.text, context=item.context)
        expected = (plain.cosine, plain.contextual_score, prefixed.cosine, prefixed.contextual_score)
        assert values == [pytest.approx(value, abs=1e-5) for value in expected]
    assert PREFIX == "A photo depicts "
    assert metrics[3].source.endswith("|context:kreiss2022-no-prefix|prefix:A photo depicts")


def test_texts_without_a_context_are_named(data: Path, scorer: DescScorer, tmp_path: Path) -> None:
    make_kreiss(tmp_path / "kreiss2022")
    for name in ("blv_ratings", "sighted_ratings"):
        path = tmp_path / "kreiss2022" / f"{name}.csv"
        path.write_text(path.read_text(encoding="utf-8").replace("article_text", "other"), encoding="utf-8")
    with pytest.raises(DataError, match="no context for 24 of 24 rated texts \\('Photo 0"):
        context_metrics(read_kreiss(tmp_path).items, scorer, "tiny")


def test_own_ratings_may_have_contexts(tmp_path: Path) -> None:
    row = {"item": "A cat.", "question": "q", "value": 3, "group": "g", "context": "Pets."}
    write_csv(tmp_path / "own.csv", [row | {"rater": rater} for rater in "abc"])
    assert [item.context for item in read_ratings(tmp_path / "own.csv").items] == ["Pets."]
    write_csv(tmp_path / "own.csv", [row | {"rater": "a"}, row | {"rater": "b", "context": "Other."}])
    with pytest.raises(DataError, match="has another text, image, group or context"):
        read_ratings(tmp_path / "own.csv")


def test_taus_are_those_of_single_pairs(data: Path, scorer: DescScorer) -> None:
    judgments = read_caption_judgments(data, references=True)
    photos, expert = judgments.photos, judgments.expert
    scores = [
        scorer.score(
            photos.images[photo],
            photos.captions[caption],
            references=[photos.captions[name] for name in own_captions(photo)],
        )
        for photo, caption in expert.pairs
    ]
    measured, _ = tau_rows(scorer, judgments)
    with_references = reference_tau_row(scorer, judgments)
    assert (measured.pairs, len(scores)) == (30, 30)
    alone = expert_tau([score.cosine for score in scores], expert.ratings).value
    referenced = expert_tau([score.reference_score or 0.0 for score in scores], expert.ratings).value
    assert measured.tau == pytest.approx(alone, abs=0.02)
    assert with_references.tau == pytest.approx(referenced, abs=0.02)


def test_the_commands_print_them(data: Path, tiny_folder: Path) -> None:
    def run(name: str, *arguments: object) -> str:
        group = Group("eval", commands={"human": human, "captions": captions})
        given = ("--data", data, "--model", tiny_folder, *arguments)
        result = CliRunner().invoke(group, [name, *map(str, given)])
        assert result.exit_code == 0, result.output
        return result.output

    rows = json.loads(run("human", "--context", "--resamples", 99, "--json"))["rows"]
    expected = {f"{tiny_folder}{variant}" for variant in VARIANTS} | {"length", "log length"}
    assert {row["metric"] for row in rows} == expected
    result = json.loads(run("captions", "--references", "--json"))
    assert [row["set"] for row in result["rows"]] == ["expert", "crowdflower", "expert, with references"]
    assert "+ references" in run("captions", "--references")
    assert "+ references" not in run("captions")
