"""The documentation's cases: chosen by their rules, and without a word of the data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from descscore import DescScorer
from descscore.data.datasets import load_pairs
from descscore.errors import DataError, UsageError
from descscore.eval.words.explanation_cases import choose, insert, main, make_cases
from pictures import make_photo
from report_data import make_adapter

ROOT = Path(__file__).parents[1]
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
    page = tmp_path / "page.md"
    page.write_text((ROOT / "docs" / "explanations.md").read_text(encoding="utf-8"), encoding="utf-8")
    before = page.read_text(encoding="utf-8").partition("<!-- cases -->")[0]
    arguments = [str(page), "--data", str(data), "--model", str(adapter)]
    for _ in range(2):  # a second time replaces, not adds
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    assert text.startswith(before)
    assert len(re.findall(r"### Works, \d: `\d+\.jpg`", text)) == 3
    assert len(re.findall(r"### Does not work, \d: `\d+\.jpg`", text)) == 3
    assert "36 pairs, 72 texts" in text
    shown, _, marks = text.removeprefix(before).partition("### Marks")
    assert not [word for word in (*NOUNS, *NAMES) if word in shown]
    assert re.search(r"\| number \| 36 \| [+-]\d\.\d\d \|", marks)


def test_what_cannot_be_written_is_said(data: Path, tiny_folder: Path) -> None:
    with pytest.raises(UsageError, match="no purpose read-out"):
        make_cases(DescScorer.from_pretrained(tiny_folder, device="cpu"), load_pairs(data).split("test"))
    with pytest.raises(DataError, match="lacks the marks"):
        insert("no marks", "cases")
