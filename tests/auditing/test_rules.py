"""The rules by text and by file: what each finds, and what it must leave alone."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from descscore.auditing.picture_rules import no_judgment
from descscore.auditing.rules import (
    DEFAULT_CODES,
    RULES,
    SEVERITIES,
    check_same_text,
    check_use,
    choose_codes,
)
from descscore.auditing.uses import ImageUse
from descscore.errors import UsageError


def use(text: str | None, **fields: Any) -> ImageUse:
    """A use of an image as HTML's ``alt`` makes it; None for no ``alt``."""
    name = None if text is None else " ".join(text.split())
    given: dict[str, Any] = {"document": "page.html", "line": 3, "image": "a.jpg", "source": "a.jpg"}
    return ImageUse(**(given | {"alt": text, "name": name, "decorative": text == ""} | fields))


def codes(one: ImageUse) -> list[str]:
    return [finding.code for finding in check_use(one)]


DOG = "A brown dog runs over wet sand towards the sea."

WRONG = {
    "T01": [use(None)],
    "T02": [
        use("", only_content_of="link"),
        use(None, only_content_of="link"),
        use("", only_content_of="button", decorative=True),
        use("Home", only_content_of="link", hidden=True),
    ],
    "T03": [
        *map(
            use, ("photo.jpg", "IMG_1234.JPG", "IMG_1234", "DSC00012", "PXL_20210304_101112", "scan0042.tiff")
        ),
        *map(use, ("my holiday photo 3.jpg", "Screenshot 2023-04-05 at 10.11.12.png", "images/header.png")),
        *map(
            use,
            ("https://example.org/a.jpg", "www.example.org/photos", "/media/uploads/2021", "image.svg?v=3"),
        ),
        *map(
            use,
            (
                '"photo.webp"',
                "3f2a9c1b7d5e4f60",
                "20210304_101112",
                "Screen Shot 2020-01-02 at 3.04.05 PM.png",
            ),
        ),
        use("golden-retriever-2", source="img/golden-retriever-2.jpg"),
        use("Dog and cat.jpg", source="/img/Dog%20and%20cat.jpg"),
    ],
    "T04": [
        *map(
            use,
            (
                "image",
                "Image.",
                "Image…",
                "A picture.",
                "photo of something",
                "Figure 3",
                "Fig. 2.1b",
                "Figure b",
                "Image No. 3",
                "photo iv",
                "image3",
                "alt text",
                "logo",
            ),
        ),
        *map(
            use,
            (
                "placeholder",
                "spacer",
                "Untitled",
                "undefined",
                "null",
                "n/a",
                "Image 1",
                "photo1",
                "the chart",
            ),
        ),
        *map(
            use,
            (
                "Click to enlarge.",
                "No alt text provided.",
                "This is an image",
                "Bild",
                "imagen 2",
                "画像",
                "IMG",
            ),
        ),
        *map(use, ("Screenshot", "insert alt text here", "Figure 1-2", "image of", "[image]")),
        use("icon", only_content_of="link"),
        use("Image 3", only_content_of="button"),
    ],
    "T05": [
        *map(
            use,
            (
                "Image of a dog on a beach.",
                "A picture of two cats",
                "This photo shows a gym.",
                "photo of Ada",
            ),
        ),
        *map(use, ("An image shows a river.", "The photograph depicts a castle.", "Picture of: a dog")),
    ],
    "T06": [
        *map(use, (" ", "\u00a0\u200b", "\u2800", "&nbsp;", "-", "...", "\u2014", "?!", "|", '""', "\t\n")),
    ],
    "T07": [
        use(DOG, caption=DOG),
        use(DOG, caption="Figure 2.3: A brown dog runs over wet sand, towards the sea"),
        use("Our new office", words_after="Our new office opens in May."),
        use("The old mill", words_before="and on the left the old mill"),
    ],
    "T09": [
        *map(use, ("dog, beach, sea, sand", "photo, picture, image, graphic, person, people, building")),
        *map(
            use,
            (
                "dog; brown dog; sand; sea",
                "cheap flights cheap hotels cheap flights cheap cars cheap",
                "dog dog dog dog",
            ),
        ),
        use("beach sand sea sunset holiday summer family travel"),
    ],
    "T10": [
        use("a dog and " * 50),
        use("A dog runs. " * 100),
    ],
    "T11": [use("", exposed_by="tabindex")],
    "T12": [
        use("A cat on a bed\n\nDescription automatically generated"),
        use("A cat. Description generated with very high confidence"),
        use("A cat on a bed AI-generated content may be incorrect."),
        use("May be an image of one person and a lake"),
        use("May be a black-and-white photo of a mountain"),
        use("Image may contain: two people, people smiling"),
    ],
    "F01": [use(DOG, image=None, image_problem="missing", image_detail="a.jpg: no such file")],
    "F02": [use(DOG, image=None, image_problem="unreadable", image_detail="a.jpg: is empty")],
    "F03": [
        use(DOG, image=None, image_problem="address", image_detail="https://example.org/a.jpg is an address"),
        use(DOG, image=None, image_problem="outside", image_detail="../../a.jpg leads out of the root"),
    ],
}

