"""A researcher's own questions and scales: how they are asked, kept and exported."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import descscore.study.database as database
from descscore.cli import main
from descscore.errors import DataError, StorageError, UsageError
from descscore.page.study_page import StudyPage
from descscore.study.export import BLV_COLUMNS, SIGHTED_COLUMNS, export_judgments
from descscore.study.items import read_items
from descscore.study.judgments import JudgmentStore
from descscore.study.questions import AFTER, BEFORE, NO_IMAGE, QUESTIONS, questions_path, read_questions
from study_tools import enter, hidden, make_store, register, write_items

TRUST = {"name": "trust", "text": "Would you trust it?", "low": "Not at all", "high": "Fully", "values": 7}
OFTEN = {"name": "often", "text": "Where would you read it?", "labels": ["Never", "At times", "Always"]}
ONCE = {
    "name": "guess",
    "text": "What is it about?",
    "low": "A",
    "high": "B",
    "again": False,
    "column": "q_g",
}


def write(items: Path, *questions: Any) -> Path:
    path = questions_path(items)
    path.write_text(json.dumps({"questions": questions}), encoding="utf-8")
    return path


@pytest.fixture
def items(tmp_path: Path) -> Path:
    return write_items(tmp_path, images=2, texts=1)


@pytest.fixture
def page(items: Path) -> StudyPage:
    write(items, TRUST, OFTEN, ONCE)
    study = read_items(items)
    store = JudgmentStore.for_study(items.parent / "study.db", study, read_questions(items))
    return StudyPage(store, study)


def test_without_a_file_the_questions_are_the_published_ones(items: Path) -> None:
    assert read_questions(items) == QUESTIONS


def test_own_questions_are_asked_on_their_scales_and_exported(page: StudyPage, tmp_path: Path) -> None:
    who = enter(page, "Ann", "sighted")
    assert (
        "answer 3 questions. Then you see the image and answer 2 of them again"
        in page.act("welcome", who).page
    )
    step = page.act("start", who)
    assert 'value="7"> <span>7, Fully</span>' in step.page
    assert "<span>2, At times</span>" in step.page
    assert "From 1, Not at all, to 7, Fully." in step.page
    assert "From 1, Never" not in step.page  # each answer says what it means
    wrong = page.act("save", who | hidden(step) | {"trust": "8", "often": "0"})
    assert [error.message for error in wrong.errors] == [
        "Choose an answer from 1 to 7: Would you trust it?",
        "Choose an answer from 1 to 3: Where would you read it?",
        "Choose an answer from 1 to 5: What is it about?",
    ]
    step = page.act("save", who | hidden(step) | {"trust": "7", "often": "3", "guess": "1"})
    assert 'name="guess"' not in step.page
    page.act("save", who | hidden(step) | {"trust": "2", "often": "1"})
    blind = register(page.store, "Bo")
    page.store.save(blind, page.store.order(blind)[0], NO_IMAGE, {"trust": 6, "often": 2, "guess": 5})
    export_judgments(page.store, tmp_path / "out")
    with (tmp_path / "out" / "sighted_ratings.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    own = ["q_trust.preimg", "q_trust.postimg", "q_often.preimg", "q_often.postimg", "q_g.preimg"]
    assert list(row) == [*SIGHTED_COLUMNS, *own, "item"]
    assert [row[name] for name in own] == ["7", "2", "3", "1", "1"]
    assert row["q_overall.preimg"] == ""
    with (tmp_path / "out" / "blv_ratings.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert list(row) == [*BLV_COLUMNS, "q_trust", "q_often", "q_g", "item"]
    assert (row["q_trust"], row["item"]) == ("6", page.store.order(blind)[0])
    found = CliRunner().invoke(main, ["judgments", "summary", "--database", str(page.store.path), "--json"])
    means = {(one["group"], one["question"]): one["mean"] for one in json.loads(found.output)["rows"]}
    assert means["BLV", "trust"] == 6.0


@pytest.mark.parametrize(
    "answers",
    [
        {"trust": 6, "often": 2},
        {"trust": 8, "often": 2, "guess": 1},
        {"trust": 1, "often": 1, "guess": 1, "x": 1},
    ],
)
def test_only_answers_to_the_study_s_questions_are_kept(page: StudyPage, answers: dict[str, int]) -> None:
    blind = register(page.store, "Bo")
    with pytest.raises(UsageError, match="Bo"):
        page.store.save(blind, page.store.order(blind)[0], NO_IMAGE, answers)
    assert page.store.judgments() == []


def test_a_study_keeps_its_questions(page: StudyPage, items: Path) -> None:
    study = read_items(items)
    JudgmentStore.for_study(page.store.path, study, read_questions(items))
    with pytest.raises(StorageError, match="made for other questions"):
        JudgmentStore.for_study(page.store.path, study)
    write(items, TRUST | {"values": 5}, OFTEN, ONCE)
    with pytest.raises(StorageError, match="made for other questions"):
        JudgmentStore.for_study(page.store.path, study, read_questions(items))


def test_the_file_of_the_documentation_is_one(items: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/annotating.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    questions_path(items).write_text(shown, encoding="utf-8")
    assert [(one.name, one.values) for one in read_questions(items)] == [
        ("trust", 7),
        ("length", 3),
        ("overall", 5),
    ]


@pytest.mark.parametrize(
    ("questions", "said"),
    [
        ([TRUST | {"values": 12}], r"question 1 \('trust'\): 'values' must be a whole number from 2 to 11"),
        ([TRUST | {"values": True}], "'values' must be a whole number"),
        ([OFTEN, {"name": "x", "text": "Y?"}], r"question 2 \('x'\): 'low' must be a text"),
        ([TRUST, TRUST], r"question 2 \('trust'\): 'name' is 'trust', as in question 1"),
        ([TRUST, ONCE | {"column": "q_trust"}], "'column' is 'q_trust', as in question 1"),
        ([{"text": "Y?"}], "question 1: key 'name' is missing"),
        ([TRUST | {"scale": 3}], "key 'scale' is unknown; the keys are name, text, low"),
        ([TRUST | {"name": "Trust me"}], "'name' must be a small letter"),
        ([TRUST | {"name": "step"}], "which the page uses itself"),
        ([TRUST | {"text": " "}], "'text' must be a text that is not blank"),
        ([TRUST | {"column": "description"}], "'column' must be 'q_'"),
        ([TRUST | {"again": "no"}], "'again' must be true or false"),
        ([OFTEN | {"values": 3}], "'values' may not stand beside 'labels'"),
        ([OFTEN | {"labels": ["One"]}], "'labels' must be a list of 2 to 11 texts"),
        ([ONCE], "'again' is false in every question"),
        ([7], "question 1: must be an object"),
        ([], "a list of at least one question"),
    ],
)
def test_errors_name_file_question_and_key(items: Path, questions: list[Any], said: str) -> None:
    path = write(items, *questions)
    with pytest.raises(DataError, match=said) as error:
        read_questions(items)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "text", ["", "[", "[]", '{"questions": 1}', '{"questions": [], "more": 1}', "[" * 10**5]
)
def test_a_file_that_holds_no_questions_is_named(items: Path, text: str) -> None:
    questions_path(items).write_text(text)
    with pytest.raises(DataError, match=r"items\.questions\.json"):
        read_questions(items)


def test_a_study_of_an_older_version_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its judgments, made before studies had questions of their own, are there as they were."""
    monkeypatch.setattr(database, "MIGRATIONS", database.MIGRATIONS[:1])
    items = read_items(write_items(tmp_path, images=1, texts=1))
    path = tmp_path / "study.db"
    database.create(path)
    with sqlite3.connect(path) as old:
        old.executescript(
            """
            INSERT INTO annotators VALUES (1, 'ann', 'ann', 'sighted', 'often', 'a', NULL, 'yes', '2026');
            """
        )
        row = (0, "0-0", str(items[0].image), items[0].image_hash, items[0].description, items[0].title)
        old.execute("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, items[0].text))
        old.execute("INSERT INTO orders VALUES (1, 0, '0-0')")
        old.execute("INSERT INTO judgments VALUES (1, '0-0', 'before', 4, 3, 2, 1, 'a', 'b')")
        old.execute("INSERT INTO judgments VALUES (1, '0-0', 'after', 5, NULL, 2, 1, 'a', 'b')")
    old.close()
    monkeypatch.undo()
    store = JudgmentStore.for_study(path, items)
    kept = {judgment.phase: judgment.ratings for judgment in store.judgments()}
    assert kept[BEFORE] == {"overall": 4, "imaginability": 3, "relevance": 2, "irrelevance": 1}
    assert kept[AFTER] == {"overall": 5, "relevance": 2, "irrelevance": 1}
    assert store.questions() == QUESTIONS
    assert store.delete(store.by_pseudonym("ann")) == 2
    assert store.judgments() == []


def test_a_new_study_says_which_questions_it_took(tmp_path: Path) -> None:
    assert make_store(tmp_path, images=1, texts=1).questions() == QUESTIONS
