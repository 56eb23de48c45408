"""What a screen reader is given in each state: names, roles, descriptions, headings, announcements."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from playwright.sync_api import Page
from screen_reader import outline, texts

from accessibility import open_everything
from descscore.page.try_page import EXAMPLES
from descscore.study.questions import questions_of
from pages import TRY_HEADING, answer, press, register, tab_to, wait_for_heading, wait_for_status

GRADIO = 'status "" [live polite, atomic]'
"""Gradio's own live region after our page; it stays empty."""
NUMBERS = "The four groups of four letters and digits that you got at the start. "
RESUME = [
    'heading "Go on where you stopped" [level 2]',
    f'textbox "Your code" ({NUMBERS}Capitals and hyphens do not matter.)',
    'button "Go on"',
]
STOPPING = [
    'heading "Stopping" [level 2]',
    'button "How it works, and my code"',
    'button "Leave, and forget me in this browser"',
    'button "Delete all my answers"',
]


def whole(*lines: str, status: str = "") -> list[str]:
    return ['main ""', f'status "{status}" [live polite, atomic]', *lines, GRADIO]


def problems(*messages: str) -> list[str]:
    """The group gets the focus: its name and description are what is said then, all messages among it."""
    title = "There is a problem" if len(messages) == 1 else f"There are {len(messages)} problems"
    lines = [f'group "{title}" ({" ".join(messages)})', 'list ""']
    return [*lines, *(f'link "{message}"' for message in messages)]


def group(name: str, hint: str, options: list[str], error: str = "", checked: int | None = None) -> list[str]:
    said = f"{hint} Error: {error}" if error else hint
    states = "required, invalid" if error else "required"
    shown = [f'radio "{option}"' + " [checked]" * (place == checked) for place, option in enumerate(options)]
    return [f'radiogroup "{name}" ({said}) [{states}]', *shown]


def rating(phase: str, wrong: bool = False, checked: int | None = None) -> list[str]:
    lines = []
    for one in questions_of(phase):
        hint = f"From 1, {one.low}, to 5, {one.high}."
        options = [f"1, {one.low}", "2", "3", "4", f"5, {one.high}"]
        error = f"Choose an answer from 1 to 5: {one.text}" if wrong else ""
        lines += group(one.text, hint, options, error, checked)
    return lines


def step(page: Page, phase: str, **more: object) -> list[str]:
    """What is expected of a step's page, from its heading to the questions."""
    title = page.inner_text(".ds-page h1")
    done, _, steps = page.inner_text(".ds-progress label").split()[:3]
    image = ['heading "Image" [level 2]', 'image "The image that is described above"']
    return [
        f'heading "{title}" [level 1]',
        f'progressbar "{done} of {steps} steps done"',
        *(['group ""'] if phase == "after" else []),  # the article, folded
        f'heading "{page.locator(".ds-page h2").first.inner_text()}" [level 2]',
        'heading "Description of the image" [level 2]',
        *(image if phase == "after" else []),
        'heading "Questions" [level 2]',
        *rating(phase, **more),  # type: ignore[arg-type]
        'button "Save and continue"',
    ]


def test_the_first_page(study_page: Page) -> None:
    page = study_page
    tick = 'checkbox "I have read this and agree to take part."'
    titles = ['heading "Judging image descriptions" [level 1]', 'heading "Taking part" [level 2]']
    assert outline(page) == whole(*titles, tick, 'button "Continue"', *RESUME)
    press(page, "consent")
    page.wait_for_selector("#consent-error:not([hidden])")
    error = "To take part, agree by ticking the box."
    wrong = f"{tick} (Error: {error}) [invalid]"
    assert outline(page) == whole(*problems(error), *titles, wrong, 'button "Continue"', *RESUME)


def test_the_profile_and_its_errors(study_page: Page) -> None:
    page = study_page
    tab_to(page, "#consent")
    page.keyboard.press("Space")
    press(page, "consent")
    wait_for_heading(page, "About you")

    def expected(name: str = "", vision: str = "", reader: str = "") -> list[str]:
        hint = "A name that does not show who you are. Your answers are kept under it."
        said = f"{hint} Error: {name}" if name else hint
        often = ["Always or nearly always", "Often", "Sometimes", "Rarely", "Never"]
        decides = "Your answer decides whether you will also see the images."
        lines = [
            'heading "About you" [level 1]',
            f'textbox "Pseudonym" ({said}) [required{", invalid" if name else ""}]',
            *group("Your vision", decides, ["I am blind", "I have low vision", "I am sighted"], vision),
            *group("How often do you use a screen reader?", "On a computer or a telephone.", often, reader),
            'button "Continue"',
        ]
        wrong = [message for message in (name, vision, reader) if message]
        return whole(*(problems(*wrong) if wrong else []), *lines)

    assert outline(page) == expected()
    press(page, "register")
    page.wait_for_selector("#pseudonym-error:not([hidden])")
    assert outline(page) == expected(
        "Enter a pseudonym: up to 40 letters, digits, blanks, full stops or hyphens, "
        "starting with a letter or digit.",
        "Choose the answer that fits your vision best.",
        "Choose how often you use a screen reader.",
    )


