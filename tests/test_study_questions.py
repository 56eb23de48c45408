"""The questions are those of Kreiss et al. (2022), to the letter."""

from __future__ import annotations

import pytest

from descscore.study.questions import AFTER, BEFORE, NO_IMAGE, SCALE, phases_of, questions_of

PUBLISHED = {
    "q_reconstructivity": (
        "How well can you imagine this image in your mind?",
        "Not well",
        "Very well",
    ),
    "q_relevance": (
        "How well does the description capture the relevant aspects of the image?",
        "Not well",
        "Very well",
    ),
    "q_irrelevance": (
        "Does the description mention too much irrelevant information for accessibility needs?",
        "Too much",
        "Not too much",
    ),
    "q_overall": (
        "For accessibility, how good is the description overall?",
        "Not good",
        "Very good",
    ),
}
"""Text and ends as in the study's own page, which asks the overall question last:
behavioral_experiments/evaluation_sighted/views/views.js at commit 07a0abe of
github.com/elisakreiss/contextual-description-evaluation."""


@pytest.mark.parametrize("phase", [NO_IMAGE, BEFORE, AFTER])
def test_wording_ends_and_order_are_the_published_ones(phase: str) -> None:
    asked = [(one.column, (one.text, one.low, one.high)) for one in questions_of(phase)]
    assert asked == [item for item in PUBLISHED.items() if phase != AFTER or item[0] != "q_reconstructivity"]
    assert SCALE == (1, 2, 3, 4, 5)


def test_only_the_sighted_are_asked_again() -> None:
    assert {vision: phases_of(vision) for vision in ("blind", "low_vision", "sighted")} == {
        "blind": (NO_IMAGE,),
        "low_vision": (NO_IMAGE,),
        "sighted": (BEFORE, AFTER),
    }
