"""The reports of an audit: text, JSON, CSV, SARIF, JUnit, and one self-contained page without script."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from descscore import __version__
from descscore.auditing.results import FIELDS, AuditedUse, Summary, location
from descscore.auditing.rules import BY_CODE, RULES, SEVERITIES, Finding, Severity
from descscore.errors import InputError, shown
from descscore.images import load_image
from descscore.tables.cells import to_csv_cell
from descscore.templates import ASSETS, environment, jpeg_address

_LEVELS: dict[Severity, str] = {"error": "error", "warning": "warning", "review": "note"}
"""SARIF's names of severities."""

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def as_text(records: Sequence[AuditedUse]) -> str:
    """One line a finding, worst first, and a summary."""
    lines = [
        f"{location(record.use)} {one.code} {' '.join(_message(record, one).split())}"
        for severity in SEVERITIES
        for record in records
        for one in record.findings
        if one.severity == severity
    ]
    summary = Summary.of(records)
    lines += [""] * bool(lines)
    for rule in RULES:
        if count := summary.codes[rule.code]:
            lines.append(f"{rule.code} {rule.severity:7} {count:5,}  {rule.title}")
    if summary.not_looked_at:
        lines.append(
            "Not looked at, since they are addresses, templates or outside the folder: "
            f"{summary.not_looked_at:,} (--select F03 lists them)"
        )
    if summary.passed_over:
        lines.append(f"Reports of earlier audits, which are passed over: {summary.passed_over:,}")
    if summary.known:
        lines.append(f"Known findings, which the baseline leaves out: {summary.known:,}")
    if summary.judged:
        lines.append(f"Pictures compared with their texts by the model: {summary.judged:,}")
    lines.append(summary.sentence())
    return shown("\n".join(lines)) + "\n"


def _message(record: AuditedUse, one: Finding) -> str:
    """The message with the image that it is about."""
    source = record.use.source or _WITHOUT_SOURCE.get(record.use.element, "")
    return f"{source}: {one.message}" if source and source not in one.message else one.message


_WITHOUT_SOURCE = {
    "area": "an area of an image map",
    "icon": "an icon",
    "output": "a plot",
    "picture": "a drawing or chart",
    "role": 'role="img"',
    "svg": "an SVG drawing",
}
"""What messages call an image that has no source, by its element."""


def as_json(records: Sequence[AuditedUse]) -> str:
    """A list of all uses with everything that is known of them."""
    return json.dumps([record.to_dict() for record in records], ensure_ascii=False, indent=1) + "\n"


CSV_COLUMNS = (*FIELDS, "severity", "codes", "messages")
"""The columns of the CSV report."""


def as_csv(records: Sequence[AuditedUse]) -> str:
    """One row a use. A cell that a spreadsheet would run begins with an apostrophe."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for record in records:
        values = record.to_dict()
        values["severity"] = record.findings[0].severity if record.findings else ""
        values["codes"] = " ".join(one.code for one in record.findings)
        values["messages"] = "; ".join(one.message for one in record.findings)
        writer.writerow([_cell(values[name]) for name in CSV_COLUMNS])
    return file.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return to_csv_cell(shown(value)) if isinstance(value, str) else str(value)


def as_sarif(records: Sequence[AuditedUse]) -> str:
    """SARIF 2.1.0, which code hosts show beside the lines of a pull request."""
    order = {rule.code: place for place, rule in enumerate(RULES)}
    results = [_sarif_result(record, one, order) for record in records for one in record.findings]
    driver = {
        "name": "descscore",
        "semanticVersion": __version__,
        "rules": [
            {
                "id": rule.code,
                "name": rule.name,
                "shortDescription": {"text": rule.title},
                "fullDescription": {"text": rule.reason},
                "help": {"text": rule.reason},
                "defaultConfiguration": {"level": _LEVELS[rule.severity], "enabled": rule.default},
            }
            for rule in RULES
        ],
    }
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _sarif_result(record: AuditedUse, one: Finding, order: dict[str, int]) -> dict[str, Any]:
    use = record.use
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(use.document)}}
    where: dict[str, Any] = {"physicalLocation": place}
    if use.place:  # lines count within a file inside the document, which a code host cannot show
        where["logicalLocations"] = [{"fullyQualifiedName": use.place}]
    elif use.line:
        place["region"] = {"startLine": use.line, "startColumn": use.column or 1}
    message = _message(record, one)
    return {
        "ruleId": one.code,
        "ruleIndex": order[one.code],
        "level": _LEVELS[one.severity],
        "message": {"text": shown(f"{message} ({use.place})" if use.place else message)},
        "locations": [where],
    }


def _uri(document: str) -> str:
    """A document's path relative to the current folder; a full address where it lies outside."""
    path = os.path.relpath(document)
    if path.split(os.sep)[0] == os.pardir:
        return "file://" + quote(os.path.abspath(document), errors="surrogateescape")
    return quote(Path(path).as_posix(), errors="surrogateescape")


