"""The page to try texts on, without a browser: what it computes, and what it says is wrong."""

from __future__ import annotations

import base64
import html
import io
import re
import time
from pathlib import Path

import pytest
from model_passes import image_batches

from descscore import DescScorer
from descscore.explanations.explainer import explain
from descscore.images import load_image
from descscore.page.reply import Reply
from descscore.page.try_page import EXAMPLES, MAX_ARTICLE_LETTERS, MAX_DRAFTS, MAX_LETTERS, TryPage
from descscore.page.verdict import MINUS
from descscore.records import share

LONG = " ".join(map(chr, range(0x4E00, 0x4E00 + 990)))
"""A text within the limit of letters, with several tokens a letter."""


@pytest.fixture(scope="module")
def scorer(tiny_folder: Path) -> DescScorer:
    return DescScorer.from_pretrained(tiny_folder, device="cpu")


@pytest.fixture
def page(scorer: DescScorer) -> TryPage:
    return TryPage(scorer)


def score(page: TryPage, photo: Path, fields: dict[str, str]) -> Reply:
    """The reply to the filled-in form with a photo."""
    return page.act("score", fields, image=photo.read_bytes())


def cells(reply: Reply, caption: str) -> list[list[str]]:
    """The cells of the table with that caption, as text."""
    table = re.search(rf"<caption>{caption}</caption>.*?</table>", reply.result, re.DOTALL).group()
    rows = [
        re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)
        for row in re.findall(r"<tr .*?</tr>", table, re.DOTALL)
    ]
    return [[html.unescape(re.sub(r"<[^>]*>", "", cell)) for cell in row] for row in rows[1:]]


def signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", MINUS)


def test_scores_are_the_library_s(page: TryPage, scorer: DescScorer, photo: Path) -> None:
    texts = {
        "description": "A cat on a wall.",
        "caption": "Minka",
        "drafts": "A cat.\n\n A dog in the snow. \n",
    }
    reply = score(page, photo, texts)
    assert reply.errors == ()
    assert reply.page is None
    expected = scorer.score(photo, "A cat on a wall.")
    rows = {row[0]: row[1:] for row in cells(reply, "Scores of the description")}
    assert rows["Score"][0] == f"{expected.score:.2f}"
    assert rows["Cosine"][0] == signed(expected.cosine)
    assert rows["Reads as a description"] == ["none", "this model has no purpose read-out"]
    assert rows["Length"] == [f"{expected.tokens} tokens", "not cut: the whole text was read"]
    comparison = scorer.compare(photo, "A cat on a wall.", "Minka")
    assert f"{signed(comparison.margin)} (cosine)" in reply.result
    assert share(100 * comparison.probability) in reply.result
    drafts = ["A cat on a wall.", "A cat.", "A dog in the snow."]
    cosines = {text: scorer.score(photo, text).cosine for text in drafts}
    ranked = cells(reply, "All drafts in order of their cosine")
    assert [row[0] for row in ranked] == sorted(drafts, key=lambda text: -cosines[text])
    assert [row[3] for row in ranked] == [signed(cosines[row[0]]) for row in ranked]
    words = cells(reply, "Parts of the score by word")
    found = explain(photo, "A cat on a wall.", scorer=scorer).words
    assert [row[0] for row in words] == [word.text for word in found]
    parts = [f"{250 * word.value:+.1f}".replace("-", MINUS) for word in found]
    assert [row[2] for row in words] == ["0.0" if part[1:] == "0.0" else part for part in parts]
    assert all((row[1] == "lowers") <= row[2].startswith(MINUS) for row in words)
    assert reply.status.startswith(f"Score {expected.score:.2f}")


def test_the_article_s_text_adds_scores_in_context(scorer: DescScorer, photo: Path) -> None:
    scorer = DescScorer(scorer.model, "truncate")
    page = TryPage(scorer)
    texts = {"description": "A cat on a wall.", "caption": "Minka", "drafts": "A cat."}
    article = "Cats are kept as pets all over the world. " * 12
    plain = score(page, photo, texts | {"context": " \n"})
    reply = score(page, photo, texts | {"context": article})
    assert reply.errors == ()
    assert "context" not in plain.result.lower()
    expected = {
        text: signed(scorer.score(photo, text, context=article).contextual_score)
        for text in ("A cat on a wall.", "Minka", "A cat.")
    }
    rows = {row[0]: row[1:] for row in cells(reply, "Scores of the description")}
    value, meaning = rows.pop("Score in context")
    assert value == expected["A cat on a wall."]
    assert meaning.endswith("The article was cut: the model reads its first 77 tokens")
    before = {row[0]: row[1:] for row in cells(plain, "Scores of the description")}
    assert rows == before  # nothing else moves
    compared = cells(reply, "Which of the two would replace the image better")
    assert {row[4]: row[3] for row in compared} == {
        text: expected[text] for text in ("A cat on a wall.", "Minka")
    }
    ranked = cells(reply, "All drafts in order of their cosine")
    assert {row[0]: row[4] for row in ranked} == {
        text: expected[text] for text in ("A cat on a wall.", "A cat.")
    }
    assert scorer.signature + "|context:kreiss2022-no-prefix" in reply.result
    short = score(page, photo, texts | {"context": "Pets."})
    assert "The whole article was read" in short.result


