"""The pages of a study: takes what an annotator did, keeps it, and answers with the next page.

Nothing is remembered between two calls but what the database holds: the page sends the
annotator's resume code (or they have logged in) and the number of the step it shows. So
a page survives a restart of the server, and two open pages cannot confuse each other.
"""

from __future__ import annotations

import base64
import io
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from descscore.errors import DescscoreError, ImageError, StorageError
from descscore.images import load_image
from descscore.page.reply import FieldError, Reply
from descscore.page.templates import asset, render
from descscore.study.flow import Progress, Step
from descscore.study.items import MAX_PIXELS, StudyItem
from descscore.study.judgments import Annotator, JudgmentStore, Profile, PseudonymTaken, Ratings
from descscore.study.questions import (
    AFTER,
    BEFORE,
    NO_IMAGE,
    QUESTIONS,
    SCALE,
    SCREEN_READER_USE,
    SIGHTED,
    VISION_GROUPS,
    questions_of,
)

Fields: TypeAlias = Mapping[str, str]

_PSEUDONYM = re.compile(r"[^\W_][\w .-]{0,39}")
_SHOWN_SIDE = 1200
_log = logging.getLogger(__name__)


class StudyPage:
    """A study's pages over its ``store``.

    consent: the text to agree to, by default a general one. codes: whether annotators come
    back by a code; False where accounts say who they are.
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
        self.items = {item.item: item for item in items}
        self.consent = (consent or asset("consent.txt")).strip()

    def act(self, action: str, fields: Fields, account: str | None = None) -> Reply:
        """Do what a page asks for. account: who has logged in, where there are accounts.

        Never raises: what went wrong is said on the page, which keeps its form.
        """
        steps: dict[str, Callable[[Fields, str | None], Reply]] = {
            "open": self._open,
            "consent": self._consent,
            "register": self._register,
            "resume": self._resume,
        }
        inside: dict[str, Callable[[Annotator, Fields], Reply]] = {
            "start": lambda annotator, _: self._current(annotator),
            "save": self._save,
            "back": self._back,
            "ask-delete": lambda annotator, _: Reply(page=self._delete_page(annotator)),
            "delete": self._delete,
            "leave": lambda *_: Reply(
                page=self._first_page(), forget=True, status="You have left the study."
            ),
        }
        try:
            if action in steps:
                return steps[action](fields, account)
            annotator = self._annotator(fields, account)
            if annotator is None or action not in inside:
                return Reply(page=self._first_page(), forget=annotator is None)
            return inside[action](annotator, fields)
        except StorageError as error:
            _log.error("%s", error)
            return _not_kept(error)
        except DescscoreError as error:
            return Reply(errors=(FieldError("", str(error)),))
        except Exception:
            _log.exception("a page's action %r failed", action)
            raise

    def _annotator(self, fields: Fields, account: str | None) -> Annotator | None:
        if account:
            return self.store.by_account(account)
        code = fields.get("code", "")
        return self.store.by_code(code) if code.strip() else None

    def _open(self, fields: Fields, account: str | None) -> Reply:
        annotator = self._annotator(fields, account)
        if annotator is None:
            return Reply(page=self._first_page(), forget=bool(fields.get("code")))
        return self._current(annotator)

    def _consent(self, fields: Fields, account: str | None) -> Reply:
        if fields.get("consent") != "yes":
            return Reply(errors=(FieldError("consent", "To take part, agree by ticking the box."),))
        return Reply(page=render("profile.html", vision=VISION_GROUPS, screen_reader=SCREEN_READER_USE))

    def _register(self, fields: Fields, account: str | None) -> Reply:
        errors = tuple(_profile_errors(fields))
        if errors:
            return Reply(errors=errors)
        pseudonym = fields["pseudonym"].strip()
        profile = Profile(pseudonym, fields["vision"], fields["screen_reader"], self.consent)
        try:
            annotator, code = self.store.register(profile, account)
        except PseudonymTaken:
            message = "Somebody in this study has this pseudonym. Choose another one."
            return Reply(errors=(FieldError("pseudonym", message),))
        sighted = annotator.vision == SIGHTED
        page = render("welcome.html", annotator=annotator, code=code, count=len(self.items), sighted=sighted)
        return Reply(page=page, code=code)

    def _resume(self, fields: Fields, account: str | None) -> Reply:
        code = fields.get("typed_code", "")
        annotator = self.store.by_code(code) if code.strip() else None
        if annotator is None:
            message = "No annotator in this study has this code. Check it letter by letter."
            return Reply(errors=(FieldError("typed_code", message),))
        return Reply(**(vars(self._current(annotator)) | {"code": code}))

    def _progress(self, annotator: Annotator) -> Progress:
        judged = self.store.ratings(annotator).keys()
        return Progress.of(annotator.vision, self.store.order(annotator), judged)

    def _current(self, annotator: Annotator, saved: str = "") -> Reply:
        """The first step that is not done, or the end."""
        progress = self._progress(annotator)
        if progress.next is None:
            counts = {"count": len(self.items), "steps": len(progress.steps)}
            page = render("done.html", annotator=annotator, codes=self.codes, **counts)
            return Reply(page=page, status=f"{saved} You have judged all descriptions.".strip())
        return self._step(annotator, progress, progress.next, saved)

    def _step(self, annotator: Annotator, progress: Progress, number: int, saved: str = "") -> Reply:
        step = progress.steps[number]
        item = self.items[step.item]
        given = self.store.ratings(annotator).get((step.item, step.phase))
        total = len(self.items)
        page = render(
            "rate.html",
            number=number,
            step=step,
            title=item.title,
            paragraphs=_paragraphs(item.text),
            description=item.description,
            image=_shown(item.image) if step.phase == AFTER else None,
            questions=questions_of(step.phase),
            scale=SCALE,
            given={q.name: getattr(given, q.name) for q in QUESTIONS} if given else {},
            total=total,
            finished=progress.finished_items,
            back=progress.previous(number) is not None,
            codes=self.codes,
            before=step.phase == BEFORE,
        )
        return Reply(page=page, status=f"{saved} {_where(step, total)}".strip())

    def _save(self, annotator: Annotator, fields: Fields) -> Reply:
        progress = self._progress(annotator)
        number = _number(fields)
        if not progress.may_answer(number):
            return self._current(annotator, "These answers had been saved before and stay as they were.")
        step = progress.steps[number]
        errors = tuple(_answer_errors(step.phase, fields))
        if errors:
            return Reply(errors=errors)
        self.store.save(annotator, step.item, step.phase, _ratings(fields, step.phase))
        return self._current(annotator, "Saved.")

    def _back(self, annotator: Annotator, fields: Fields) -> Reply:
        progress = self._progress(annotator)
        number = progress.previous(min(_number(fields), len(progress.steps)))
        if number is None:
            return self._current(annotator)
        return self._step(annotator, progress, number)

    def _delete_page(self, annotator: Annotator) -> str:
        return render("delete.html", annotator=annotator, count=len(self.store.ratings(annotator)))

    def _delete(self, annotator: Annotator, fields: Fields) -> Reply:
        if fields.get("sure") != "yes":
            return Reply(errors=(FieldError("sure", "To delete, confirm by ticking the box."),))
        count = self.store.delete(annotator)
        page = render("deleted.html", count=count)
        return Reply(page=page, forget=True, status="Your judgments have been deleted.")

    def _first_page(self) -> str:
        return render("consent.html", paragraphs=_paragraphs(self.consent), codes=self.codes)


def _not_kept(error: StorageError) -> Reply:
    reason = str(error.__cause__ or "").lower()
    why = "the disk is full" if "full" in reason else "the study's database cannot be written"
    if "readonly" in reason or "unable to open" in reason:
        why = "the study's database is read-only"
    message = (
        f"This was not saved: {why}. What you filled in is still in the form. "
        "Please tell the people who run the study, and try again later."
    )
    return Reply(errors=(FieldError("", message),))


def _profile_errors(fields: Fields) -> list[FieldError]:
    errors = []
    if fields.get("consent") != "yes":
        errors.append(FieldError("", "You have not agreed to take part. Start again from the first page."))
    if not _PSEUDONYM.fullmatch(fields.get("pseudonym", "").strip()):
        message = (
            "Enter a pseudonym: up to 40 letters, digits, blanks, full stops or hyphens, "
            "starting with a letter or digit."
        )
        errors.append(FieldError("pseudonym", message))
    if fields.get("vision") not in VISION_GROUPS:
        errors.append(FieldError("vision", "Choose the answer that fits your vision best."))
    if fields.get("screen_reader") not in SCREEN_READER_USE:
        errors.append(FieldError("screen_reader", "Choose how often you use a screen reader."))
    return errors


def _answer_errors(phase: str, fields: Fields) -> list[FieldError]:
    allowed = {str(value) for value in SCALE}
    return [
        FieldError(question.name, f"Choose an answer from 1 to 5: {question.text}")
        for question in questions_of(phase)
        if fields.get(question.name) not in allowed
    ]


def _ratings(fields: Fields, phase: str) -> Ratings:
    asked = {question.name: int(fields[question.name]) for question in questions_of(phase)}
    return Ratings(**({"imaginability": None} | asked))  # type: ignore[arg-type]


def _number(fields: Fields) -> int:
    text = fields.get("step", "")
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text) else -1


def _where(step: Step, total: int) -> str:
    shown = {NO_IMAGE: "", BEFORE: ", before the image", AFTER: ", with the image"}[step.phase]
    return f"Description {step.place} of {total}{shown}."


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def _shown(path: Path) -> str:
    """The image as a data address: no file name, none of the file's metadata, at most 1200 pixels wide."""
    try:
        image = load_image(path, MAX_PIXELS)
    except ImageError as error:
        _log.error("%s", error)
        raise ImageError(
            error.kind, "The image of this step cannot be shown. Tell who runs the study."
        ) from None
    image.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
