"""The report of an audit as one self-contained page without script: thumbnails, texts, reasons, filters."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from descscore import __version__
from descscore.auditing.reports import Summary
from descscore.auditing.results import AuditedUse, location, order_key, severity_rank
from descscore.auditing.rules import BY_CODE, RULES, SEVERITIES
from descscore.errors import InputError
from descscore.images import load_image
from descscore.templates import ASSETS, environment, jpeg_address

_SIDE = 200
"""Longer edge of a thumbnail, in pixels."""
MOST_SHOWN = 2000
"""Most entries of a page. With more, browsers become slow; the page says how many are left out."""
_SHADES = {"error": "Errors", "warning": "Warnings", "review": "To review"}


@dataclass(frozen=True)
class Entry:
    """A use with findings, as the page shows it."""

    record: AuditedUse
    thumbnail: str | None
    """The small picture as a data address; None if there is none."""

    @property
    def where(self) -> str:
        """Document, line and column."""
        return location(self.record.use)

    @property
    def worst(self) -> str:
        """The severity of the worst finding."""
        return SEVERITIES[severity_rank(self.record)]


def _thumbnail(image: str | bytes | None) -> str | None:
    with suppress(InputError):
        return None if image is None else jpeg_address(load_image(image), _SIDE, 70)
    return None


def sorted_entries(records: Iterable[AuditedUse]) -> list[Entry]:
    """The entries of an audit's records, worst first. Thumbnails are made while the images are at hand."""
    thumbnail = lru_cache(256)(_thumbnail)  # the uses of one image stand near each other
    entries = (Entry(one, thumbnail(one.use.image) if one.findings else None) for one in records)
    return sorted(entries, key=lambda entry: order_key(entry.record))


def as_html(entries: list[Entry], model: str | None) -> str:
    """The page.

    Args:
        entries: All records of the audit, with thumbnails, worst first.
        model: The signature of the model; None for an audit without one.
    """
    records = [entry.record for entry in entries]
    summary = Summary.of(records)
    shown_entries = [entry for entry in entries if entry.record.findings]
    return _template().render(
        entries=shown_entries[:MOST_SHOWN],
        left_out=max(0, len(shown_entries) - MOST_SHOWN),
        summary=summary,
        sentence=summary.sentence(),
        severities={
            severity: [rule for rule in RULES if rule.severity == severity and summary.codes[rule.code]]
            for severity in SEVERITIES
        },
        headings=_SHADES,
        rules=BY_CODE,
        model=model,
        version=__version__,
    )


@cache
def _template() -> Any:
    return environment(ASSETS / "auditing").get_template("report.html.jinja")
