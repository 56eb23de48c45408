"""The pages of a study: takes what an annotator did, keeps it, and answers with the next page.

Nothing is remembered between two calls but what the database holds: the page sends the
annotator's resume code (or they have logged in), whose page it is, and the number of the
step it shows. So a page survives a restart of the server, and two open pages, of one
annotator or of two, cannot be taken for each other.
"""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image

from descscore.errors import DescscoreError, ImageError, StorageError
from descscore.images import load_image
from descscore.page.templates import FieldError, Reply, asset, render
from descscore.study.items import MAX_PIXELS, StudyItem, study_mark
from descscore.study.judgments import (
    Annotator,
    JudgmentStore,
    Profile,
    PseudonymTaken,
    Ratings,
    new_code,
    tidy_pseudonym,
)
from descscore.study.questions import (
    AFTER,
    BEFORE,
    NO_IMAGE,
    QUESTIONS,
    SCALE,
    SCREEN_READER_USE,
    SIGHTED,
    VISION_GROUPS,
    Progress,
    Step,
    questions_of,
)
from descscore.study.schema import DiskFullError, ReadOnlyError

# A study's image as a browser gets it: pixels alone.


_SIDE = 1200
_log = logging.getLogger(__name__)


def image_address(item: StudyItem) -> str:
    """The item's image as a data address: no file name, none of the file's metadata, at most 1200 pixels.

    Raises :class:`ImageError`, without the file's name, where the image cannot be read or is
    no longer the one that the study began with; the log says which.
    """
    try:
        image = load_image(_same_bytes(item), MAX_PIXELS)
    except (ImageError, OSError) as error:
        _log.error("%s: %s", item.image, error)
        raise ImageError("study_image", "The image of this step cannot be shown.") from None
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    image.info.clear()  # Pillow would write a JPEG's comment, which may well describe the image
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _same_bytes(item: StudyItem) -> bytes:
    data = item.image.read_bytes()
    if hashlib.sha256(data).hexdigest() != item.image_hash:
        raise ImageError("study_image", "has changed since the study began")
    return data


# What the forms of a study hold: checked, and turned into answers.


Fields: TypeAlias = Mapping[str, str]
"""The text fields of a form by name; whatever a browser sends."""


def profile_errors(fields: Fields) -> tuple[FieldError, ...]:
    """What is wrong with the form about oneself."""
    errors = []
    if fields.get("consent") != "yes":
        errors.append(FieldError("", "You have not agreed to take part. Start again from the first page."))
    if tidy_pseudonym(fields.get("pseudonym", "")) is None:
        message = (
            "Enter a pseudonym: up to 40 letters, digits, blanks, full stops or hyphens, "
            "starting with a letter or digit."
        )
        errors.append(FieldError("pseudonym", message))
    if fields.get("vision") not in VISION_GROUPS:
        errors.append(FieldError("vision", "Choose the answer that fits your vision best."))
    if fields.get("screen_reader") not in SCREEN_READER_USE:
        errors.append(FieldError("screen_reader", "Choose how often you use a screen reader."))
    return tuple(errors)


def profile_of(fields: Fields, consent: str) -> Profile:
    """The profile in a form without errors. consent: the text that was agreed to."""
    name = tidy_pseudonym(fields["pseudonym"])
    return Profile(name or "", fields["vision"], fields["screen_reader"], consent)


def answer_errors(phase: str, fields: Fields) -> tuple[FieldError, ...]:
    """Which questions of a phase lack an answer."""
    allowed = {str(value) for value in SCALE}
    return tuple(
        FieldError(question.name, f"Choose an answer from 1 to 5: {question.text}")
        for question in questions_of(phase)
        if fields.get(question.name) not in allowed
    )


def ratings_of(phase: str, fields: Fields) -> Ratings:
    """The answers in a form without errors."""
    asked = {question.name: int(fields[question.name]) for question in questions_of(phase)}
    return Ratings(**({"imaginability": None} | asked))  # type: ignore[arg-type]


def step_of(fields: Fields) -> int:
    """The number of the step that a form belongs to, -1 where it says none."""
    text = fields.get("step", "")
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text) else -1


# What the pages of a study look like: each method renders one.


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


_SAVING = ("register", "save", "delete")
_STAYS = "These answers had been saved before and stay as they were."


