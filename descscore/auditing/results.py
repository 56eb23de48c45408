"""The results of an audit: uses of images with their findings, and their order, worst first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from descscore.auditing.rules import SEVERITIES, Finding
from descscore.auditing.uses import ImageUse

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
