"""The documentation's cases: chosen by their rules, and without a word of the data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from descscore import DescScorer, explain
from descscore.errors import DataError, UsageError
from descscore.tables.open import DataOptions, load_pairs
from descscore.towers.text import run_to_block
from pictures import make_photo
from report_data import make_adapter, make_concadia
from reproduce.explanations import CASES, STARTS, choose, main, make_cases, measure_starts

ROOT = Path(__file__).parents[2]
TEXTS = ("description", "caption")
NOUNS = ("harbour", "bicycle", "violin", "glacier", "lantern", "walrus")
NAMES = ("Ottoline", "Bartholomew", "Wilhelmina", "Leopold", "Clementine", "Aurelius")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs in Concadia's format."""
    folder = tmp_path_factory.mktemp("concadia")
    (folder / "resized").mkdir()
    images = []
    for i in range(36):
        make_photo(folder / "resized" / f"{i}.jpg", i, (20, 20))
        texts = {
            "description": f"A {NOUNS[i % 6]} by a {NOUNS[i // 6]}",
            "caption": f"{NAMES[i % 6]}, {1800 + i}",
        }
        entry = {kind: {"raw": text} for kind, text in texts.items()}
        images.append({"filename": f"{i}.jpg", "article_id": i, "split": "test", **entry})
    (folder / "wiki_split.json").write_text(json.dumps({"images": images}))
    return folder


@pytest.fixture(scope="module")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tiny_folder, tmp_path_factory.mktemp("adapter"))


def test_cases_follow_their_rules(data: Path, adapter: Path) -> None:
    cases, _ = make_cases(DescScorer.from_pretrained(adapter, device="cpu"), load_pairs(data).split("test"))
    good, bad = choose(cases)
    assert all(case.margin > 0 and case.gap > 0 and case.agree for case in good)
    assert all(case.description.score.score > 0 for case in good)
    assert [case.margin for case in good] == sorted(case.margin for case in good)
    (_, caption), (_, read_out), (_, contradiction) = bad
    assert caption.margin == min(case.margin for case in cases) < 0
    others = [case for case in cases if case is not caption]
    assert read_out.gap == min(case.gap for case in others) < 0
    assert contradiction.contradiction == max(c.contradiction for c in others if c is not read_out) > 0
    assert len({case.pair.id for case in [*good, caption, read_out, contradiction]}) == 6
    with pytest.raises(DataError, match="only 0 of 1 pairs work"):
        choose([caption])


def test_the_page_holds_numbers_and_no_text_of_the_data(data: Path, adapter: Path, tmp_path: Path) -> None:
    page = tmp_path / "explanations.md"
    page.write_text((ROOT / "docs" / "explanations.md").read_text(encoding="utf-8"), encoding="utf-8")
    before = page.read_text(encoding="utf-8")
    arguments = [str(tmp_path), "--data", str(data), "--model", str(adapter)]
    for _ in range(2):  # a second time replaces, not adds
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    made = re.compile(r"(<!-- (starts|cases) -->\n).*?(<!-- /\2 -->)", re.DOTALL)
    assert made.sub(r"\1\3", text) == made.sub(r"\1\3", before)
    assert len(re.findall(r"### Works, \d: `\d+\.jpg`", text)) == 3
    assert len(re.findall(r"### Does not work, \d: `\d+\.jpg`", text)) == 3
    assert "36 pairs, 72 texts" in text
    shown, _, marks = text.partition("<!-- cases -->")[2].partition("### Marks")
    assert not [word for word in (*NOUNS, *NAMES) if word in shown]
    assert re.search(r"\| number \| 36 \| [+-]\d\.\d\d \|", marks)
    found = json.loads((tmp_path / "explanation_cases.json").read_text(encoding="utf-8"))
    assert CASES.markdown(found) in text
    hold_their_rules(found)
    cases = json.dumps([found["works"], found["fails"]])
    assert not [word for word in (*NOUNS, *NAMES) if word in cases]


