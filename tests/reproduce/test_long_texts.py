"""Long texts: how policies are compared, and that the page and the default are what was found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from descscore import DescScorer
from descscore.texts import DEFAULT_POLICY
from reproduce.long_texts import CHOSEN_BY, POLICIES, Described, Hits, PolicyRow, chosen, hits, page

DOCS = Path(__file__).parents[2] / "docs"
LONG = "A red car stands at a green gate. " * 12


def test_only_pairs_with_a_long_text_count(tiny_folder: Path) -> None:
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    descriptions = ["A cat.", LONG, "A dog runs.", LONG + "A dog."]
    captions = [LONG, "Home.", "My dog.", "Ada."]
    images = F.normalize(torch.randn(4, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    data = Described(images, torch.tensor([0, 1, 2, 2]), descriptions, captions)
    for policy in POLICIES:
        found = hits(scorer.encoder, data, policy)
        texts = scorer.encoder.texts(descriptions, policy).features
        others = scorer.encoder.texts(captions, policy).features
        cosine = images @ texts.T
        wins = [float(cosine[i, i] > images[i] @ others[i]) for i in (0, 1, 3)]
        assert found.preference.tolist() == wins
        # The last two show the same image, so they are not each other's rivals.
        grounding = [
            sum(float(cosine[1, 1] > cosine[1, j]) for j in (0, 2, 3)) / 3,
            sum(float(cosine[3, 3] > cosine[3, j]) for j in (0, 1)) / 2,
        ]
        assert found.grounding.tolist() == pytest.approx(grounding)


def test_without_captions_there_is_no_preference(tiny_folder: Path) -> None:
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    data = Described(F.normalize(torch.ones(2, 16), dim=-1), torch.arange(2), [LONG, "A cat."], None)
    found = hits(scorer.encoder, data, "windows")
    assert isinstance(found, Hits)
    assert (len(found.preference), len(found.grounding)) == (0, 1)


def test_the_best_on_held_out_books_is_chosen_whatever_the_measuring_sets_say() -> None:
    rows = [
        PolicyRow("truncate", CHOSEN_BY, 0.9, 10, 0.7, 10),
        PolicyRow("windows", CHOSEN_BY, 0.8, 10, 0.9, 10),
        PolicyRow("truncate", "openstax test", 1.0, 10, 1.0, 10),
    ]
    assert chosen(rows) == "windows"


@pytest.mark.parametrize(("of_cut", "expected"), [(0.85, "windows"), (0.83, "windows"), (0.88, "truncate")])
def test_cutting_a_text_must_be_a_point_better(of_cut: float, expected: str) -> None:
    rows = [
        PolicyRow("truncate", CHOSEN_BY, of_cut, 10, 0.9, 10),
        PolicyRow("windows", CHOSEN_BY, 0.84, 10, 0.9, 10),
        PolicyRow("weighted-windows", CHOSEN_BY, 0.8, 10, 0.9, 10),
    ]
    assert chosen(rows) == expected


def test_the_page_and_the_default_are_those_of_the_file() -> None:
    record = json.loads((DOCS / "long_texts.json").read_text(encoding="utf-8"))
    assert (DOCS / "long_texts.md").read_text(encoding="utf-8") == page(record)
    assert record["chosen"] == chosen([PolicyRow(**row) for row in record["rows"]]) == DEFAULT_POLICY
