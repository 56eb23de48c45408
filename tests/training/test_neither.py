"""The third kind of text: what training meets as neither a description nor a caption."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from descscore.eval.attacks import ATTACKS, FOREIGN, GENERAL_KEYWORDS, UNTRAINED, Target
from descscore.training.neither import NAMED, empty_text, jumbled_text, random_case

DOG = "A brown dog runs over the wet sand of a beach, near 2 boats."


def drawn(count: int = 4000) -> list[str]:
    rng = random.Random(0)
    return [empty_text(rng) for _ in range(count)]


def test_no_attack_of_the_evaluation_is_trained_on_but_the_named_ones() -> None:
    met = {text.casefold().rstrip(".") for text in drawn()}
    attacks = {attack.text(Target("A dog")) for attack in ATTACKS} | {*UNTRAINED, *FOREIGN, GENERAL_KEYWORDS}
    fixed = {text.casefold().rstrip(".") for text in attacks if text and "dog" not in text.casefold()}
    shared = met & fixed
    assert shared <= {text.casefold().rstrip(".") for text in NAMED} | {"img_1234.jpg"}
    assert {"a picture", "a photo of something", "image", "untitled"} <= shared


def test_empty_texts_are_of_every_kind_and_hardly_repeat() -> None:
    texts = drawn()
    kinds = {
        "file name": lambda t: t.lower().endswith((".jpg", ".png", ".webp")),
        "number": lambda t: t.startswith("Figure ") and t[7:8].isdigit(),
        "place holder": lambda t: t == "null",
        "single word": lambda t: t.isalpha() and t.islower(),
        "keywords": lambda t: t.count(",") > 2,
        "boiler-plate": lambda t: t.startswith("Click"),
    }
    for name, holds in kinds.items():
        assert sum(map(holds, texts)) > 10, name
    assert all(text.strip() for text in texts)
    counts = Counter(texts)
    assert all(count < 40 for text, count in counts.items() if text not in NAMED and " " in text)


@pytest.mark.parametrize("seed", range(30))
def test_a_jumbled_description_has_its_words_in_no_sentence(seed: int) -> None:
    words = {word.strip(".,").lower() for word in DOG.split()}
    made = jumbled_text(DOG, random.Random(seed))
    assert {word.strip(".,;").lower() for word in made.split()} <= words
    assert made.rstrip(".").lower() != DOG.rstrip(".").lower()
    assert made == jumbled_text(DOG, random.Random(seed))


@pytest.mark.parametrize("text", ["Dog", "a of the", "?!", ""])
def test_of_a_text_that_cannot_be_jumbled_an_empty_one_is_made(text: str) -> None:
    assert all(jumbled_text(text, random.Random(seed)).strip() for seed in range(20))


def test_case_is_all_that_varies() -> None:
    made = {random_case(DOG, random.Random(seed)) for seed in range(40)}
    assert len(made) == 3
    assert {text.lower() for text in made} == {DOG.lower()}