def test_the_file_holds_what_was_explained(data: Path, adapter: Path, tmp_path: Path) -> None:
    """A case's numbers are those of explaining its two texts once more, by themselves."""
    marks = "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in ("cases", "starts"))
    (tmp_path / "explanations.md").write_text(marks, encoding="utf-8")
    arguments = [str(tmp_path), "--data", str(data), "--model", str(adapter)]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    found = json.loads((tmp_path / "explanation_cases.json").read_text(encoding="utf-8"))
    scorer = DescScorer.from_pretrained(adapter, device="cpu")
    pairs = {pair.id: pair for pair in load_pairs(data).split("test")}
    for case in [*found["works"], *found["fails"]]:
        pair = pairs[case["id"]]
        texts = {"description": pair.description, "caption": pair.caption}
        alone = {kind: explain(pair.image.read(), text, scorer=scorer) for kind, text in texts.items()}
        for kind, one in alone.items():
            shown, word = case[kind], one.words[case[kind]["strongest"]["number"] - 1]
            assert shown["cosine"] == pytest.approx(one.score.cosine, abs=1e-5)
            assert shown["clip_score"] == pytest.approx(one.score.clip_score, abs=1e-5)
            assert shown["strongest"]["part"] == pytest.approx(word.purpose, abs=1e-4)
            assert shown["strongest"]["left_out"] == pytest.approx(word.leave_one_out_purpose, abs=1e-4)
            assert abs(word.purpose or 0) >= max(abs(w.purpose or 0) for w in one.words) - 1e-4
        gap = alone["description"].score.cosine - alone["caption"].score.cosine
        assert case["margin"] == pytest.approx(gap, abs=1e-5)


def hold_their_rules(found: dict[str, Any]) -> None:
    """Each case in the file is what it is shown as; raises :class:`AssertionError` otherwise."""
    agree = [
        all(case[kind]["strongest"]["part"] * case[kind]["strongest"]["left_out"] > 0 for kind in TEXTS)
        for case in found["works"]
    ]
    assert agree == [True] * 3
    for case in [*found["works"], *found["fails"]]:
        gaps = {key: case["description"][key] - case["caption"][key] for key in ("cosine", "log_odds")}
        assert gaps == pytest.approx({"cosine": case["margin"], "log_odds": case["gap"]})
    for case in found["works"]:
        assert case["description"]["score"] > 0
        assert case["margin"] > 0
        assert case["gap"] > 0
    caption, read_out, contradiction = found["fails"]
    assert caption["margin"] < 0
    assert read_out["gap"] < 0
    words = [contradiction[kind]["strongest"] for kind in TEXTS]
    assert any(word["part"] * word["left_out"] < 0 for word in words)
    names = [case["id"] for case in [*found["works"], *found["fails"]]]
    assert len(set(names)) == 6


def test_the_committed_page_shows_the_committed_file_and_the_bundled_model() -> None:
    """After a change of the weights this fails until the command has been run again."""
    found = json.loads((ROOT / "docs" / CASES.data).read_text(encoding="utf-8"))
    page = (ROOT / "docs" / CASES.page).read_text(encoding="utf-8")
    assert f"<!-- cases -->\n{CASES.markdown(found)}<!-- /cases -->" in page
    hold_their_rules(found)
    assert found["signature"] == DescScorer.from_pretrained(device="cpu").signature
    assert found["pairs"] == 300


def test_what_cannot_be_written_is_said(data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no purpose read-out"):
        make_cases(DescScorer.from_pretrained(tiny_folder, device="cpu"), load_pairs(data).split("test"))
    (tmp_path / "explanations.md").write_text("no marks", encoding="utf-8")
    committed = json.loads((ROOT / "docs" / CASES.data).read_text(encoding="utf-8"))
    with pytest.raises(DataError, match="lacks the lines <!-- cases -->"):
        CASES.write(committed, tmp_path)
    assert not (tmp_path / CASES.data).exists()


def test_each_start_has_the_log_odds_of_its_text_without_words(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "kreiss2022").mkdir()
    make_concadia(tmp_path)
    pairs = load_pairs(tmp_path / "concadia", DataOptions(keep_equal=True)).split("test")[:2]
    scorer = DescScorer.from_pretrained(make_adapter(tiny_folder, tmp_path / "adapter"), device="cpu")
    measured = measure_starts(scorer, pairs)
    purpose, tokenizer = scorer.model.purpose, scorer.model.tokenizer
    assert purpose is not None
    odds = []
    for text in (text for pair in pairs for text in (pair.description, pair.caption)):
        first, *words, end = tokenizer.tokenize(text.removesuffix(".")).rows[0]
        empty = torch.tensor([[first, *(0 for _ in words), end]])
        with torch.no_grad():
            odds.append(float(purpose.log_odds(run_to_block(scorer.model.clip, empty, 2).state)))
    padding, ends = measured["starts"]
    assert padding["filler"] == "padding"
    assert padding["log_odds"]["mean"] == pytest.approx(sum(odds) / 4, abs=1e-4)
    assert ends["log_odds"]["mean"] != pytest.approx(padding["log_odds"]["mean"], abs=1e-4)
    assert measured["texts"] == 4
    assert "| end tokens |" in STARTS.markdown(measured)
    with pytest.raises(UsageError, match="no purpose read-out"):
        measure_starts(DescScorer.from_pretrained(tiny_folder, device="cpu"), pairs)
