"""Audit documents: find every use of an image, check its texts and files, and judge its picture.

Work goes page by page. While the model scores one window of pairs, worker processes decode the images of the
next. Memory does not grow with the number of pages, as long as the caller does not keep the records.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from cachetools import LRUCache

from descscore.auditing import picture_rules
from descscore.auditing.documents import find_uses
from descscore.auditing.results import AuditedUse
from descscore.auditing.rules import (
    MISSING_IMAGE,
    SEVERITIES,
    UNREADABLE_DOCUMENT,
    UNREADABLE_IMAGE,
    Finding,
    check_same_text,
    check_use,
    codes_on,
    finding,
    text_of,
)
from descscore.auditing.uses import PASSED_OVER, DocumentProblem, ImageUse
from descscore.errors import ModelError, UsageError
from descscore.images import PixelSpec, content_digest
from descscore.records import OK, Outcome, Pair
from descscore.stream.pool import DecodePool
from descscore.stream.worker import PoolOptions, cores

if TYPE_CHECKING:
    from descscore.scorer import DescScorer

MOST_ON_PAGE = 1000
"""Uses that are looked at together; a longer page is divided, so that memory stays bounded."""

_CHECK = PixelSpec(32, 32, "squash", "bilinear")
"""Size to which images are decoded when no model looks at them."""
_WINDOW = 256
"""Images that are checked together without a model."""
_REMEMBERED = 4096
"""Images whose check is remembered."""
_MOST_CHECKERS = 4
"""Most processes that check images where no number is given: more take longer to start than to check."""
_ANY_TEXT = "image"
"""Stands for the text of an image that is only decoded, to see whether its file is sound."""

Pairing: TypeAlias = "tuple[int, int]"
"""The image of use i with the text of use j of the same page."""


@dataclass
class _Page:
    """The uses of one page, and what is known of each so far."""

    uses: list[ImageUse]
    findings: list[list[Finding]]
    not_judged: list[str | None]
    pairings: list[Pairing]
    """What is scored: each image with its own text, then with those of its neighbours."""
    outcomes: dict[Pairing, Outcome] = field(default_factory=dict)


def audit(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    model: str | os.PathLike[str] | DescScorer | None = "default",
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    exclude: Sequence[str] = (),
    roots: Mapping[str, str | os.PathLike[str]] | None = None,
    jobs: int | None = None,
) -> Iterator[AuditedUse]:
    """Audit every image of documents and folders: one record per use of an image, in the documents' order.

    Args:
        paths: Documents and folders: HTML, EPUB, Markdown, notebooks, DOCX, PPTX and ODT.
        model: A model's name or folder, or a ready scorer; None for the rules that need no model.
        select: Rules that are on: codes, beginnings of codes, names, severities or ``all``; by default all
            but F03.
        ignore: Rules that are off, named in the same way.
        exclude: Patterns of files and folders that are left out, such as ``drafts/*``.
        roots: The folder that holds the files of each address, such as
            ``{"https://example.org/": "public"}``.
        jobs: Number of processes that decode images; by default one per core, at most 4 without a model.

    Yields:
        A record for every use of an image, with or without findings, and one for every document that cannot
        be read or is passed over. Several uses that stand on one page are looked at together, so records come
        in groups.

    Raises:
        UsageError: A setting is wrong, or a path does not exist.
        ModelError: The model cannot be loaded, or its scores are not finite.
    """
    codes = codes_on(select, ignore)
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    for path in given:
        if not os.path.lexists(path):
            name = os.fspath(path)
            if address := re.match(r"(?i)(https?|ftp):/+", name):  # a path has only one of the slashes
                name = f"{address[1]}://{name[address.end() :]}"
                raise UsageError(f"{name}: nothing is fetched; download the page first and give its file")
            raise UsageError(f"{name}: no such file or folder")
    if isinstance(model, (str, os.PathLike)):
        # Imported here, because an audit without a model needs no torch, which takes seconds to import.
        from descscore.scorer import DescScorer

        model = DescScorer.from_pretrained(os.fspath(model))
    found = find_uses(given, exclude=exclude, roots=roots)
    outcomes = partial(_decoded, jobs) if model is None else partial(_scored, model, jobs)
    return _records(found, outcomes, codes, with_model=model is not None)


def _records(
    found: Iterable[ImageUse | DocumentProblem],
    outcomes_of: Callable[[Iterator[Pair]], Iterator[Outcome]],
    codes: frozenset[str],
    with_model: bool,
) -> Iterator[AuditedUse]:
    waiting: deque[_Page | DocumentProblem] = deque()

    def pairs() -> Iterator[Pair]:
        for group in _groups(found):
            waiting.extend(one for one in group if isinstance(one, DocumentProblem))
            uses = [one for one in group if isinstance(one, ImageUse)]
            if not uses:
                continue
            page = _plan(uses, with_model)
            waiting.append(page)
            for i, j in page.pairings:
                image = page.uses[i].image
                assert image is not None
                yield Pair(image, text_of(page.uses[j]) or _ANY_TEXT)

    with closing(outcomes_of(pairs())) as outcomes:  # type: ignore[type-var]
        for outcome in outcomes:
            yield from _finished(waiting, codes)
            page = waiting[0]
            assert isinstance(page, _Page)
            page.outcomes[page.pairings[len(page.outcomes)]] = outcome
    yield from _finished(waiting, codes)


def _finished(waiting: deque[_Page | DocumentProblem], codes: frozenset[str]) -> Iterator[AuditedUse]:
    """The records of the pages at the head of the queue that lack no outcome, which leave the queue."""
    while waiting and (
        isinstance(waiting[0], DocumentProblem) or len(waiting[0].outcomes) == len(waiting[0].pairings)
    ):
        head = waiting.popleft()
        if isinstance(head, DocumentProblem):
            is_fault = head.message != PASSED_OVER
            findings = [finding(UNREADABLE_DOCUMENT, head.message)] if is_fault else []
            reason = "cannot be read" if is_fault else head.message
            yield _audited(ImageUse(head.document), findings, codes, None, reason)
        else:
            yield from _judged(head, codes)


def _groups(found: Iterable[ImageUse | DocumentProblem]) -> Iterator[list[ImageUse | DocumentProblem]]:
    """The uses page by page, and the problems of documents between them, in their order."""

    def page(one: ImageUse | DocumentProblem) -> tuple[str, str | None]:
        return one.document, one.page if isinstance(one, ImageUse) else None

    for _, group in groupby(found, page):
        while part := list(islice(group, MOST_ON_PAGE)):
            yield part


def _plan(uses: list[ImageUse], with_model: bool) -> _Page:
    """Check the texts of a page's uses, and say which pairs are to be scored."""
    identities = [_identity(use) for use in uses]
    same = check_same_text(uses, identities)
    findings = [check_use(use) + more for use, more in zip(uses, same, strict=True)]
    reasons = [picture_rules.no_judgment(use, one) for use, one in zip(uses, findings, strict=True)]
    if not with_model:
        reasons = [reason or "no model looked at it" for reason in reasons]
    judged = [place for place, reason in enumerate(reasons) if reason is None]
    pairings: list[Pairing] = []
    for place, use in enumerate(uses):
        if use.image is None:
            continue
        pairings.append((place, place))
        if reasons[place] is None:
            others = picture_rules.neighbours(place, judged)
            pairings += [(place, other) for other in others if identities[other] != identities[place]]
    return _Page(uses, findings, reasons, pairings)


def _identity(use: ImageUse) -> object:
    """Equal for uses of the same image."""
    if isinstance(use.image, bytes):
        return content_digest(use.image)
    return use.image or use.source or id(use)


def _judged(page: _Page, codes: frozenset[str]) -> Iterator[AuditedUse]:
    """The records of a page whose outcomes are all known."""
    limits = picture_rules.thresholds()
    judged = {i for i, reason in enumerate(page.not_judged) if reason is None}
    scores = {
        pairing: outcome.score
        for pairing, outcome in page.outcomes.items()
        if outcome.score is not None and pairing[0] in judged
    }
    cosines = {pairing: score.cosine for pairing, score in scores.items()}
    fitting = {pairing for pairing, score in scores.items() if picture_rules.does_fit(score, limits)}
    swaps = picture_rules.find_swaps(page.uses, cosines, fitting, limits) if "P02" in codes else {}
    for place, use in enumerate(page.uses):
        findings, reason = page.findings[place], page.not_judged[place]
        outcome = page.outcomes.get((place, place))
        if outcome is not None and outcome.score is None and outcome.error is not None:
            more, unread = _file_findings(outcome)
            findings, reason = findings + more, reason or unread
        score = outcome.score if outcome is not None and text_of(use) else None
        if score is not None and reason is None:
            remarks = picture_rules.judge(score, limits) + ([swaps[place]] if place in swaps else [])
            reason = None if score.percentile is not None else "the model has no comparison descriptions"
            if remarks and use.image is not None and picture_rules.is_small(use.image):
                remarks, reason = [], f"is smaller than {picture_rules.SMALLEST_SIDE} pixels"
            findings = findings + remarks
        yield _audited(use, findings, codes, score, reason)


_NO_PICTURES = ("a web page", "XML", "a ZIP archive", "a pointer of Git LFS", "JSON", "an array of NumPy")
"""Kinds of files that are not read and are no pictures (:mod:`descscore.formats`)."""


def _file_findings(outcome: Outcome) -> tuple[list[Finding], str]:
    """What an image or text that could not be scored means: findings, and why its picture is not judged."""
    message = outcome.error or ""
    if outcome.status == "missing_image":
        return [finding(MISSING_IMAGE, message)], "its image is missing"
    if outcome.status in ("image_too_large", "empty_text", "not_text", "text_too_long"):
        return [], message
    kind = message.rpartition(": not read; convert it")[0].rpartition(": ")[2]
    if kind and not kind.startswith(_NO_PICTURES):
        return [], f"is a picture in a format that is not read ({kind})"
    return [finding(UNREADABLE_IMAGE, message)], "its image cannot be read"


def _audited(
    use: ImageUse, findings: list[Finding], codes: frozenset[str], score: object, reason: str | None
) -> AuditedUse:
    chosen = sorted(
        (one for one in findings if one.code in codes), key=lambda one: SEVERITIES.index(one.severity)
    )
    names = ("score", "percentile", "description_probability")
    values: dict[str, Any] = {name: getattr(score, name, None) for name in names}
    kept = replace(use, image=None) if isinstance(use.image, bytes) else use
    return AuditedUse(kept, tuple(chosen), not_judged=reason, **values)


def _scored(scorer: DescScorer, jobs: int | None, pairs: Iterator[Pair]) -> Iterator[Outcome]:
    from descscore.stream.pairs import StreamOptions

    with closing(scorer.score_stream(pairs, StreamOptions(workers=jobs))) as outcomes:  # type: ignore[type-var]
        for outcome in outcomes:
            if outcome.status == "not_finite":  # a fault of the model, not of the site
                raise ModelError(f"model {scorer.model.name}: {outcome.error}")
            yield outcome


def _decoded(jobs: int | None, pairs: Iterator[Pair]) -> Iterator[Outcome]:
    """Outcomes without scores: only whether each image can be read, in worker processes.

    :mod:`descscore.stream.image_features` remembers images too, but it needs torch.
    """
    workers = jobs or min(cores(), _MOST_CHECKERS)
    known: LRUCache[str | bytes, Outcome] = LRUCache(_REMEMBERED)
    with DecodePool(_CHECK, PoolOptions(workers, 2 * _WINDOW)) as pool:
        # Uses name files by their paths, or hold their bytes.
        while window := [cast("str | bytes", pair.image) for pair in islice(pairs, _WINDOW)]:
            yield from _check_window(pool, window, known)


def _check_window(
    pool: DecodePool, images: Sequence[str | bytes], known: LRUCache[str | bytes, Outcome]
) -> Iterator[Outcome]:
    keys = [content_digest(image) if isinstance(image, bytes) else image for image in images]
    results = {key: known[key] for key in keys if key in known}
    unknown = {key: image for key, image in zip(keys, images, strict=True) if key not in results}
    numbered = list(unknown)
    for number, key in enumerate(numbered):
        pool.submit(number, unknown[key])
    for _ in numbered:
        answer = pool.get()
        if answer.slot is not None:
            pool.release(answer.slot)
        outcome = Outcome(answer.error.kind, str(answer.error)) if answer.error else Outcome(OK)
        results[numbered[answer.number]] = known[numbered[answer.number]] = outcome
    return (results[key] for key in keys)
