"""What contexts and references change: the measurement, and the page that shows it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from planted import plain_texts
from scipy import stats

from descscore import DescScorer
from descscore.errors import DataError
from descscore.eval.captions import expert_tau, own_captions, read_caption_judgments
from descscore.eval.cli import captions, human
from descscore.eval.metric_scores import PREFIX, VARIANTS, context_metrics
from descscore.eval.ratings import read_kreiss, read_ratings
from descscore.eval.statistics.bootstrap import Resampling
from descscore.models import load_model
from descscore.options import Group
from descscore.texts import DEFAULT_POLICY
from report_data import IMAGES, TEXTS, make_flickr, make_kreiss, write_csv
from reproduce.context_study import PART, PUBLISHED, study, to_markdown
from reproduce.context_study import main as study_command

DOCS = Path(__file__).parents[2] / "docs"
QUICK = Resampling(resamples=99)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_kreiss(root / "kreiss2022")
    make_flickr(root)
    return root


@pytest.fixture(scope="module")
def found(data: Path, tiny_folder: Path) -> dict[str, Any]:
    return study(data, (str(tiny_folder),), QUICK)


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


def test_correlations_and_changes_are_scipys(data: Path, scorer: DescScorer, found: dict[str, Any]) -> None:
    judgments = read_kreiss(data)
    metrics = context_metrics(judgments.items, scorer, "tiny")
    rows = found["models"][0]["contexts"][1]["rows"]
    assert len(rows) == len(judgments.panels) == 11
    for panel, row in zip(judgments.panels, rows, strict=True):
        assert (row["raters"], row["phase"], row["question"]) == (panel.raters, panel.phase, panel.question)
        assert (row["n"], row["images"]) == (IMAGES * TEXTS, IMAGES)
        means = [np.mean(ratings) for ratings in panel.ratings]
        expected = [stats.pearsonr(metric.values, means).statistic for metric in metrics]
        names = ("r", "r_context", "r_prefix", "r_prefix_context")
        assert [row[name] for name in names] == pytest.approx(expected, abs=1e-4)
        for change, (before, after) in (("change", expected[:2]), ("change_prefix", expected[2:])):
            assert row[change]["value"] == pytest.approx(after - before, abs=2e-4)
            assert row[change]["low"] < row[change]["value"] < row[change]["high"]


def test_figures_of_the_texts_are_those_of_the_encoder(
    found: dict[str, Any], data: Path, tiny_folder: Path
) -> None:
    (whole, cut), items = found["models"][0]["contexts"], read_kreiss(data).items
    assert (whole["policy"], cut["policy"]) == (DEFAULT_POLICY, "truncate")
    assert whole["signature"] != cut["signature"]
    texts = cut["texts"]
    assert texts["mean_context_norm"] != whole["texts"]["mean_context_norm"]
    assert (texts["texts"], texts["articles"], texts["articles_over"], texts["context_length"]) == (
        24,
        3,
        2,
        77,
    )
    contexts = plain_texts(tiny_folder, [item.context or "" for item in items])
    own = plain_texts(tiny_folder, [item.text for item in items])
    cosines = (contexts * own).sum(-1) / contexts.norm(dim=-1) / own.norm(dim=-1)
    assert texts["mean_norm"] == pytest.approx(float(own.norm(dim=-1).mean()), rel=1e-4)
    assert texts["mean_context_cosine"] == pytest.approx(float(cosines.mean()), abs=1e-4)


def test_taus_are_those_of_single_pairs(data: Path, scorer: DescScorer, found: dict[str, Any]) -> None:
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
    taus = found["models"][0]["taus"]
    assert (taus["pairs"], len(scores)) == (30, 30)
    alone = expert_tau([score.cosine for score in scores], expert.ratings).value
    referenced = expert_tau([score.reference_score or 0.0 for score in scores], expert.ratings).value
    assert (taus["score"], taus["reference_score"]) == (
        pytest.approx(alone, abs=0.02),
        pytest.approx(referenced, abs=0.02),
    )


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


def test_every_measured_number_on_the_page_follows_the_file(found: dict[str, Any]) -> None:
    text = to_markdown(found)
    rows = found["models"][0]["contexts"][0]["rows"]
    assert text.count("\n| BLV | ") == 4
    assert len(re.findall(r"^\| sighted", text, re.MULTILINE)) == 7
    rises = sum(row["change"]["value"] > 0 for row in rows)
    assert f"it rises in {rises} of 11" in text
    changed = json.loads(json.dumps(found))
    changed["models"][0]["contexts"][0]["rows"][0]["r_context"] += 0.5
    changed["models"][0]["contexts"][0]["texts"]["mean_norm"] += 1
    changed["models"][0]["taus"]["reference_score"] += 0.1
    lines = zip(text.splitlines(), to_markdown(changed).splitlines(), strict=True)
    assert len([1 for before, after in lines if before != after]) == 3


def test_a_gain_is_seen_where_its_interval_says_so(found: dict[str, Any]) -> None:
    def with_changes(sure: int) -> str:
        other = json.loads(json.dumps(found))
        for number, row in enumerate(other["models"][0]["contexts"][0]["rows"]):
            low = 0.05 if number < sure else -0.05
            row["change"] = {"value": 0.1, "low": low, "high": 0.2, "p": 0.5}
        return to_markdown(other)

    assert "The published gain is not seen: no rise can be told from none." in with_changes(0)
    assert "it rises in 11 of 11 (the change's interval lies above 0 in 0, below 0 in 0)" in with_changes(0)
    assert "The published gain is seen in 2 of 11 rows." in with_changes(2)


def test_the_command_writes_file_and_page(
    found: dict[str, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    module = "reproduce.context_study"
    monkeypatch.setattr(f"{module}.study", lambda *given: asked.append(given) or found)
    page = tmp_path / PART.page
    page.write_text("Before\n<!-- measured -->\nold\n<!-- /measured -->\nAfter\n", encoding="utf-8")
    given = ("--data", data, "--model", "a", "--model", "b", "--output", tmp_path, "--resamples", 99)
    result = CliRunner().invoke(study_command, [str(value) for value in given], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert asked == [(data, ("a", "b"), QUICK)]
    numbers = json.loads((tmp_path / PART.data).read_text(encoding="utf-8"))
    written = page.read_text(encoding="utf-8")
    assert written == f"Before\n<!-- measured -->\n{to_markdown(numbers)}<!-- /measured -->\nAfter\n"
    with pytest.raises(DataError, match="lacks the lines"):
        PART.put_in("no marks", numbers)


def test_the_committed_page_is_that_of_the_committed_file() -> None:
    numbers = json.loads((DOCS / PART.data).read_text(encoding="utf-8"))
    page = (DOCS / PART.page).read_text(encoding="utf-8")
    assert PART.put_in(page, numbers) == page
    assert [model["model"] for model in numbers["models"]] == ["base", "default"]
    for model in numbers["models"]:  # measured with the weights that are shipped
        assert (
            f"|weights:{load_model(model['model'], 'cpu').weights_hash}|" in model["contexts"][0]["signature"]
        )
    for part in (part for model in numbers["models"] for part in model["contexts"]):
        assert {(row["raters"], row["phase"], row["question"]) for row in part["rows"]} == PUBLISHED.keys()
