"""A study's pages without a browser: what each action shows, saves and refuses."""

from __future__ import annotations

import html
import re
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from descscore.page.study_page import StudyPage
from descscore.study.database import storage_errors
from descscore.study.items import read_items
from descscore.study.judgments import JudgmentStore
from descscore.study.questions import BEFORE, NO_IMAGE, QUESTIONS
from study_tools import enter, hidden, make_store, profile, rate, write_items, write_table


@pytest.fixture
def page(tmp_path: Path) -> StudyPage:
    store = make_store(tmp_path, images=3, texts=1)
    return StudyPage(store, store.items())


def test_a_blind_annotator_never_gets_the_image_or_a_word_about_it(page: StudyPage) -> None:
    who = enter(page, "Ann", "blind")
    secrets = {"photos", ".png", "view", "café", "<img", "data:image", "base64", "src="}
    study = page.store.items()
    items = [item.item for item in study]
    hashes = [item.image_hash for item in study]
    replies = [page.act("start", who)]
    while 'name="overall"' in (replies[-1].page or ""):
        replies.append(page.act("save", who | hidden(replies[-1]) | rate(NO_IMAGE)))
        replies.append(page.act("back", who | {"step": "1"}))
        replies.append(page.act("open", who))
    assert "You have judged all 3 descriptions" in replies[-1].page
    for reply in replies:
        sent = reply.to_dict()
        assert sent.pop("preview") is None
        said = html.unescape(str(sent)).lower()
        texts = [item.description.lower() for item in study]
        for text in texts:
            said = said.replace(text, "")
        assert not [secret for secret in secrets if secret in said]
        assert not [name for name in items + hashes if name in said]


def test_a_sighted_annotator_gets_the_image_only_afterwards(page: StudyPage) -> None:
    who = enter(page, "Bo", "sighted")
    before = page.act("start", who)
    assert "<img" not in before.page
    assert before.page.count("<fieldset") == 4
    after = page.act("save", who | hidden(before) | rate(BEFORE, 2))
    assert after.page.count("data:image/jpeg;base64,") == 1
    assert "photos" not in after.page
    assert after.page.count("<fieldset") == 3
    assert 'name="imaginability"' not in after.page
    assert 'value="back"' not in after.page
    again = page.act("save", who | hidden(before) | rate(BEFORE, 5))
    assert "stay as they were" in again.status
    annotator = page.store.by_pseudonym("Bo")
    assert {r["overall"] for r in page.store.ratings(annotator).values()} == {2}


def test_every_question_must_be_answered_with_1_to_5(page: StudyPage) -> None:
    who = enter(page, "Ann", "blind")
    start = page.act("start", who)
    for value in ("", "0", "6", "x", "3 ", "٣"):
        reply = page.act("save", who | hidden(start) | rate(NO_IMAGE) | {"relevance": value})
        assert [error.field for error in reply.errors] == ["relevance"]
        assert reply.page is None
    reply = page.act("save", who | hidden(start))
    assert [error.field for error in reply.errors] == [question.name for question in QUESTIONS]
    assert page.store.judgments() == []


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, {"pseudonym", "vision", "screen_reader", ""}),
        ({"consent": "yes", "pseudonym": "=1+1", "vision": "blind", "screen_reader": "often"}, {"pseudonym"}),
        (
            {"consent": "yes", "pseudonym": "a" * 41, "vision": "x", "screen_reader": "often"},
            {"pseudonym", "vision"},
        ),
        (
            {"consent": "yes", "pseudonym": "<b>", "vision": "blind", "screen_reader": ""},
            {"pseudonym", "screen_reader"},
        ),
        ({"pseudonym": "Ann", "vision": "blind", "screen_reader": "often"}, {""}),
    ],
)
def test_profile_errors_name_their_fields(page: StudyPage, fields: dict[str, str], wrong: set[str]) -> None:
    assert {error.field for error in page.act("register", fields).errors} == wrong
    assert page.store.by_pseudonym("Ann") is None


def test_consent_comes_first(page: StudyPage) -> None:
    assert [error.field for error in page.act("consent", {}).errors] == ["consent"]
    assert 'name="pseudonym"' in page.act("consent", {"consent": "yes"}).page
    assert 'name="consent"' in page.act("save", {"step": "0"} | rate(NO_IMAGE)).page
    assert 'name="consent"' in page.act("nonesuch", {}).page