def as_junit(records: Sequence[AuditedUse], failing: frozenset[str]) -> str:
    """JUnit's XML: a suite for each document, a test for each use; findings in ``failing`` are failures."""
    root = ElementTree.Element("testsuites", name="descscore audit")
    document = attrgetter("use.document")
    for name, uses in groupby(sorted(records, key=document), document):
        suite = ElementTree.SubElement(root, "testsuite", name=_xml(name))
        failed = [_junit_case(suite, record, failing) for record in uses]
        suite.attrib |= {"tests": str(len(failed)), "failures": str(sum(failed)), "errors": "0"}
    for key in ("tests", "failures"):
        root.set(key, str(sum(int(suite.attrib[key]) for suite in root)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _junit_case(suite: ElementTree.Element, record: AuditedUse, failing: frozenset[str]) -> bool:
    """Add the test of one use to a suite; whether it failed."""
    where = location(record.use)
    name = _xml(" ".join(part for part in (where, record.use.source) if part))
    case = ElementTree.SubElement(suite, "testcase", classname=_xml(record.use.document), name=name)
    bad = [one for one in record.findings if one.code in failing]
    for one in bad:
        failure = ElementTree.SubElement(case, "failure", type=one.code, message=_xml(one.message))
        failure.text = _xml(f"{where} {one.code} {one.message}")
    other = [f"{one.code} {one.severity}: {one.message}" for one in record.findings if one not in bad]
    if other:
        ElementTree.SubElement(case, "system-out").text = _xml("\n".join(other))
    return bool(bad)


def _xml(text: str) -> str:
    """``text`` without the characters that XML forbids."""
    return shown(text).replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd")


_THUMBNAIL_SIDE = 200
"""Longer edge of a thumbnail, in pixels."""
MOST_SHOWN = 2000
"""Most entries of a page. With more, browsers become slow; the page says how many are left out."""
_HEADINGS = {"error": "Errors", "warning": "Warnings", "review": "To review"}


def as_html(records: Sequence[AuditedUse], model: str | None) -> str:
    """A page with thumbnails, texts, reasons and filters.

    Args:
        records: The records of the audit, worst first.
        model: The signature of the model; None for an audit without one.
    """
    summary = Summary.of(records)
    found = [record for record in records if record.findings]
    thumbnail = lru_cache(256)(_thumbnail)  # pages often show the same image again
    return (
        environment(ASSETS / "auditing")
        .get_template("report.html.jinja")
        .render(
            entries=[(record, thumbnail(record.use.image)) for record in found[:MOST_SHOWN]],
            left_out=max(0, len(found) - MOST_SHOWN),
            summary=summary,
            sentence=summary.sentence(),
            severities={
                severity: [rule for rule in RULES if rule.severity == severity and summary.codes[rule.code]]
                for severity in SEVERITIES
            },
            headings=_HEADINGS,
            rules=BY_CODE,
            location=location,
            model=model,
            version=__version__,
        )
    )


def _thumbnail(image: str | bytes | None) -> str | None:
    """A small picture as a data address; None if there is none that can be read."""
    with suppress(InputError):
        return None if image is None else jpeg_address(load_image(image), _THUMBNAIL_SIDE, 70)
    return None


def make_report(form: str, records: Sequence[AuditedUse], failing: frozenset[str], model: str | None) -> str:
    """The report in a form such as ``json``; the others are those of :func:`as_junit` and :func:`as_html`."""
    if form == "html":
        return as_html(records, model)
    return as_junit(records, failing) if form == "junit" else _FORMS[form](records)


_FORMS: dict[str, Callable[[Sequence[AuditedUse]], str]] = {
    "text": as_text,
    "json": as_json,
    "csv": as_csv,
    "sarif": as_sarif,
}
"""The reports that need nothing but records."""
