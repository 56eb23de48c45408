"""Two tabs, two annotators, lost answers and failures, at a study's pages without a browser."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import sqlite3
import threading
from pathlib import Path

import pytest
from PIL import Image

from descscore.errors import ImageError
from descscore.page.reply import Reply
from descscore.page.study_page import StudyPage, image_address
from descscore.study.items import StudyItem
from descscore.study.questions import AFTER, BEFORE, NO_IMAGE
from study_tools import enter, hidden, make_store, profile, rate

BLIND, SIGHTED = "blind", "sighted"


@pytest.fixture
def page(tmp_path: Path) -> StudyPage:
    store = make_store(tmp_path, images=3, texts=1)
    return StudyPage(store, store.items())


def answers_of(page: StudyPage, name: str) -> dict[tuple[str, str], int]:
    kept = page.store.ratings(page.store.by_pseudonym(name))
    return {key: ratings["overall"] for key, ratings in kept.items()}


@pytest.mark.parametrize("action", ["save", "delete", "back", "leave"])
def test_a_page_of_one_annotator_does_nothing_to_another(page: StudyPage, action: str) -> None:
    """A tab still shows Ann's step when the browser has become Bo's."""
    ann, bo = enter(page, "Ann"), enter(page, "Bo")
    shown = page.act("start", ann)
    page.act("save", bo | hidden(page.act("start", bo)) | rate(NO_IMAGE, 1))
    sent = hidden(shown) | rate(NO_IMAGE, 5) | {"sure": "yes"}
    assert "annotator" in sent
    reply = page.act(action, bo | sent)
    assert list(answers_of(page, "Bo").values()) == [1]
    assert answers_of(page, "Ann") == {}
    assert "another annotator's; nothing was saved" in reply.status
    assert not reply.forget
    assert hidden(reply)["annotator"] != sent["annotator"]
    assert page.act("save", ann | sent).status.startswith("Saved.")


def test_every_form_of_an_annotator_says_whose_it_is(page: StudyPage) -> None:
    who = enter(page, "Ann", SIGHTED)
    pages = [page.act("welcome", who), page.act("ask-delete", who), page.act("start", who)]
    while "You have judged all" not in (pages[-1].page or ""):
        phase = AFTER if 'name="imaginability"' not in pages[-1].page else BEFORE
        pages.append(page.act("save", who | hidden(pages[-1]) | rate(phase)))
    for reply in pages:
        forms = re.findall(r"<form.*?</form>", reply.page, re.DOTALL)
        assert forms
        assert all('name="annotator"' in form for form in forms)


def test_two_tabs_of_one_annotator(page: StudyPage) -> None:
    who = enter(page, "Ann")
    shown = page.act("start", who)
    first, second = hidden(shown), hidden(page.act("open", who | {"tab": "2"}))
    assert page.act("save", who | first | rate(NO_IMAGE, 2)).status == "Saved."
    page.act("save", who | {"step": "0"} | rate(NO_IMAGE, 4))  # the other tab shows the first step still
    assert list(answers_of(page, "Ann").values()) == [4]
    assert second["annotator"] == first["annotator"]


def test_what_was_said_before_the_image_stays_though_two_tabs_race(page: StudyPage) -> None:
    """Both have passed the check when the first is saved and the image shown."""
    who = enter(page, "Bo", SIGHTED)
    sent = who | hidden(page.act("start", who))
    real, both = page.store.save, threading.Barrier(2, timeout=60)

    def together(*args: object) -> bool:
        both.wait()
        return real(*args)

    page.store.save = together
    said: list[str] = []
    tabs = [
        threading.Thread(target=lambda v=v: said.append(page.act("save", sent | rate(BEFORE, v)).status))
        for v in (1, 5)
    ]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert sorted(status.split(".")[0] for status in said)[0] == "Saved"
    assert sum("stay as they were" in status for status in said) == 1
    kept = page.store.judgments()
    assert len(kept) == 1
    ratings = kept[0].ratings
    assert (
        len({ratings["overall"], ratings["imaginability"], ratings["relevance"], ratings["irrelevance"]}) == 1
    )


def test_a_registration_whose_answer_was_lost_can_be_sent_again(page: StudyPage) -> None:
    form = hidden(page.act("consent", {"consent": "yes"}))
    sent = profile("Ann", BLIND) | form
    lost, again = page.act("register", sent), page.act("register", sent)
    assert again.errors == ()
    assert again.code == lost.code == form["new_code"]
    other = hidden(page.act("consent", {"consent": "yes"}))
    assert other["new_code"] != form["new_code"]
    taken = page.act("register", profile(" aNN ", SIGHTED) | other)
    assert [error.field for error in taken.errors] == ["pseudonym"]


def test_an_account_that_registers_in_two_tabs_is_one_annotator(page: StudyPage) -> None:
    shared = StudyPage(page.store, page.store.items(), codes=False)
    assert hidden(shared.act("consent", {"consent": "yes"}, "ann@x"))["new_code"] == ""
    first = shared.act("register", profile("Ann", BLIND), "ann@x")
    second = shared.act("register", profile("Anna", SIGHTED), "ann@x")
    assert hidden(first) == hidden(second)
    assert "Welcome, <bdi>Ann</bdi>" in second.page
    assert (first.code, second.code) == (None, None)
    assert page.store.by_pseudonym("Anna") is None


def test_codes_open_nothing_where_there_are_accounts(page: StudyPage) -> None:
    who = enter(page, "Ann")
    shared = StudyPage(page.store, page.store.items(), codes=False)
    for account in ("bo@x", None):
        assert 'name="consent"' in shared.act("open", who, account).page
        assert 'name="consent"' in shared.act("resume", {"typed_code": who["code"]}, account).page
        shared.act("save", who | {"step": "0"} | rate(NO_IMAGE), account)
    assert page.store.judgments() == []


def test_the_code_can_be_seen_again(page: StudyPage) -> None:
    who = enter(page, "Ann")
    assert who["code"] in page.act("open", who).page  # closed before the first answer
    shown = page.act("start", who)
    page.act("save", who | hidden(shown) | rate(NO_IMAGE))
    assert who["code"] not in page.act("open", who).page
    assert who["code"] in page.act("welcome", who).page


def test_a_deleted_annotator_is_told_and_saves_nothing(page: StudyPage) -> None:
    who, bo = enter(page, "Ann"), enter(page, "Bo")
    shown = page.act("start", who)
    page.store.delete(page.store.by_pseudonym("Ann"))
    reply = page.act("save", who | hidden(shown) | rate(NO_IMAGE))
    assert "nothing was saved" in reply.errors[0].message
    assert reply.forget
    assert 'name="consent"' in reply.page
    assert not page.act("open", who).forget  # it may be the code of another study with the same items
    assert page.act("open", who).errors == ()
    assert answers_of(page, "Bo") == {}
    assert page.act("nonesuch", bo).page == page.act("start", bo).page


def test_errors_name_neither_files_nor_items(
    page: StudyPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An item's name may say what its image shows."""
    who = enter(page, "Ann")
    sent = who | hidden(page.act("start", who)) | rate(NO_IMAGE)
    real = page.store.by_code

    def deleted_meanwhile(code: str) -> object:
        annotator = real(code)
        page.store.delete(annotator)
        return annotator

    with monkeypatch.context() as patch:
        order = page.store.order(real(who["code"]))
        patch.setattr(page.store, "by_code", deleted_meanwhile)
        patch.setattr(page.store, "order", lambda _: order)
        reply = page.act("save", sent)
    assert len(reply.errors) == 1
    assert not [item for item in order if item in reply.errors[0].message]
    page.store.path.rename(tmp_path / "away.db")
    for action in ("open", "start", "save", "resume"):
        said = page.act(action, sent | {"typed_code": "aaaa"}).errors[0].message
        assert "study.db" not in said
        assert ("not saved" in said) == (action == "save")