def finished(page: Page) -> tuple[str, str]:
    """What the progress says and what it shows."""
    shown = page.evaluate("document.querySelector('progress').value")
    return page.inner_text(".ds-progress label"), str(shown)


def test_every_step_of_a_study_with_the_image(study_page: Page) -> None:
    page = study_page
    register(page, "Tree", 2)
    start = 'button "Go to the descriptions"'
    code = 'heading "Your code" [level 2]'
    assert outline(page) == whole('heading "How it works" [level 1]', code, start)
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2: before the image")
    assert outline(page) == whole(*step(page, "before"), *STOPPING)  # the heading says where one is
    press(page, "save")
    page.wait_for_selector(".ds-problems li")
    wrong = [f"Choose an answer from 1 to 5: {question.text}" for question in questions_of("before")]
    assert outline(page) == whole(*problems(*wrong), *step(page, "before", wrong=True), *STOPPING)
    answer(page, "before", 2)
    wait_for_heading(page, "Description 1 of 2: with the image")
    wait_for_status(page, "Saved.")
    assert finished(page) == ("1 of 4 steps done", "1")
    assert outline(page) == whole(*step(page, "after"), *STOPPING, status="Saved.")
    answer(page, "after", 4)
    wait_for_heading(page, "Description 2 of 2: before the image")
    wait_for_status(page, "Saved.")
    assert finished(page) == ("2 of 4 steps done", "2")
    back = 'button "Back, without saving this page"'
    assert outline(page) == whole(*step(page, "before"), back, *STOPPING, status="Saved.")
    press(page, "back")
    wait_for_heading(page, "Description 1 of 2: with the image")
    assert outline(page) == whole(*step(page, "after", checked=3), *STOPPING)
    press(page, "save")
    wait_for_heading(page, "Description 2 of 2: before the image")
    answer(page, "before", 3)
    wait_for_heading(page, "Description 2 of 2: with the image")
    answer(page, "after", 3)
    wait_for_heading(page, "All done")
    wait_for_status(page, "Saved.")
    done = ['heading "All done" [level 1]', 'button "Back to the last description"', *STOPPING[1:]]
    assert outline(page) == whole(*done, status="Saved.")
    press(page, "ask-delete")
    wait_for_heading(page, "Delete all my answers")
    sure = 'checkbox "Yes, delete everything."'
    title, buttons = 'heading "Delete all my answers" [level 1]', ["Delete", "Keep my answers and go on"]
    buttons = [f'button "{name}"' for name in buttons]
    assert outline(page) == whole(title, sure, *buttons)
    press(page, "delete")
    page.wait_for_selector("#sure-error:not([hidden])")
    error = "To delete, confirm by ticking the box."
    wrong_box = f"{sure} (Error: {error}) [invalid]"
    assert outline(page) == whole(*problems(error), title, wrong_box, *buttons)
    tab_to(page, "#sure")
    page.keyboard.press("Space")
    press(page, "delete")
    wait_for_status(page, "have been deleted")
    deleted = ['heading "Deleted" [level 1]', 'button "To the first page"']
    assert outline(page) == whole(*deleted, status="Your judgments have been deleted.")


def test_a_step_without_the_image_is_read_in_its_order(study_page: Page) -> None:
    page = study_page
    register(page, "Order", 0)
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2")
    assert outline(page) == whole(*step(page, "none"), *STOPPING)
    read = texts(page)
    name = page.inner_text(".ds-page h2:first-of-type").split()[-1]
    wanted = [
        "Description 1 of 2",
        f"{EXAMPLES[name].caption}.",
        "Description of the image",
        EXAMPLES[name].description,
        "Questions",
        *(question.text for question in questions_of("none")),
    ]
    assert [text for text in read if text in wanted] == wanted


def listen(page: Page) -> None:
    """Keep all that the live region says from now on in ``window.said``."""
    page.evaluate(
        """() => {
            window.said = [];
            const region = document.querySelector('.ds-status');
            region.first = true;
            new MutationObserver(() => {
                if (region.textContent) window.said.push(region.textContent);
            }).observe(region, { childList: true, characterData: true, subtree: true });
        }"""
    )


def test_what_is_announced_on_the_way(study_page: Page) -> None:
    """One live region from the beginning, whose text changes; no announcement comes twice or is cut short."""
    page = study_page
    listen(page)
    register(page, "Herald", 0)
    press(page, "start")
    wait_for_heading(page, "Description 1 of 2")
    press(page, "save")
    page.wait_for_selector(".ds-problems li")
    answer(page, "none", 3)
    wait_for_heading(page, "Description 2 of 2")
    wait_for_status(page, "Saved.")
    press(page, "leave")
    wait_for_status(page, "You have left the study.")
    assert page.evaluate("window.said") == [
        "Saved.",
        "You have left the study.",
    ]
    assert page.evaluate("document.querySelector('.ds-status').first")
    assert (
        page.evaluate("document.querySelectorAll('.ds-root [aria-live], .ds-root [role=alert]').length") == 1
    )