def test_a_cut_text_says_so_in_the_table_and_aloud(scorer: DescScorer, photo: Path) -> None:
    page = TryPage(DescScorer(scorer.model, "truncate"))
    reply = score(page, photo, {"description": "word " * 100})
    assert "The text was cut: its end was not read." in reply.status
    assert "cut: the model reads 77 tokens" in reply.result
    assert cells(reply, "Parts of the score by word")[-1][1] == "not read"


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, ["image", "description"]),
        ({"example": "house"}, ["description"]),
        ({"example": "nonesuch", "description": "A."}, ["image"]),
        ({"image": "/etc/passwd", "description": "A."}, ["image"]),
        ({"example": "house", "description": "A.", "drafts": f"{LONG}a\n{LONG}b"}, [""]),
        ({"example": "house", "description": "a" * (MAX_LETTERS + 1)}, ["description"]),
        ({"example": "house", "description": "A.", "caption": "a" * (MAX_LETTERS + 1)}, ["caption"]),
        ({"example": "house", "description": "A.", "drafts": "b\n" * (MAX_DRAFTS + 1)}, ["drafts"]),
        ({"example": "house", "description": "A.", "context": "a " * MAX_ARTICLE_LETTERS}, ["context"]),
        ({"example": "house", "description": "A.", "context": LONG * 4}, [""]),
    ],
)
def test_errors_are_tied_to_their_fields(page: TryPage, fields: dict[str, str], wrong: list[str]) -> None:
    reply = page.act("score", fields)
    assert [error.field for error in reply.errors] == wrong
    assert reply.result is None


def test_examples_fill_the_form_and_can_be_scored(page: TryPage) -> None:
    for name in EXAMPLES:
        reply = page.act(f"example:{name}", {})
        sent = load_image(base64.b64decode(reply.preview[0].split(",")[1]))
        assert sent.tobytes() == EXAMPLES[name].draw().tobytes()
        scored = page.act("score", reply.fields)
        assert scored.errors == ()
        assert len(cells(scored, "All drafts in order of their cosine")) == 1 + len(EXAMPLES[name].drafts)
    assert page.act("example:../../etc/passwd", {}).fields == {}


def test_texts_are_shown_as_text(page: TryPage) -> None:
    bad = "<img src=x onerror=alert(1)> {{7*7}}"
    fields = {"example": "boat", "description": bad, "caption": bad, "drafts": bad + "\n<b>A boat"}
    shown = page.act("score", fields).result
    assert "<img" not in shown
    assert "<b>" not in shown
    assert html.escape(bad) in shown


def test_drawings_differ_and_are_small() -> None:
    sizes = []
    for example in EXAMPLES.values():
        buffer = io.BytesIO()
        example.draw().save(buffer, "PNG")
        sizes.append(len(buffer.getvalue()))
    assert max(sizes) < 20_000
    assert len({example.draw().tobytes() for example in EXAMPLES.values()}) == len(EXAMPLES)


def test_a_damaged_upload_is_an_error_of_its_field(page: TryPage, photo: Path) -> None:
    reply = page.act("score", {"description": "A cat."}, image=photo.read_bytes()[:100])
    assert [error.field for error in reply.errors] == ["image"]
    reply = page.act("score", {"description": "A cat."}, image=b"")
    assert [error.message for error in reply.errors] == ["The file is empty. Choose another one."]


def test_an_image_is_encoded_once_whatever_is_asked_of_it(
    page: TryPage, scorer: DescScorer, photo: Path
) -> None:
    fields = {"description": "A cat.", "caption": "Minka", "drafts": "A dog.\nA cat on a wall."}
    with image_batches(scorer.model.clip) as sizes:
        assert score(page, photo, fields).errors == ()
    assert sizes == [1]


def test_long_texts_are_scored_but_not_explained_word_by_word(page: TryPage, photo: Path) -> None:
    """The time of an explanation grows with the square of the number of words."""
    begun = time.process_time()
    reply = score(page, photo, {"description": "a b " * 500})
    assert time.process_time() - begun < 5
    assert reply.errors == ()
    assert "too long to show what each word does" in reply.result
    assert "Parts of the score by word" not in reply.result
    assert "Parts of the score by word" in score(page, photo, {"description": "a b " * 60}).result
