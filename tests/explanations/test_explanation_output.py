"""Explanations as text, JSON and a page, from Python and from the command line."""

from __future__ import annotations

import contextlib
import fcntl
import html.parser
import json
import os
import pty
import re
import struct
import sys
import termios
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from explained import TEXTS
from explained import adapter as adapter
from explained import explanations as explanations
from explained import image as image
from explained import plain as plain
from explained import scorer as scorer
from PIL import Image

from descscore import DescScorer
from descscore.cli import main
from descscore.explanations.explainer import ExplainOptions, explain, explain_batch
from descscore.explanations.explanation import Explanation
from descscore.explanations.html_page import to_html
from descscore.explanations.occlusion import GRID
from descscore.explanations.terminal import progress_bar, to_text


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_json_holds_everything(explanations: list[Explanation], adapter: Path, image: Path) -> None:
    result = run(
        "explain",
        image,
        TEXTS[1],
        "--source",
        TEXTS[1],
        "--where",
        "--json",
        "--model",
        adapter,
        "--device",
        "cpu",
    )
    assert result.exit_code == 0, result.output
    data = json.loads(result.output)
    assert data["image"] == str(image)
    assert data["text"] == TEXTS[1]
    assert data["score"] == pytest.approx(explanations[1].score.score)
    assert data["convergence"]["converged"] is True
    assert {"delta", "difference", "steps"} < set(data["convergence"])
    assert {"text", "start", "end", "value", "purpose"} < set(data["words"][0])
    assert [w["value"] for w in data["words"]] == pytest.approx(
        [w.value for w in explanations[1].words], abs=1e-5
    )
    assert data["counterfactual"]["source"] == TEXTS[1]
    assert len(data["occlusion"]["values"]) == GRID
    assert "not evidence" in data["occlusion"]["note"]
    assert json.loads(json.dumps(explanations[1].to_dict()))["words"][0]["text"] == "Ada"


def test_text_gives_every_number_with_its_sign(
    explanations: list[Explanation], plain: DescScorer, image: Path
) -> None:
    for item in explanations:
        brief, whole = to_text(item), to_text(item, verbose=True)
        for word in item.words:
            line = f"{word.value:+.4f}" if word.tokens else "(not seen by the model)"
            assert line in brief
            assert line in whole
            assert not word.tokens or f"{word.leave_one_out:+.4f}" in whole
        assert "add up" in whole
        assert item.purpose is not None
        assert f"{item.purpose.log_odds:+.2f}" in whole
    assert "purpose" not in to_text(explain(image, "A dog", scorer=plain), verbose=True)


def test_no_two_columns_say_the_same(explanations: list[Explanation]) -> None:
    """Each number once: no bar of a number beside it, and no rest that two other columns give."""
    for verbose in (False, True):
        text = to_text(explanations[0], verbose)
        (head,) = (line for line in text.splitlines() if line.startswith("word "))
        names = re.split(r"\s{2,}", head)
        assert len(set(names)) == len(names)
        assert not {"bar", "around"} & set(names)
        rows = text.split(head)[1].split("  cosine: ")[0].split("\n")[1:-1]
        columns = list(zip(*(re.split(r"\s{2,}", row) for row in rows), strict=True))
        assert len(set(columns)) == len(columns) == len(names)


@pytest.mark.parametrize("width", [44, 60, 80, 200])
def test_an_explanation_fits_the_terminal_and_loses_no_number(
    explanations: list[Explanation], width: int
) -> None:
    for item in explanations:
        for verbose in (False, True):
            text = to_text(item, verbose, width)
            assert max(map(len, text.splitlines())) <= max(width, 65 if verbose else 0)
            whole = to_text(item, verbose)
            assert sorted(set(re.findall(r"[+-][0-9]+\.[0-9]{3,4}", text))) == sorted(
                set(re.findall(r"[+-][0-9]+\.[0-9]{3,4}", whole))
            )
            if width == 200:
                assert text.count("\nword ") == 1


