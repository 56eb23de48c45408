"""The questions are those of Kreiss et al. (2022), to the letter, and the steps come in their order."""

from __future__ import annotations

import random

import pytest

from descscore.study.questions import (
    AFTER,
    BEFORE,
    NO_IMAGE,
    Progress,
    Step,
    phases_of,
    questions_of,
)

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
    assert {one.values for one in questions_of(phase)} == {5}


def test_only_the_sighted_are_asked_again() -> None:
    assert {vision: phases_of(vision) for vision in ("blind", "low_vision", "sighted")} == {
        "blind": (NO_IMAGE,),
        "low_vision": (NO_IMAGE,),
        "sighted": (BEFORE, AFTER),
    }


ORDER = ("c", "a", "b")


def test_steps_with_and_without_the_image() -> None:
    blind = Progress.of("blind", ORDER, [])
    assert [(step.item, step.phase) for step in blind.steps] == [(item, NO_IMAGE) for item in ORDER]
    assert Progress.of("low_vision", ORDER, []) == blind
    sighted = Progress.of("sighted", ORDER, [("c", BEFORE), ("c", AFTER), ("a", BEFORE)])
    assert sighted.steps[:3] == (Step("c", BEFORE, 1), Step("c", AFTER, 1), Step("a", BEFORE, 2))
    assert (sighted.next, sighted.done) == (3, {0, 1, 2})
    assert Progress.of("blind", ORDER, [(item, NO_IMAGE) for item in ORDER]).next is None


def test_answers_from_before_the_image_stay() -> None:
    progress = Progress.of("sighted", ORDER, [("c", BEFORE), ("c", AFTER), ("a", BEFORE)])
    assert [progress.may_answer(number) for number in range(-1, 7)] == [
        *(False, False, True, False, True, False, False, False)
    ]
    assert progress.previous(3) == progress.previous(2) == 1
    assert progress.previous(1) is None


@pytest.mark.parametrize("vision", ["blind", "sighted"])
def test_no_walk_through_the_steps_loses_or_skips_one(vision: str) -> None:
    """Whatever somebody tries in whatever order, the steps are done from first to last."""
    rng = random.Random(0)
    for _ in range(50):
        judged: list[tuple[str, str]] = []
        while Progress.of(vision, ORDER, judged).next is not None:
            progress = Progress.of(vision, ORDER, judged)
            number = rng.randrange(-2, len(progress.steps) + 2)
            back = progress.previous(max(number, 0))
            assert back is None or (back < number and progress.may_answer(back))
            if progress.may_answer(number):
                step = progress.steps[number]
                assert step.phase != BEFORE or (step.item, AFTER) not in judged
                if (step.item, step.phase) not in judged:
                    judged.append((step.item, step.phase))
        phases = (BEFORE, AFTER) if vision == "sighted" else (NO_IMAGE,)
        assert judged == [(item, phase) for item in ORDER for phase in phases]
