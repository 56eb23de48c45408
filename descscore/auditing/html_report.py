"""The report of an audit as one self-contained page without script: thumbnails, texts, reasons, filters."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from cachetools import LRUCache

from descscore import __version__
from descscore.auditing.reports import Summary
from descscore.auditing.results import AuditedUse, location, order_key, severity_rank
from descscore.auditing.rules import BY_CODE, RULES, SEVERITIES
from descscore.auditing.uses import ImageUse
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


class Thumbnails:
    """Makes thumbnails of images, each distinct file once."""

    def __init__(self) -> None:
        self._known: LRUCache[str | bytes, str | None] = LRUCache(256)

    def of(self, use: ImageUse) -> str | None:
        """The thumbnail of a use's image as a data address; None if it cannot be read."""
        if use.image is None:
            return None
        if use.image not in self._known:
            self._known[use.image] = _thumbnail(use.image)
        return self._known[use.image]


def _thumbnail(image: str | bytes) -> str | None:
    with suppress(InputError):
        return jpeg_address(load_image(image), _SIDE, 70)
    return None


def sorted_entries(records: Iterable[AuditedUse]) -> list[Entry]:
    """The entries of an audit's records, worst first. Thumbnails are made while the images are at hand."""
    thumbnails = Thumbnails()
    entries = (Entry(one, thumbnails.of(one.use) if one.findings else None) for one in records)
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
