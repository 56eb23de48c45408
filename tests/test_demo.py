"""The demonstration, and that the documentation shows what it prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from descscore import DescScorer, demo
from descscore.demo import PHOTOS, Photo, main, table
from descscore.errors import DataError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def scorer() -> DescScorer:
    return DescScorer.from_pretrained("default", device="cpu")


@pytest.fixture(scope="module")
def printed(scorer: DescScorer) -> str:
    return table(scorer)


def test_every_photo_meets_three_texts(printed: str) -> None:
    assert len(PHOTOS) >= 3
    for photo in PHOTOS:
        lines = [line for line in printed.splitlines() if line.startswith(photo.name)]
        assert len(lines) == 3
        kinds = ("description", "caption", "other's")
        assert all(kind in line for kind, line in zip(kinds, lines, strict=True))


def test_counts_are_those_of_the_scores(scorer: DescScorer, printed: str) -> None:
    cosines = [[scorer.score(photo.find(), other.description).cosine for other in PHOTOS] for photo in PHOTOS]
    foreign = sum(row[i] > cosine for i, row in enumerate(cosines) for cosine in row[:i] + row[i + 1 :])
    assert f"another photo's description in {foreign} of 12 pairs" in printed
    values = [
        float(re.search(r"[+-]\d\.\d{4}", line)[0])  # type: ignore[index]
        for line in printed.splitlines()
        if re.search(r"[+-]\d\.\d{4}  ", line)
    ]
    rows = [values[i : i + 3] for i in range(0, len(values), 3)]
    caption = sum(own > other for own, other, _ in rows)
    strongest = [max(row[:i] + row[i + 1 :]) for i, row in enumerate(cosines)]
    assert [other for _, _, other in rows] == pytest.approx(strongest, abs=1e-4)
    assert f"beats the caption on {caption} of {len(PHOTOS)}" in printed


def test_the_documentation_shows_what_is_printed(printed: str) -> None:
    page = (ROOT / "docs/getting_started.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- demo -->\n```\n(.*?)\n```\n<!-- /demo -->", page, re.S)
    assert shown is not None
    number = re.compile(r"[+-]?\d+\.\d{3,4}")
    assert number.sub("#", shown[1]) == number.sub("#", printed)
    values = [[float(x) for x in number.findall(text)] for text in (shown[1], printed)]
    assert values[0] == pytest.approx(values[1], abs=2e-3)


def test_a_photo_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match="nonesuch is not installed"):
        Photo("nonesuch", "a.jpg", "a", "b").find()
    with pytest.raises(DataError, match=r"none\.jpg.*matplotlib does not carry"):
        Photo("matplotlib", "none.jpg", "a", "b").find()
    monkeypatch.setattr(demo, "table", lambda scorer: Photo("nonesuch", "a.jpg", "a", "b").find())
    assert main() == 1
    assert capsys.readouterr().err.startswith("Error: nonesuch is not installed")
