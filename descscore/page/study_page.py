"""The pages of a study: save an annotator's answers, and reply with the next page.

Between two requests, only the database remembers anything. Each request identifies the annotator by
their resume code or their account. It also carries the page's annotator number and step number. So a page
survives a restart of the server, and two open pages, of one annotator or of two, cannot be confused.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from descscore.errors import DescscoreError, ImageError, StorageError, is_blank
from descscore.images import load_image
from descscore.page.reply import FieldError, Reply, asset, problem, render
from descscore.study.database import DiskFullError, ReadOnlyError
from descscore.study.items import MAX_ITEM_PIXELS, StudyItem, study_mark
from descscore.study.judgments import (
    Annotator,
    JudgmentStore,
    Profile,
    PseudonymTaken,
    new_code,
    tidy_pseudonym,
)
from descscore.study.questions import (
    AFTER,
    BEFORE,
    SCREEN_READER_USE,
    SIGHTED,
    VISION_GROUPS,
    Progress,
    Question,
    questions_of,
)
from descscore.templates import jpeg_address

Fields: TypeAlias = Mapping[str, str]
"""The text fields of a form by name, as a browser sent them."""

_SAVING = ("register", "save", "delete")
_UNKNOWN = "This study does not know you (any more), and nothing was saved. You can start again."
_OTHERS = "That page was another annotator's; nothing was saved from it."
_UNCHANGED = "These answers were saved before and stay as they were."
_LONGEST_SIDE = 1200
_log = logging.getLogger(__name__)


class StudyPage:
    """A study's pages.

    Attributes:
        store: the store of the judgments.
        consent: the text that annotators agree to.
        codes: whether annotators resume with a code; False if they log in to accounts.
        mark: a name of the study, under which browsers keep the code.
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
        self._items = {item.item: item for item in items}
        self._questions = store.questions()

    def act(
        self, action: str, fields: Fields, account: str | None = None, image: bytes | None = None
    ) -> Reply:
        """As :meth:`descscore.page.site.Page.act`. No message names a file or an item.

        ``image`` is not used: annotators send none.
        """
        try:
            return self._do(action, fields, account)
        except StorageError as error:
            _log.error("%s", error)
            return _not_stored(error, action)
        except ImageError as error:
            return problem(f"{error} Please tell the people who run the study. What you saved is kept.")
        except DescscoreError as error:
            _log.error("%s", error)
            return problem("This could not be done. Load the page again to continue.")

    def _do(self, action: str, fields: Fields, account: str | None) -> Reply:
        match action:
            case "open":
                return self._open(fields, account)
            case "consent":
                return self._agree(fields)
            case "register":
                return self._register(fields, account)
            case "resume" if self.codes:
                return self._resume(fields)
        annotator = self._annotator(fields, account)
        if annotator is None:
            return Reply(self._first_page(), errors=(FieldError("", _UNKNOWN),), forget=True)
        if fields.get("annotator", str(annotator.number)) != str(annotator.number):
            return self._current(annotator, _OTHERS)
        match action:
            case "welcome":
                return self._welcome(annotator, fields.get("code"))
            case "save":
                return self._save(annotator, fields)
            case "back":
                return self._back(annotator, fields)
            case "ask-delete":
                count = len(self.store.ratings(annotator))
                return Reply(render("delete.html", annotator=annotator, count=count))
            case "delete":
                return self._delete(annotator, fields)
            case "leave":
                return Reply(self._first_page(), forget=True, status="You have left the study.")
        return self._current(annotator)  # "start", and anything unknown

    def _annotator(self, fields: Fields, account: str | None) -> Annotator | None:
        if account:
            return self.store.by_account(account)
        code = fields.get("code", "") if self.codes else ""
        return self.store.by_code(code) if code.strip() else None

    def _first_page(self) -> str:
        """The page with the consent and, with codes, the form to resume."""
        return render("consent.html", paragraphs=_paragraphs(self.consent), codes=self.codes)

    def _open(self, fields: Fields, account: str | None) -> Reply:
        annotator = self._annotator(fields, account)
        if annotator is None:
            return Reply(self._first_page())
        if not self.store.ratings(annotator):  # they may not have written their code down yet
            return self._welcome(annotator, fields.get("code"))
        return self._current(annotator)

    def _agree(self, fields: Fields) -> Reply:
        if fields.get("consent") != "yes":
            return problem("To take part, agree by ticking the box.", "consent")
        # The form holds the code, so that a form sent twice registers one annotator.
        code = new_code() if self.codes else ""
        return Reply(render("profile.html", vision=VISION_GROUPS, screen_reader=SCREEN_READER_USE, code=code))

    def _register(self, fields: Fields, account: str | None) -> Reply:
        errors = _profile_errors(fields)
        pseudonym = tidy_pseudonym(fields.get("pseudonym", ""))
        if errors or pseudonym is None:
            return Reply(errors=errors)
        profile = Profile(pseudonym, fields["vision"], fields["screen_reader"], self.consent)
        try:
            annotator, code = self.store.register(profile, account, fields.get("new_code"))
        except PseudonymTaken:
            return problem("Somebody in this study has this pseudonym. Choose another one.", "pseudonym")
        return replace(self._welcome(annotator, code), code=code)

    def _resume(self, fields: Fields) -> Reply:
        code = fields.get("typed_code", "")
        annotator = self.store.by_code(code) if code.strip() else None
        if annotator is None:
            message = "No annotator in this study has this code. Check it letter by letter."
            return problem(message, "typed_code")
        return replace(self._current(annotator), code=code)

    def _welcome(self, annotator: Annotator, code: str | None) -> Reply:
        """The page that explains the study and shows the annotator's code, if there is one."""
        page = render(
            "welcome.html",
            annotator=annotator,
            code=code if self.codes else None,
            count=len(self._items),
            questions=len(self._questions),
            again=len(questions_of(AFTER, self._questions)),
            sighted=annotator.vision == SIGHTED,
        )
        return Reply(page)

    def _progress(self, annotator: Annotator) -> Progress:
        judged = self.store.ratings(annotator).keys()
        return Progress.of(annotator.vision, self.store.order(annotator), judged)

    def _current(self, annotator: Annotator, announcement: str = "") -> Reply:
        """The first unanswered step, or the last page. announcement: text to announce first."""
        progress = self._progress(annotator)
        if progress.next is not None:
            return self._step(annotator, progress, progress.next, announcement)
        count, steps = len(self._items), len(progress.steps)
        page = render("done.html", annotator=annotator, codes=self.codes, count=count, steps=steps)
        return Reply(page, status=announcement)

    def _step(self, annotator: Annotator, progress: Progress, number: int, announcement: str = "") -> Reply:
        """The form of a step, with earlier answers. Raises :class:`ImageError`."""
        step, total = progress.steps[number], len(self._items)
        item = self._items[step.item]
        earlier = self.store.ratings(annotator).get((step.item, step.phase))
        page = render(
            "rate.html",
            annotator=annotator,
            number=number,
            step=step,
            title=item.title,
            paragraphs=_paragraphs(item.text),
            description=item.description,
            image=image_address(item) if step.phase == AFTER else None,
            questions=questions_of(step.phase, self._questions),
            answers=earlier or {},
            total=total,
            done=len(progress.done),
            steps=len(progress.steps),
            back=progress.previous(number) is not None,
            codes=self.codes,
            before=step.phase == BEFORE,
        )
        return Reply(page, status=announcement)  # the heading, which gets the focus, says where this is

    def _save(self, annotator: Annotator, fields: Fields) -> Reply:
        progress, number = self._progress(annotator), _step_number(fields)
        if not progress.may_answer(number):
            return self._current(annotator, _UNCHANGED)
        step = progress.steps[number]
        asked = questions_of(step.phase, self._questions)
        errors = _answer_errors(asked, fields)
        if errors:
            return Reply(errors=errors)
        ratings = {question.name: int(fields[question.name]) for question in asked}
        saved = self.store.save(annotator, step.item, step.phase, ratings)
        return self._current(annotator, "Saved." if saved else _UNCHANGED)

    def _back(self, annotator: Annotator, fields: Fields) -> Reply:
        progress = self._progress(annotator)
        number = progress.previous(min(_step_number(fields), len(progress.steps)))
        return self._current(annotator) if number is None else self._step(annotator, progress, number)

    def _delete(self, annotator: Annotator, fields: Fields) -> Reply:
        if fields.get("sure") != "yes":
            return problem("To delete, confirm by ticking the box.", "sure")
        page = render("deleted.html", count=self.store.delete(annotator))
        return Reply(page, forget=True, status="Your judgments have been deleted.")