RIGHT = [
    *map(
        use,
        (
            DOG,
            "NASA/JPL",
            "The file photo.jpg in the file manager of a computer",
            "and/or",
            "Node.js",
            "v2.0",
        ),
    ),
    *map(
        use,
        (
            "Ada Lovelace",
            "Dog",
            "A satellite image of Paris",
            "A painting of a ship",
            "Map of Peru",
            "A map.jpg?",
            *("Tablet", "A gift", "Photon", "Slider", "P-51"),
            "No",
        ),
    ),
    *map(
        use,
        (
            "Alice Smith, Bob Jones, Carol White and Dan Brown",
            "Alice Smith, Bob Jones, Carol White, Dan Brown",
        ),
    ),
    *map(
        use,
        (
            "Red, green, blue and yellow stripes",
            "x, y, z, t",
            "CO2, H2O, N2, O2",
            "5 stars",
            "\u2605\u2605\u2605",
        ),
    ),
    *map(
        use,
        (
            "Small brown dogs chasing bright red frisbees",
            "Two dogs playing, running, jumping in snow",
            "\U0001f50d",
        ),
    ),
    *map(
        use,
        (
            "Ein Hund läuft über nassen Sand.",
            "浜辺を走る犬",
            "An example of a Greek vase",
            "Picture frames on a wall",
            "A slide about generated descriptions",
            "A sign: may be an image of the past",
        ),
    ),
    *map(
        use,
        ("A photographer's studio", "Imagery", "Imagen de un perro", "P5", "E = mc2", "Scan the code to pay"),
    ),
    use(""),
    use("", source="line.gif", hidden=True),
    use(None, hidden=True),
    use(None, decorative=True),
    use("Coca-Cola", source="Coca-Cola.png"),
    use("dog", source="dog.jpg"),
    use("Map", only_content_of="link"),
    use("Download image", only_content_of="button"),
    use("Read more", only_content_of="link"),
    use(DOG, caption="Our dog Bella, who was three years old."),
    use("Bella", words_before="our dog Bella"),
    use("The old mill", words_before="The old mill stands on the left bank since 1780."),
    use("{{ image.alt }}"),
    use("<?= $alt ?>.jpg"),
    use(" ".join(f"Dog number {i} sits in row {i}." for i in range(30))),
]


@pytest.mark.parametrize(
    ("code", "one"),
    [(code, one) for code, uses in WRONG.items() for one in uses],
    ids=lambda value: str(value)[:60],
)
def test_a_rule_finds_its_defect_and_no_other_rule_speaks(code: str, one: ImageUse) -> None:
    assert codes(one) == [code]


