"""What the pages of a study look like: each method renders one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from descscore.page.shown_image import image_address
from descscore.page.templates import render
from descscore.study.annotators import Annotator, new_code
from descscore.study.flow import Progress, Step
from descscore.study.items import StudyItem
from descscore.study.judgments import Ratings
from descscore.study.questions import (
    AFTER,
    BEFORE,
    NO_IMAGE,
    QUESTIONS,
    SCREEN_READER_USE,
    SIGHTED,
    VISION_GROUPS,
    questions_of,
)


@dataclass(frozen=True)
class StudyViews:
    """HTML of a study's pages. items: by name. consent: the text to agree to. codes: see StudyPage."""

    items: Mapping[str, StudyItem]
    consent: str
    codes: bool

    def first(self) -> str:
        """Consent, and the way back for who has a code."""
        return render("consent.html", paragraphs=_paragraphs(self.consent), codes=self.codes)

    def profile(self) -> str:
        """The form about oneself. It has its code from the start: sent twice, it makes one annotator."""
        code = new_code() if self.codes else ""
        return render("profile.html", vision=VISION_GROUPS, screen_reader=SCREEN_READER_USE, code=code)

    def welcome(self, annotator: Annotator, code: str) -> str:
        """How it works, and the annotator's code."""
        sighted, count = annotator.vision == SIGHTED, len(self.items)
        shown = code if self.codes else ""
        return render("welcome.html", annotator=annotator, code=shown, count=count, sighted=sighted)

    def rate(self, annotator: Annotator, progress: Progress, number: int, given: Ratings | None) -> str:
        """The form of a step. given: what was answered before. Raises :class:`ImageError`."""
        step = progress.steps[number]
        item = self.items[step.item]
        return render(
            "rate.html",
            annotator=annotator,
            number=number,
            step=step,
            title=item.title,
            paragraphs=_paragraphs(item.text),
            description=item.description,
            image=image_address(item) if step.phase == AFTER else None,
            questions=questions_of(step.phase),
            given={q.name: getattr(given, q.name) for q in QUESTIONS} if given else {},
            total=len(self.items),
            finished=progress.finished_items,
            back=progress.previous(number) is not None,
            codes=self.codes,
            before=step.phase == BEFORE,
        )

    def done(self, annotator: Annotator, steps: int) -> str:
        """The end. steps: how many forms there were."""
        count = len(self.items)
        return render("done.html", annotator=annotator, codes=self.codes, count=count, steps=steps)

    def ask_delete(self, annotator: Annotator, count: int) -> str:
        """The question whether to delete ``count`` saved forms."""
        return render("delete.html", annotator=annotator, count=count)

    def deleted(self, count: int) -> str:
        """That ``count`` saved forms are deleted."""
        return render("deleted.html", count=count)

    def where(self, step: Step) -> str:
        """A step in a few words, to be announced."""
        shown = {NO_IMAGE: "", BEFORE: ", before the image", AFTER: ", with the image"}[step.phase]
        return f"Description {step.place} of {len(self.items)}{shown}."


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
