"""The short form of a report: two figures, and the tables that the README and the results page show."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

from descscore.eval.markdown_table import table
from descscore.eval.report import plots
from descscore.eval.report.number_format import plain, signed, signed_interval
from descscore.eval.report.page_human import forest_alt
from descscore.eval.report.page_pairs import preference_alt

Json: TypeAlias = dict[str, Any]

FOREST, PREFERENCE = "readers.svg", "preference.svg"
RATERS = "BLV"
_NAMES = {RATERS: "blind and low-vision readers"}


def write_figures(report: Json, folder: Path) -> None:
    """Write the forest plot of BLV readers and the preference bars on the first data set."""
    plots.forest(blv_rows(report), folder / FOREST)
    plots.preference_bars(report["preference"][0]["rows"], folder / PREFERENCE)


def blv_rows(report: Json) -> list[Json]:
    """The report's correlations with blind and low-vision readers' ratings."""
    return [row for row in report["human"][0]["rows"] if row["raters"] == RATERS]


def figures_markdown(report: Json, folder: str) -> str:
    """Both figures with their text alternatives. folder: where they lie, as seen from the page."""
    rows = report["preference"][0]["rows"]
    return (
        f"![{forest_alt(blv_rows(report), _NAMES[RATERS])}]({folder}{FOREST})\n\n"
        f"![{preference_alt(rows)}]({folder}{PREFERENCE})\n"
    )


def readers_markdown(report: Json) -> str:
    """Correlations with the overall and imaginability ratings of BLV readers, a row a metric."""
    rows = [row for row in blv_rows(report) if row["question"] in ("overall", "imaginability")]
    cells = [
        [
            row["question"],
            row["metric"],
            signed(row["r"]),
            signed_interval(row["low"], row["high"]),
            signed(row["partial_r"]),
            plain(row["ceiling"]),
        ]
        for row in rows
    ]
    return table(("question", "metric", "r", "95 % interval", "r given length", "ceiling"), cells)


def captions_markdown(report: Json) -> str:
    """Kendall's tau x 100 with Flickr8k's caption ratings, models beside published metrics."""
    found = report["captions"][0]
    models = dict.fromkeys(row["model"] for row in found["rows"])
    taus = {(row["model"], row["set"]): 100 * row["tau"] for row in found["rows"]}
    cells = [[name, *(f"{taus[name, of]:.1f}" for of in ("expert", "crowdflower"))] for name in models]
    cells += [
        [f"{row['metric']} (published)", f"{row['expert']:.1f}", f"{row['crowdflower']:.1f}"]
        for row in found["published"]
    ]
    return table(("metric", "expert", "crowd"), cells)


def sanity_markdown(report: Json) -> str:
    """How often hostile texts score over the description on the first data set, in per cent."""
    rows = report["sanity"][0]["rows"]
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    value = {(row["attack"], row["metric"]): row["value"] for row in rows}
    attacks = dict.fromkeys(row["attack"] for row in rows)
    cells = [[attack, *(_percent(value[attack, metric]) for metric in metrics)] for attack in attacks]
    return table(("hostile text", *metrics), cells)


def _percent(value: float | None) -> str:
    return "not defined" if value is None else f"{100 * value:.1f}"