def _profile_errors(fields: Fields) -> tuple[FieldError, ...]:
    """The errors in the form in which annotators describe themselves."""
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


def _answer_errors(asked: Sequence[Question], fields: Fields) -> tuple[FieldError, ...]:
    """An error for each question without an answer."""
    return tuple(
        FieldError(question.name, f"Choose an answer from 1 to {question.values}: {question.text}")
        for question in asked
        if fields.get(question.name) not in {str(value) for value, _ in question.options}
    )


def _step_number(fields: Fields) -> int:
    """The number of the step that a form belongs to; -1 without one."""
    text = fields.get("step", "")
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text) else -1


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if not is_blank(part)]


def _not_stored(error: StorageError, action: str) -> Reply:
    reason = "the study's database cannot be read or written"
    if isinstance(error, DiskFullError):
        reason = "the disk is full"
    if isinstance(error, ReadOnlyError):
        reason = "the study's database is read-only"
    if action not in _SAVING:
        return problem(f"The study cannot be opened: {reason}. Please tell the people who run it.")
    return problem(
        f"This was not saved: {reason}. What you filled in is still in the form. "
        "Please tell the people who run the study, and try again later."
    )


def image_address(item: StudyItem) -> str:
    """The item's image as a data address: at most 1200 pixels wide and high, without file name or metadata.

    Raises:
        ImageError: The image cannot be read, or has changed since the study began. The message does not
            name the file; the log does.
    """
    try:
        data = item.image.read_bytes()
        if hashlib.sha256(data).hexdigest() != item.image_hash:
            raise ImageError("study_image", "has changed since the study began")
        image = load_image(data, MAX_ITEM_PIXELS)
    except (ImageError, OSError) as error:
        _log.error("%s: %s", item.image, error)
        raise ImageError("study_image", "The image of this step cannot be shown.") from None
    return jpeg_address(image, _LONGEST_SIDE, 90)