def with_metadata(path: Path) -> bytes:
    exif = Image.Exif()
    exif[270] = "secret exif"
    image = Image.linear_gradient("L").convert("RGB")
    image.save(
        path, "JPEG", comment=b"secret comment", exif=exif, xmp=b"<secret/>", icc_profile=b"secret" * 9
    )
    return path.read_bytes()


def test_the_shown_image_is_pixels_alone(tmp_path: Path) -> None:
    data = with_metadata(tmp_path / "secret.jpg")
    assert data.count(b"secret") >= 11  # 12 where Pillow writes XMP, since 11.0
    item = StudyItem("a", tmp_path / "secret.jpg", hashlib.sha256(data).hexdigest(), "d", "t", "x")
    kind, _, shown = image_address(item).partition(",")
    sent = base64.b64decode(shown)
    assert kind == "data:image/jpeg;base64"
    assert b"secret" not in sent
    image = Image.open(io.BytesIO(sent))
    assert image.size == (256, 256)
    assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_an_image_that_was_exchanged_is_not_shown(page: StudyPage, tmp_path: Path) -> None:
    who = enter(page, "Bo", SIGHTED)
    shown = page.act("start", who)
    for photo in (tmp_path / "photos").iterdir():
        with_metadata(photo)
    reply = page.act("save", who | hidden(shown) | rate(BEFORE, 2))
    message = reply.errors[0].message
    assert "cannot be shown" in message
    assert "What you saved is kept" in message
    assert ".png" not in message
    assert list(answers_of(page, "Bo").values()) == [2]
    item = page.store.items()[0]
    with pytest.raises(ImageError, match="cannot be shown"):
        image_address(StudyItem("a", tmp_path / "gone.png", item.image_hash, "d", "t", "x"))


def test_fields_of_any_kind_break_nothing(page: StudyPage) -> None:
    who = enter(page, "Ann")
    odd = ("", " ", "0", "-1", "999999", "1e3", "٣", "\0", "\ud800", "x" * 70_000, "' OR 1=1 --", "${7*7}")
    for action in (
        "open",
        "consent",
        "register",
        "resume",
        "save",
        "back",
        "delete",
        "welcome",
        "leave",
        "x",
    ):
        for value in odd:
            fields = dict.fromkeys(("pseudonym", "vision", "screen_reader", "typed_code", "new_code"), value)
            fields |= {"consent": value, "sure": value, "overall": value, "annotator": value, "step": value}
            assert isinstance(page.act(action, fields), Reply)
            assert isinstance(page.act(action, fields | who), Reply)
            assert isinstance(page.act(action, {"code": value}), Reply)
    with sqlite3.connect(page.store.path) as database:
        assert database.execute("SELECT pseudonym FROM annotators").fetchall() == [("Ann",)]
    assert page.store.judgments() == []
