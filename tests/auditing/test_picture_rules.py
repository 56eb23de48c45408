"""What an audit concludes from scores, worked out by hand, and how its thresholds are set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from descscore.auditing.picture_rules import (
    Thresholds,
    find_swaps,
    is_small,
    judge,
    neighbours,
    no_judgment,
    thresholds,
)
from descscore.auditing.uses import ImageUse
from descscore.records import Score
from pictures import make_photo
from reproduce.audit import RATES, Scored, calibrate, measure, results

LIMITS = Thresholds(percentile=2.0, margin=0.0, description_probability=0.3)
SCORE = Score(0.5, 0.2, 0.5, 0.9, 50.0, 9, False, 1, "descscore")
USE = ImageUse("page.html", line=3, image="a.jpg", source="a.jpg", name="A dog.", alt="A dog.")


def codes(score: Score) -> list[str]:
    return [one.code for one in judge(score, LIMITS)]


def test_a_low_percentile_and_a_low_probability_are_found_alone_and_together() -> None:
    assert codes(SCORE) == []
    assert codes(replace(SCORE, percentile=1.9)) == ["P01"]
    assert codes(replace(SCORE, percentile=2.0)) == []
    assert codes(replace(SCORE, description_probability=0.29)) == ["P03"]
    assert codes(replace(SCORE, percentile=0.0, description_probability=0.0)) == ["P01", "P03"]


@pytest.mark.parametrize(
    ("text", "is_judged"),
    [
        ("Eine getigerte Katze schaut in die Kamera.", False),
        ("Un chien court sur la plage avec une balle.", False),
        ("Un perro corre por la playa con una pelota.", False),
        ("Een hond rent met een bal op het strand.", False),
        ("A dog runs on the beach.", True),
        ("The Los Angeles skyline with the hills of La Brea.", True),
        ("Two men on a die", True),
    ],
)
def test_a_text_in_another_language_is_not_judged_where_the_page_names_none(
    text: str, is_judged: bool
) -> None:
    assert (no_judgment(replace(USE, name=text, alt=text)) is None) == is_judged
    assert no_judgment(replace(USE, name=text, alt=text, language="en")) is None


def test_what_is_filled_in_is_not_judged_and_says_so() -> None:
    assert "filled in" in (no_judgment(replace(USE, name="{{ alt }}")) or "")
    assert "filled in" in (no_judgment(replace(USE, image=None, image_problem="template")) or "")


def test_a_model_without_references_and_read_out_finds_nothing() -> None:
    assert codes(replace(SCORE, percentile=None, description_probability=None)) == []


def swaps(cosines: list[list[float]], fits: float = -1.0) -> set[int]:
    """The places with P02; texts fit from a cosine of ``fits`` on."""
    values = {(i, j): value for i, row in enumerate(cosines) for j, value in enumerate(row)}
    fitting = {step for step, value in values.items() if value >= fits}
    return set(find_swaps([USE] * len(cosines), values, fitting, LIMITS))


def test_two_texts_that_changed_places_are_found_on_both_images() -> None:
    assert swaps([[0.1, 0.4, 0.0], [0.5, 0.2, 0.1], [0.0, 0.1, 0.4]]) == {0, 1}


def test_a_text_that_fits_another_picture_alone_is_not_swapped() -> None:
    assert swaps([[0.1, 0.4], [0.1, 0.2]]) == set()
    assert swaps([[0.4, 0.1], [0.1, 0.4]]) == set()


def test_labels_that_fit_no_picture_are_not_swapped() -> None:
    assert swaps([[0.1, 0.4], [0.5, 0.2]], fits=0.45) == set()
    assert swaps([[0.1, 0.4], [0.5, 0.2]], fits=0.35) == {0, 1}


def test_an_icon_is_known_by_its_file_where_the_page_states_no_size(tmp_path: Path) -> None:
    assert is_small(str(make_photo(tmp_path / "icon.png", 0, (47, 20))))
    assert is_small(make_photo(tmp_path / "icon.png", 0, (16, 16)).read_bytes())
    assert not is_small(str(make_photo(tmp_path / "photo.png", 0, (48, 20))))
    assert not is_small(str(tmp_path / "gone.png"))


def test_the_nearest_uses_that_are_judged_are_compared() -> None:
    assert neighbours(0, [0, 2, 3]) == [2, 3]
    assert neighbours(20, list(range(0, 40, 2))) == [12, 14, 16, 18, 22, 24, 26, 28]


def scored(own: float, other: float, n: int = 40) -> Scored:
    """A set in which each text fits its own picture alike, and all others alike."""
    cosines = np.full((n, n), other) + np.eye(n) * (own - other)
    percentiles = 100 * np.clip(cosines, 0, 1)
    return Scored("set", cosines, percentiles, (np.arange(n) + 1) % n, np.full(n, 0.9), np.full(n, 0.1))


def test_clear_data_are_told_apart_without_a_false_alarm() -> None:
    data = scored(own=0.9, other=0.05)
    limits = calibrate([data])
    assert limits == Thresholds(percentile=20.0, margin=0.0, description_probability=0.7)
    measured = measure(data, limits)
    for judgment in ("wrong", "swapped", "captions"):
        assert measured[judgment]["found"]["value"] == 1.0
        assert measured[judgment]["false"]["value"] == 0.0


def test_data_that_cannot_be_told_apart_get_the_most_careful_threshold() -> None:
    chance = np.random.default_rng(0)
    data = scored(0.5, 0.5)
    noise = chance.uniform(0, 1, data.cosines.shape)
    data = replace(data, cosines=noise, percentiles=100 * noise, descriptions=chance.uniform(0, 1, 40))
    limits = calibrate([data])
    assert (data.percentiles.diagonal() < limits.percentile).mean() <= 0.05
    assert limits.percentile < 20


def test_the_page_can_be_made_of_any_measurement() -> None:
    data = scored(0.9, 0.05)
    scorer = type("Scorer", (), {"signature": "descscore:1"})()
    content = results(
        scorer, replace(LIMITS, percentile=10.0), [data, data], [replace(data, captions=np.empty(0)), data]
    )
    page = RATES.markdown(content)
    assert "not measured" in page
    assert "| P01 does not fit: the text of another image | set | 40 | 100 % (91 to 100) |" in page


def test_the_package_s_thresholds_are_usable() -> None:
    limits = thresholds()
    assert 0 < limits.percentile < 20
    assert limits.margin >= 0
    assert 0 < limits.description_probability < 1
    with pytest.raises(AttributeError):
        limits.margin = 1.0  # type: ignore[misc]