def test_every_column_of_the_table_of_words_has_its_own_name_and_is_explained(
    explanations: list[Explanation], plain: DescScorer, image: Path
) -> None:
    for item in (explanations[0], explain(image, "A dog", scorer=plain)):
        lines = to_text(item, verbose=True).splitlines()
        (head,) = (line for line in lines if line.startswith("word "))
        names = [name for name in re.split(r"\s{2,}", head) if name not in ("word", "bar")]
        assert len(set(names)) == len(names) > 1
        explained = [line.partition(":")[0].strip() for line in lines if line.startswith("  ")]
        assert [name for name in names if name not in explained] == []


def test_what_raises_and_lowers_most_are_words(scorer: DescScorer, image: Path) -> None:
    """Not full stops; and where no word lowers the cosine, "none" is no name of a word."""
    item = explain(image, "A dog, a cat. (Rex!)", scorer=scorer)
    text = to_text(item)
    sums = [line for line in text.splitlines() if "raised" in line]
    assert sums
    for line in sums:
        named = re.findall(r"(\S+) \([+-]\d", line)
        assert named
        assert set(named) <= {"A", "dog", "a", "cat", "Rex"}
    risen = replace(item, words=tuple(replace(word, value=abs(word.value) + 0.1) for word in item.words))
    assert "; lowered by no word" in to_text(risen)
    assert "Lowered most by: no word." in to_html(risen, Image.open(image), "a")


def test_an_explanation_names_itself_in_a_line_and_is_a_table_in_a_notebook(
    scorer: DescScorer, plain: DescScorer, image: Path
) -> None:
    text = "The <b>face of a ginger tabby cat</b>. " * 8
    for item in (explain(image, text, scorer=scorer), explain(image, text, scorer=plain)):
        line = repr(item)
        assert re.fullmatch(
            r"Explanation\('The <b>face of a …', score \d\.\d{3}, \d+ words; raised (most )?by [\w, ]*\)",
            line,
        )
        assert len(line) < 150
        page = Page(item._repr_html_())
        assert "b" not in {tag for tag, _ in page.tags}
        assert [row[0] for row in page.rows] == ["Word", *(word.text for word in item.words)]
        assert page.rows[1][1] == f"{item.words[0].value:+.4f}"
        assert ("Purpose" in page.rows[0]) == (item.purpose is not None)


def test_only_work_over_a_second_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, each stage drew a bar at once and started the clock again."""
    shown = []
    for pause in (0.0, 0.7):
        parent, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # rows, columns
        with os.fdopen(child, "w") as terminal, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", terminal)
            with progress_bar() as progress:
                for stage in ("parts of words", "words left out"):
                    progress(stage, 1, 2)
                    time.sleep(pause)
                    progress(stage, 1, 2)
            terminal.write("end")
            terminal.flush()
            shown.append(os.read(parent, 1 << 16).decode())
        os.close(parent)
    assert shown[0] == "end"
    assert "words left out: " in shown[1]
    assert "2/2" in shown[1]
    assert "runs" in shown[1]


def test_text_obeys_no_control_characters(scorer: DescScorer, image: Path) -> None:
    text = to_text(explain(image, "red \x1b[31mfox\x07 runs\u202e", scorer=scorer))
    assert not {"\x1b", "\x07", "\u202e"} & set(text)


def test_parts_that_do_not_add_up_are_said_not_to(scorer: DescScorer, image: Path) -> None:
    item = explain_batch([image], [TEXTS[2]], scorer, ExplainOptions(steps=(1,)))[0]
    assert not item.convergence.converged
    assert "DO NOT add up" in to_text(item)
    assert "DO NOT add up" in to_html(item, Image.open(image), "a")


class Page(html.parser.HTMLParser):
    """Tags, attributes, text and table rows of a page, and whether tags are nested as they should be."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data


def test_the_page_leaves_the_picture_as_it_is(explanations: list[Explanation]) -> None:
    picture = Image.new("RGB", (900, 600))
    picture.info["comment"] = b"kept"
    to_html(explanations[0], picture, "a")
    assert picture.size == (900, 600)
    assert picture.info == {"comment": b"kept"}


def test_the_page_stands_alone(explanations: list[Explanation], image: Path) -> None:
    for item in explanations:
        page = Page(to_html(item, Image.open(image), image.name))
        assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
        for tag, attributes in page.tags:
            for name in ("src", "href", "data", "action", "srcset", "poster"):
                assert (attributes.get(name) or "data:").startswith("data:"), tag
            assert not any(name.startswith("on") for name in attributes)
        assert "url(" not in page.text
        assert "@import" not in page.text
        assert "not evidence" in page.text