def test_every_rule_that_looks_at_one_use_has_a_defect_here() -> None:
    assert set(WRONG) == {rule.code for rule in RULES if rule.check}


@pytest.mark.parametrize("one", RIGHT, ids=lambda one: repr(one.alt)[:60])
def test_right_texts_are_left_alone(one: ImageUse) -> None:
    assert codes(one) == []


@pytest.mark.parametrize("part", ["-", "- ", "a-", "a-b ", "{%", "{{ ", "may be a ", "' ", "a_ "])
def test_texts_of_one_part_again_and_again_are_read_in_bounds(part: str) -> None:
    start = time.process_time()
    for length in (60, 200_000):
        text = part * (length // len(part)) + "x"
        check_use(use(text))
        no_judgment(use(text))
    assert time.process_time() - start < 10


def test_one_text_on_two_images_is_found_on_both_and_names_the_other() -> None:
    uses = [
        use(DOG, source="a.jpg", line=1),
        use("A cat sleeps.", source="b.jpg", line=2),
        use("a brown dog runs over wet sand towards the sea", source="c.jpg", line=9),
        use("A cat sleeps.", source="b.jpg", line=12),
    ]
    findings = check_same_text(uses, [one.source for one in uses])
    assert [[one.code for one in some] for some in findings] == [["T08"], [], ["T08"], []]
    assert "c.jpg" in findings[0][0].message
    assert "line 1" in findings[2][0].message


def test_texts_that_a_program_fills_in_are_not_one_text_on_two_images() -> None:
    uses = [use("{{ page.title }}", source=name) for name in ("a.jpg", "b.jpg")]
    assert check_same_text(uses, ["a.jpg", "b.jpg"]) == [[], []]
    formulas = [use(r"\frac{{a}}{b} x_{{i}}", source=name) for name in ("a.jpg", "b.jpg")]
    assert all(check_same_text(formulas, ["a.jpg", "b.jpg"]))


def test_links_with_the_same_text_and_empty_texts_are_not_one_text_on_two_images() -> None:
    uses = [
        use(text, only_content_of=of)
        for text, of in (("Next", "link"), ("Next", "link"), ("", None), ("", None))
    ]
    assert check_same_text(uses, [0, 1, 2, 3]) == [[], [], [], []]


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_any_text_gets_findings_with_a_message(text: str, caption: str, source: str) -> None:
    one = use(text, caption=caption, source=source, words_before=caption, words_after=source)
    for finding in check_use(one) + check_same_text([one, one], [0, 1])[0]:
        assert finding.message
        assert finding.severity in SEVERITIES


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        "a" * 100_000,
        "a-" * 50_000,
        "1_" * 50_000,
        " " * 100_000,
        "a, " * 33_000,
        "a." * 50_000,
        "/a" * 50_000,
        "IMG 1" * 20_000,
    ],
    ids=lambda text: text[:6],
)
def test_hostile_texts_take_no_time(text: str) -> None:
    check_use(use(text, source=text, caption=text, words_before=text[:200]))


def test_codes_are_chosen_by_code_group_name_and_severity() -> None:
    assert choose_codes(["t01"], "--select") == {"T01"}
    assert choose_codes(["P"], "--select") == {"P01", "P02", "P03"}
    assert choose_codes(["missing-text", "F01"], "--select") == {"T01", "F01"}
    assert choose_codes(["review"], "--select") == {rule.code for rule in RULES if rule.severity == "review"}
    assert choose_codes(["all"], "--select") == DEFAULT_CODES | {"F03"}
    with pytest.raises(UsageError, match=r"--ignore 'X9'.*T01"):
        choose_codes(["X9"], "--ignore")
    with pytest.raises(UsageError, match="--select ''"):
        choose_codes([""], "--select")


def test_codes_and_names_are_unique() -> None:
    assert len({rule.code for rule in RULES}) == len({rule.name for rule in RULES}) == len(RULES)
