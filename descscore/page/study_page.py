"""The pages of a study: takes what an annotator did, keeps it, and answers with the next page.

Nothing is remembered between two calls but what the database holds: the page sends the
annotator's resume code (or they have logged in), whose page it is, and the number of the
step it shows. So a page survives a restart of the server, and two open pages, of one
annotator or of two, cannot be taken for each other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from descscore.errors import DescscoreError, ImageError, StorageError
from descscore.page.reply import FieldError, Reply
from descscore.page.study_forms import (
    Fields,
    answer_errors,
    profile_errors,
    profile_of,
    ratings_of,
    step_of,
)
from descscore.page.study_views import StudyViews
from descscore.page.templates import asset
from descscore.study.annotators import Annotator, PseudonymTaken
from descscore.study.failures import DiskFullError, ReadOnlyError
from descscore.study.flow import Progress
from descscore.study.items import StudyItem, study_mark
from descscore.study.judgments import JudgmentStore

_SAVING = ("register", "save", "delete")
_STAYS = "These answers had been saved before and stay as they were."
_log = logging.getLogger(__name__)


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