def test_the_page_reads_without_colour(explanations: list[Explanation], image: Path) -> None:
    item = explanations[1]
    page = Page(to_html(item, Image.open(image), image.name))
    assert dict(page.tags[0][1]) == {"lang": "en"}
    assert sum(tag == "h1" for tag, _ in page.tags) == 1
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(
        attributes.get("role") == "img" and attributes.get("aria-label")
        for tag, attributes in page.tags
        if tag == "svg"
    )
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in page.tags if tag == "th")
    for word in item.words:
        for key, form in (("value", "+.4f"), ("through", "+.4f"), ("around", "+.4f"), ("purpose", "+.3f")):
            assert format(getattr(word, key), form) in page.text
    (first,) = (i for i, row in enumerate(page.rows) if row[:2] == ["Word", "Rank"])
    table = page.rows[first + 1 : first + 1 + len(item.words)]
    assert [row[0] for row in table] == [word.text for word in item.words]
    ranks = [int(row[1]) for row in table]
    values = [word.value for word in item.words]
    assert sorted(ranks) == list(range(1, len(values) + 1))
    assert np.argsort(ranks).tolist() == np.argsort([-value for value in values]).tolist()


def test_the_page_escapes_what_it_shows(scorer: DescScorer, image: Path) -> None:
    text = "<script>alert(1)</script> \"A\" & 'b' <img src=x onerror=alert(1)> \x00 {style}"
    item = explain(image, text, scorer=scorer, source="<b>x</b>")
    page = Page(to_html(item, Image.open(image), image.name))
    assert not {"script", "b"} & {tag for tag, _ in page.tags}
    assert sum(tag == "img" for tag, _ in page.tags) == 1
    assert "a <b> & c.png" in str([attributes.get("alt") for tag, attributes in page.tags if tag == "img"])
    assert " ".join(text.replace("\x00", "\\u0000").split()) in " ".join(page.text.split())


def test_the_page_goes_where_it_should(adapter: Path, image: Path, tmp_path: Path) -> None:
    options = ("--model", adapter, "--device", "cpu")
    before = image.read_bytes()
    wrong = run("explain", image, "A dog", "--html", image, *options)
    assert wrong.exit_code == 2
    assert ".html" in wrong.stderr
    assert image.read_bytes() == before
    page = tmp_path / "page.html"
    written = run("explain", image, "A dog", "--html", page, *options)
    assert written.exit_code == 0, written.output
    assert Page(page.read_text(encoding="utf-8")).text.count("A dog")
    assert page.read_bytes().endswith(b"</html>\n")
    printed = run("explain", image, "A dog", *options, "--html")
    assert printed.stdout == page.read_text(encoding="utf-8")
    assert run("explain", image, "A dog", "--json", *options, "--html").exit_code == 2
    both = run("explain", image, "A dog", "--json", "--html", page, *options)
    assert json.loads(both.stdout)["text"] == "A dog"
    lost = run("explain", image, "A dog", "--html", tmp_path / "none" / "page.html", *options)
    assert lost.exit_code == 1
    assert len(lost.stderr.splitlines()) == 1


def test_a_reader_that_wants_no_more_of_the_page_gets_no_complaint(
    adapter: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as ``head`` does
    arguments = [
        str(one) for one in ("explain", image, "A dog", "--model", adapter, "--device", "cpu", "--html")
    ]
    with (
        open(writer, "w", encoding="utf-8") as output,
        contextlib.redirect_stdout(output),
        pytest.raises(SystemExit, match="1"),
    ):
        main(arguments)
    assert capsys.readouterr().err == ""


def test_failures_are_one_line(adapter: Path, plain: DescScorer, image: Path, tmp_path: Path) -> None:
    for args, code, mention in (
        ((tmp_path / "none.jpg", "a"), 1, "none.jpg"),
        ((image, ""), 1, "empty or blank"),
        ((image, "a", "--text-policy", "nonesuch"), 2, "nonesuch"),
        ((image,), 2, "TEXT"),
    ):
        result = run("explain", *args, "--model", adapter, "--device", "cpu")
        assert result.exit_code == code
        assert mention in result.stderr
        assert "Traceback" not in result.output
