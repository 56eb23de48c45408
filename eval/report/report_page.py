"""A report's JSON as a page: a pure function, so that a saved report gives the same page again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from descscore.errors import DataError
from descscore.eval.report.number_format import listing
from descscore.eval.report.page import Page, Section
from descscore.eval.report.page_about import missing_section, reading_section, repeat_section, results_section
from descscore.eval.report.page_human import human_section
from descscore.eval.report.page_models import captions_section, quality_section, zero_shot_section
from descscore.eval.report.page_pairs import preference_section, probability_section, sanity_section

Json: TypeAlias = dict[str, Any]

FORMAT = 1
"""Of the JSON; raised whenever its readers have to change."""


def report_page(report: Json) -> Page:
    """The page of a report; every number in it comes from ``report``.

    Raises :class:`DataError` for another kind of JSON, or a report of another format.
    """
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise DataError(f"not a report of format {FORMAT} (its 'format' says so)")
    try:
        names = listing([model["name"] for model in report["models"]])
        return Page(f"descscore report: {names}", _LEAD, tuple(_sections(report)), _foot(report))
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise DataError(f"not a whole report: {type(error).__name__} {error}") from error


_LEAD = (
    "How well do scores of alternative texts agree with people, and what do they prefer? "
    "All evaluations of one or several models, side by side."
)


def _foot(report: Json) -> str:
    return f"Made by descscore {report['descscore']} from the numbers in report.json."


def _sections(report: Json) -> Iterator[Section]:
    yield results_section(report)
    yield reading_section(report)
    yield from map(human_section, report["human"])
    for key, build in (("preference", preference_section), ("sanity", sanity_section)):
        if report[key]:
            yield build(report[key])
    if report["probability"]:
        yield probability_section(report["probability"])
    if report["quality"]:
        yield quality_section(report["quality"])
    yield from map(captions_section, report["captions"])
    if report["zeroshot"]:
        yield zero_shot_section(report["zeroshot"])
    yield missing_section(report)
    yield repeat_section(report)