def test_resume_by_code_and_by_browser(page: StudyPage) -> None:
    who = enter(page, "Ann", "blind")
    first = page.act("start", who)
    page.act("save", who | hidden(first) | rate(NO_IMAGE))
    fresh = StudyPage(JudgmentStore(page.store.path), page.store.items())  # a restarted server
    assert hidden(fresh.act("open", who))["step"] == "1"
    resumed = fresh.act("resume", {"typed_code": who["code"].upper().replace("-", " ")})
    assert hidden(resumed)["step"] == "1"
    assert resumed.code
    assert [e.field for e in fresh.act("resume", {"typed_code": "aaaa-bbbb"}).errors] == ["typed_code"]
    taken = fresh.act("register", profile("ANN"))
    assert [error.field for error in taken.errors] == ["pseudonym"]


def test_accounts_decide_who_somebody_is(page: StudyPage) -> None:
    assert page.act("register", profile("Ann"), "ann@x").code is None
    other = enter(page, "Bo", "blind")
    page.act("save", {"step": "0"} | other | rate(NO_IMAGE, 4), "ann@x")  # another's code is of no use
    assert {judgment.pseudonym for judgment in page.store.judgments()} == {"Ann"}
    assert 'name="typed_code"' in page.act("open", {}, None).page
    shared = StudyPage(page.store, page.store.items(), codes=False)
    assert 'name="typed_code"' not in shared.act("open", {}, "cy@x").page
    assert 'value="leave"' not in shared.act("open", {}, "ann@x").page


def test_back_shows_what_was_answered_and_changes_it(page: StudyPage) -> None:
    who = enter(page, "Ann", "blind")
    first = page.act("start", who)
    second = page.act("save", who | hidden(first) | rate(NO_IMAGE, 2))
    back = page.act("back", who | hidden(second))
    assert hidden(back) == hidden(first)
    assert back.page.count(" checked") == 4
    assert re.search(r'name="overall" value="2" checked', back.page)
    again = page.act("save", who | hidden(back) | rate(NO_IMAGE, 5))
    assert hidden(again) == hidden(second)
    assert [judgment.ratings["overall"] for judgment in page.store.judgments()] == [5]


def test_deletion_asks_and_then_forgets(page: StudyPage) -> None:
    who = enter(page, "Ann", "blind")
    page.act("save", who | hidden(page.act("start", who)) | rate(NO_IMAGE))
    assert [error.field for error in page.act("delete", who).errors] == ["sure"]
    assert len(page.store.judgments()) == 1
    reply = page.act("delete", who | {"sure": "yes"})
    assert reply.forget
    assert page.store.judgments() == []
    assert 'name="consent"' in page.act("open", who).page


def test_texts_are_shown_as_text(tmp_path: Path) -> None:
    write_items(tmp_path, images=1, texts=1)
    bad = "<script>alert(1)</script><img src=x onerror=alert(2)> {{7*7}} ${7*7} &amp; \"' onclick="
    cells = {"item": "a", "image": "photos/Café, «view» 0.png", "description": bad}
    table = write_table(tmp_path / "bad.csv", [cells | {"article title": bad, "article text": bad}])
    items = read_items(table)
    page = StudyPage(JudgmentStore.for_study(tmp_path / "bad.db", items), items, consent=bad)
    shown = page.act("open", {}).page + page.act("start", enter(page, "Ann", "blind")).page
    assert "<script" not in shown
    assert "<img" not in shown
    assert shown.count(html.escape("{{7*7}} ${7*7} &amp;")) == 4


def test_a_database_that_cannot_be_written_keeps_the_form(
    page: StudyPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = enter(page, "Ann", "blind")
    start = page.act("start", who)
    for message, said in (
        ("attempt to write a readonly database", "is read-only"),
        ("unable to open database file", "is read-only"),
        ("database or disk is full", "the disk is full"),
        ("disk I/O error", "cannot be read or written"),
        ("database is locked", "cannot be read or written"),
    ):

        def save(*_: object, message: str = message) -> None:
            with storage_errors(page.store.path):
                raise sqlite3.OperationalError(message)

        monkeypatch.setattr(page.store, "save", save)
        reply = page.act("save", who | hidden(start) | rate(NO_IMAGE))
        assert reply.page is None  # the form stays
        assert said in reply.errors[0].message
        assert "still in the form" in reply.errors[0].message
        assert str(page.store.path) not in reply.errors[0].message


def test_a_disk_without_room_for_sqlite_s_own_files_is_full(
    page: StudyPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite says "disk I/O error" where it finds no room for the files that stand beside the database."""
    who = enter(page, "Ann", "blind")

    def fail(*_: object) -> None:
        with storage_errors(page.store.path):
            raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(page.store, "by_code", fail)
    for free, said in ((0, "the disk is full"), (2**15, "the disk is full"), (2**20, "cannot be read")):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
        assert said in page.act("save", who).errors[0].message
        assert said in page.act("open", who).errors[0].message
