"""The results of an audit: uses of images with their findings, and the baseline of known findings."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from descscore.auditing.rules import SEVERITIES, Finding
from descscore.auditing.uses import ImageUse
from descscore.errors import UsageError
from descscore.files import atomic_write, open_regular

FORMAT = 1
"""Version of the baseline's format."""

MOST_BASELINE = 1 << 28
"""Bytes of the largest baseline that is read."""


@dataclass(frozen=True)
class AuditedUse:
    """One use of an image and what the audit says of it.

    A document that cannot be read is one too: its ``use`` has only a document, and its finding the code D01.
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

    @property
    def is_document(self) -> bool:
        """Whether this stands for a document that cannot be read."""
        return self.use == ImageUse(self.use.document)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON types."""
        use = self.use
        return {
            "document": use.document,
            "line": use.line,
            "column": use.column,
            "place": use.place,
            "source": use.source,
            "text": use.name,
            "text_from": use.name_from,
            "alt": use.alt,
            "caption": use.caption,
            "language": use.language,
            "decorative": use.decorative,
            "hidden": use.hidden,
            "only_content_of": use.only_content_of,
            "score": self.score,
            "percentile": self.percentile,
            "description_probability": self.description_probability,
            "not_judged": self.not_judged,
            "findings": [
                {"code": one.code, "severity": one.severity, "message": one.message} for one in self.findings
            ],
        }


def location(use: ImageUse) -> str:
    """Where a use stands, in the form that editors understand: ``page.html:12:5``."""
    place = f"{use.document} ({use.place})" if use.place else use.document
    if use.line is None:
        return place
    return f"{place}:{use.line}:{use.column or 1}"


def severity_rank(record: AuditedUse) -> int:
    """0 for a record with an error, 1 with a warning, 2 with a review, 3 without a finding."""
    ranks = (SEVERITIES.index(one.severity) for one in record.findings)
    return min(ranks, default=len(SEVERITIES))


def order_key(record: AuditedUse) -> tuple[int, float]:
    """Sorts records by their worst finding, then by percentile."""
    return severity_rank(record), 101.0 if record.percentile is None else record.percentile


def worst_first(records: Iterable[AuditedUse]) -> list[AuditedUse]:
    """Records from the worst; equals stay as they stand in the documents."""
    return sorted(records, key=order_key)


Known = Counter[tuple[str, str, str, str]]
"""How often each known finding occurs: code, document, source and text."""


def _key(code: str, use: ImageUse, folder: Path) -> tuple[str, str, str, str]:
    document = Path(os.path.relpath(use.document, folder)).as_posix()
    return code, document, use.source, use.name if use.name is not None else use.alt or ""


def without_known(records: Iterable[AuditedUse], known: Known, folder: Path) -> Iterator[AuditedUse]:
    """The records without the findings in ``known``, each of which silences as many findings as it counts.

    Args:
        records: The records of an audit.
        known: From :func:`read_baseline`.
        folder: The folder of the baseline's file; documents are named relative to it.
    """
    left = Counter(known)
    for record in records:
        kept = []
        for one in record.findings:
            key = _key(one.code, record.use, folder)
            if left[key] > 0:
                left[key] -= 1
            else:
                kept.append(one)
        yield replace(record, findings=tuple(kept)) if len(kept) < len(record.findings) else record


def write_baseline(records: Iterable[AuditedUse], path: Path) -> int:
    """Write the findings of ``records`` as known ones; returns their number.

    A finding is known by its rule, document, source and text, not by its line: it stays so if lines move.
    """
    known: Known = Counter(
        _key(one.code, record.use, path.parent) for record in records for one in record.findings
    )
    names = ("code", "document", "source", "text")
    findings = [dict(zip(names, key, strict=True)) | {"count": known[key]} for key in sorted(known)]
    text = json.dumps({"format": FORMAT, "findings": findings}, ensure_ascii=False, indent=1)
    with atomic_write(path) as part:
        part.write_text(text + "\n", encoding="utf-8", errors="surrogatepass")
    return sum(known.values())


def read_baseline(path: Path) -> Known:
    """The known findings in a file of :func:`write_baseline`.

    Raises:
        UsageError: The file is missing or is not such a file.
    """
    try:
        with open_regular(path) as file:
            data = file.read(MOST_BASELINE)
        content = json.loads(data.decode("utf-8", "surrogatepass"))
        if content["format"] != FORMAT:
            raise ValueError(f"has format {content['format']!r}, not {FORMAT}")
        known: Known = Counter()
        for one in content["findings"]:
            key = (one["code"], one["document"], one["source"], one["text"])
            if not (all(isinstance(part, str) for part in key) and isinstance(one["count"], int)):
                raise ValueError(f"holds a finding that is not one: {str(one)[:80]}")
            known[key] += one["count"]
        return known
    except OSError as error:
        raise UsageError(f"--baseline {path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"--baseline {path}: is not a baseline of 'descscore audit' ({error})") from None
