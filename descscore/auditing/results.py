"""The results of an audit: uses of images with their findings, their order, worst first, and their counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from descscore.auditing.rules import BY_CODE, SEVERITIES, Finding, Severity
from descscore.auditing.uses import NOT_LOOKED_AT, PASSED_OVER, ImageUse

FIELDS = (
    *("document", "line", "column", "place", "source", "text", "text_from", "alt", "caption", "language"),
    *("decorative", "hidden", "only_content_of", "score", "percentile", "description_probability"),
    "not_judged",
)
"""What reports for programs say of every use."""


@dataclass(frozen=True)
class AuditedUse:
    """One use of an image and what the audit says of it.

    A document that cannot be read is one too: its ``use`` has only a document, and its finding the code D01.
    So is the report of an earlier audit, without a finding.
    """

    use: ImageUse
    """Where the image stands, and its texts. The bytes of its file are left out."""
    findings: tuple[Finding, ...] = ()
    """What the rules found, worst first."""
    score: float | None = None
    """Score of the text as a replacement of the image (:attr:`descscore.Score.score`); None without one."""
    percentile: float | None = None
    """Share of the model's comparison descriptions with a lower score, 0..100."""
    description_probability: float | None = None
    """Probability, 0..1, that the text is a description and not a caption."""
    not_judged: str | None = None
    """Why the rules by the picture did not look at this use; None if they did."""

    known: int = 0
    """Findings that a baseline left out."""

    @property
    def is_document(self) -> bool:
        """Whether this stands for a document that cannot be read or is passed over."""
        return self.use == ImageUse(self.use.document)

    def to_dict(self) -> dict[str, Any]:
        """The :data:`FIELDS` and the findings as plain JSON types."""
        texts = {"text": self.use.name, "text_from": self.use.name_from}
        values = vars(self.use) | vars(self) | texts
        return {name: values[name] for name in FIELDS} | {"findings": [asdict(one) for one in self.findings]}


def location(use: ImageUse) -> str:
    """Where a use stands, in the form that editors understand: ``page.html:12:5``."""
    place = f"{use.document} ({use.place})" if use.place else use.document
    if use.line is None:
        return place
    return f"{place}:{use.line}:{use.column or 1}"


def worst_first(records: Iterable[AuditedUse]) -> list[AuditedUse]:
    """Records by their worst finding, then by percentile; equals stay as they stand in the documents."""

    def order(record: AuditedUse) -> tuple[int, float]:
        rank = SEVERITIES.index(record.findings[0].severity) if record.findings else len(SEVERITIES)
        return rank, 101.0 if record.percentile is None else record.percentile

    return sorted(records, key=order)


@dataclass
class Summary:
    """Counts over all records of an audit."""

    documents: int = 0
    """Documents with images."""
    uses: int = 0
    """Uses of images."""
    judged: int = 0
    """Uses whose picture the model judged."""
    with_findings: int = 0
    """Uses with at least one finding."""
    not_looked_at: int = 0
    """Uses whose image is an address, is filled in by a program, or lies outside the audited folder."""
    known: int = 0
    """Findings that a baseline left out."""
    passed_over: int = 0
    """Reports of earlier audits."""
    not_judged: Counter[str] = field(default_factory=Counter)
    """Uses with a text whose picture was not judged, by reason."""
    codes: Counter[str] = field(default_factory=Counter)
    """Findings by code."""

    @classmethod
    def of(cls, records: Sequence[AuditedUse]) -> Summary:
        """The summary of ``records``."""
        passed_over = {record.use.document for record in records if record.not_judged == PASSED_OVER}
        documents = {record.use.document for record in records} - passed_over
        found = cls(len(documents), passed_over=len(passed_over))
        for record in records:
            found.uses += not record.is_document
            found.with_findings += bool(record.findings)
            found.known += record.known
            found.not_looked_at += record.use.image_problem in NOT_LOOKED_AT
            found.codes.update(one.code for one in record.findings)
            if record.not_judged is None:
                found.judged += 1
            elif record.use.name and not record.is_document:
                found.not_judged[record.not_judged] += 1
        return found

    def severities(self) -> dict[Severity, int]:
        """Findings by severity, from the worst."""
        return {
            severity: sum(count for code, count in self.codes.items() if BY_CODE[code].severity == severity)
            for severity in SEVERITIES
        }

    def sentence(self) -> str:
        """The counts in a sentence."""
        counts = self.severities()
        found = ", ".join(_counted(counts[s], "to review" if s == "review" else s) for s in SEVERITIES)
        return f"{_counted(self.uses, 'image')} in {_counted(self.documents, 'document')}: {found}"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 or what == 'to review' else 's'}"