def test_the_page_to_try(try_page: Page) -> None:
    page = try_page

    def expected(image: str = "", description: str = "") -> list[str]:
        hints = {
            "image": "JPEG, PNG, WebP, GIF, AVIF or BMP, up to 20 MB. You can choose several, drop them "
            "here, or paste one. Or try an example.",
            "description": "What the image shows, for someone who cannot see it.",
            "caption": "The text that everybody reads near the image. It is compared with the description.",
            "context": "The article around the image. With it, the result also shows how well each "
            "text fits the article.",
            "drafts": "One draft per line, up to 20. The result ranks all of them, best first.",
        }
        errors = {"image": image, "description": description}
        said = {
            key: f"{hint} Error: {errors[key]}" if errors.get(key) else hint for key, hint in hints.items()
        }
        states = {key: "invalid" if value else "" for key, value in errors.items()}
        needed = f"[required{', invalid' if description else ''}]"
        return [
            f'heading "{TRY_HEADING}" [level 1]',
            f'button "Image" ({said["image"]})' + (f" [{states['image']}]" if image else ""),
            'button "Take a photo"',
            'button "Example: a house"',
            'button "Example: a boat"',
            f'textbox "Description" ({said["description"]}) {needed}',
            f'textbox "Caption (optional)" ({said["caption"]})',
            f'textbox "Article text (optional)" ({said["context"]})',
            f'textbox "Other drafts of the description (optional)" ({said["drafts"]})',
            'button "Score"',
        ]

    assert outline(page) == whole(*expected())
    press(page, "score")
    page.wait_for_selector(".ds-problems li")
    wrong = ["Choose an image.", "Write a description."]
    assert outline(page) == whole(*problems(*wrong), *expected(*wrong))
    press(page, "example:house")
    wait_for_status(page, "The form is filled in")
    assert 'image "Drawing of a house, the example"' in outline(page)
    press(page, "score")
    wait_for_status(page, "Among 4 drafts")
    assert not [line for line in outline(page) if line.startswith("table")]  # numbers are folded
    open_everything(page)
    lines = outline(page)
    result = lines[lines.index('region "Result"') :]
    assert [line for line in result if line.startswith(("region", "heading", "table"))] == [
        'region "Result"',
        'heading "Result" [level 2]',
        'heading "What to do next" [level 3]',
        'heading "What each word does" [level 3]',
        'heading "Drafts, best first" [level 3]',
        'region "Scores"',
        'table "Scores of the description"',
        'heading "Description and caption" [level 3]',
        'region "Description and caption"',
        'table "Which of the two would replace the image better"',
        'heading "Scores of the drafts" [level 3]',
        'region "Drafts"',
        'table "All drafts in order of their cosine"',
        'heading "Numbers of the words" [level 3]',
        'region "Words"',
        'table "Parts of the score by word"',
        'heading "Signature" [level 3]',
    ]
    columns = [line for line in result if line.startswith("columnheader")]
    assert columns[:3] == ['columnheader "Measure"', 'columnheader "Value"', 'columnheader "Meaning"']
    rows = [line for line in result if line.startswith("rowheader")]
    words = page.locator("p.ds-text .ds-word").all_inner_texts()
    assert "".join(words) == EXAMPLES["house"].description.replace(" ", "")
    assert rows[-len(words) :] == [f'rowheader "{word}"' for word in words]
    assert {'rowheader "Description"', 'rowheader "Caption"'} <= set(rows)
    assert {f'rowheader "{draft}"' for draft in EXAMPLES["house"].drafts} <= set(rows)


def test_nothing_is_announced_that_a_quick_reply_has_overtaken(try_page: Page) -> None:
    """The page puts words into its live region a moment late; a reply may come before that moment."""
    page = try_page
    page.clock.install()
    page.clock.pause_at(datetime.now() + timedelta(hours=1))
    press(page, "score")
    page.wait_for_selector(".ds-problems li")
    listen(page)
    page.clock.run_for(1000)
    assert (page.evaluate("window.said"), page.inner_text(".ds-status")) == ([], "")


@pytest.mark.parametrize("flaw", ["<button></button>", "<input aria-label='x' aria-invalid='true'>"])
def test_the_outline_sees_what_is_changed(chromium_page: Page, flaw: str) -> None:
    page = "<html lang=en><title>A</title><main><h1>A</h1>{}</main>"
    chromium_page.set_content(page.format(""))
    assert outline(chromium_page) == ['main ""', 'heading "A" [level 1]']
    chromium_page.set_content(page.format(flaw))
    assert outline(chromium_page)[2:] in (['button ""'], ['textbox "x" [invalid]'])