class StudyPage:
    """A study's pages over its ``store``.

    consent: the text to agree to, by default a general one. codes: whether annotators come
    back by a code; False where accounts say who they are. mark: a name of the study for browsers
    to keep the code under.
    """

    def __init__(
        self,
        store: JudgmentStore,
        items: Sequence[StudyItem],
        consent: str | None = None,
        codes: bool = True,
    ) -> None:
        self.store = store
        self.codes = codes
        self.mark = study_mark(items)
        self.consent = (consent or asset("consent.txt")).strip()
        self.views = StudyViews({item.item: item for item in items}, self.consent, codes)
        self._outside: dict[str, Callable[[Fields, str | None], Reply]] = {
            "open": self._open,
            "consent": self._agree,
            "register": self._register,
        }
        if codes:
            self._outside["resume"] = self._resume
        self._inside: dict[str, Callable[[Annotator, Fields], Reply]] = {
            "welcome": self._welcome,
            "start": lambda annotator, _: self._current(annotator),
            "save": self._save,
            "back": self._back,
            "ask-delete": self._ask_delete,
            "delete": self._delete,
            "leave": lambda *_: Reply(self.views.first(), forget=True, status="You have left the study."),
        }

    def act(self, action: str, fields: Fields, account: str | None = None) -> Reply:
        """Do what a page asks for. account: who has logged in, where there are accounts.

        What goes wrong is said on the page, which keeps its form; no message names a file or an item.
        """
        try:
            if action in self._outside:
                return self._outside[action](fields, account)
            annotator = self._annotator(fields, account)
            if annotator is None or action not in self._inside:
                return self._unknown(annotator)
            if fields.get("annotator", str(annotator.number)) != str(annotator.number):
                return self._current(annotator, "That page was somebody else's; nothing of it was saved.")
            return self._inside[action](annotator, fields)
        except StorageError as error:
            _log.error("%s", error)
            return _not_kept(error, action)
        except ImageError as error:
            return _problem(f"{error} Please tell the people who run the study. All that you saved is kept.")
        except DescscoreError as error:
            _log.error("%s", error)
            return _problem("This could not be done. Load the page again, and go on from there.")

    def _annotator(self, fields: Fields, account: str | None) -> Annotator | None:
        if account:
            return self.store.by_account(account)
        code = fields.get("code", "") if self.codes else ""
        return self.store.by_code(code) if code.strip() else None

    def _unknown(self, annotator: Annotator | None) -> Reply:
        """For an action that is none, or of somebody who has been deleted in another browser."""
        if annotator:
            return self._current(annotator)
        message = "This study does not know you (any more), and nothing was saved. You can start anew."
        return Reply(self.views.first(), errors=(FieldError("", message),), forget=True)

    def _open(self, fields: Fields, account: str | None) -> Reply:
        annotator = self._annotator(fields, account)
        if annotator is None:
            return Reply(self.views.first())
        if not self.store.ratings(annotator):  # they may not have written their code down yet
            return self._welcome(annotator, fields)
        return self._current(annotator)

    def _agree(self, fields: Fields, account: str | None) -> Reply:
        if fields.get("consent") != "yes":
            return Reply(errors=(FieldError("consent", "To take part, agree by ticking the box."),))
        return Reply(self.views.profile())

    def _register(self, fields: Fields, account: str | None) -> Reply:
        errors = profile_errors(fields)
        if errors:
            return Reply(errors=errors)
        try:
            profile = profile_of(fields, self.consent)
            annotator, code = self.store.register(profile, account, fields.get("new_code"))
        except PseudonymTaken:
            message = "Somebody in this study has this pseudonym. Choose another one."
            return Reply(errors=(FieldError("pseudonym", message),))
        return Reply(self.views.welcome(annotator, code or ""), code=code)

    def _resume(self, fields: Fields, account: str | None) -> Reply:
        code = fields.get("typed_code", "")
        annotator = self.store.by_code(code) if code.strip() else None
        if annotator is None:
            message = "No annotator in this study has this code. Check it letter by letter."
            return Reply(errors=(FieldError("typed_code", message),))
        return Reply(**(vars(self._current(annotator)) | {"code": code}))

    def _welcome(self, annotator: Annotator, fields: Fields) -> Reply:
        return Reply(self.views.welcome(annotator, fields.get("code", "")))

    def _progress(self, annotator: Annotator) -> Progress:
        judged = self.store.ratings(annotator).keys()
        return Progress.of(annotator.vision, self.store.order(annotator), judged)

    def _current(self, annotator: Annotator, said: str = "") -> Reply:
        """The first step that is not done, or the end. said: what else to announce."""
        progress = self._progress(annotator)
        if progress.next is None:
            page = self.views.done(annotator, len(progress.steps))
            return Reply(page, status=f"{said} You have judged all descriptions.".strip())
        return self._step(annotator, progress, progress.next, said)

    def _step(self, annotator: Annotator, progress: Progress, number: int, said: str = "") -> Reply:
        step = progress.steps[number]
        given = self.store.ratings(annotator).get((step.item, step.phase))
        page = self.views.rate(annotator, progress, number, given)
        return Reply(page, status=f"{said} {self.views.where(step)}".strip())

    def _save(self, annotator: Annotator, fields: Fields) -> Reply:
        progress, number = self._progress(annotator), step_of(fields)
        if not progress.may_answer(number):
            return self._current(annotator, _STAYS)
        step = progress.steps[number]
        errors = answer_errors(step.phase, fields)
        if errors:
            return Reply(errors=errors)
        kept = self.store.save(annotator, step.item, step.phase, ratings_of(step.phase, fields))
        return self._current(annotator, "Saved." if kept else _STAYS)

    def _back(self, annotator: Annotator, fields: Fields) -> Reply:
        progress = self._progress(annotator)
        number = progress.previous(min(step_of(fields), len(progress.steps)))
        return self._current(annotator) if number is None else self._step(annotator, progress, number)

    def _ask_delete(self, annotator: Annotator, _: Fields) -> Reply:
        return Reply(self.views.ask_delete(annotator, len(self.store.ratings(annotator))))

    def _delete(self, annotator: Annotator, fields: Fields) -> Reply:
        if fields.get("sure") != "yes":
            return Reply(errors=(FieldError("sure", "To delete, confirm by ticking the box."),))
        page = self.views.deleted(self.store.delete(annotator))
        return Reply(page, forget=True, status="Your judgments have been deleted.")


def _problem(message: str) -> Reply:
    return Reply(errors=(FieldError("", message),))


def _not_kept(error: StorageError, action: str) -> Reply:
    why = "the study's database cannot be read or written"
    if isinstance(error, DiskFullError):
        why = "the disk is full"
    if isinstance(error, ReadOnlyError):
        why = "the study's database is read-only"
    if action not in _SAVING:
        return _problem(f"The study cannot be opened: {why}. Please tell the people who run it.")
    return _problem(
        f"This was not saved: {why}. What you filled in is still in the form. "
        "Please tell the people who run the study, and try again later."
    )
