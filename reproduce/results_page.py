"""The page ``docs/results.md`` and the README's table, from ``results.json`` and ``report.json`` alone.

:mod:`reproduce.results` measures and writes ``results.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeAlias

from descscore.errors import DataError
from descscore.eval.attacks import ATTACKS, PHRASES, Target
from descscore.eval.report import plots
from descscore.eval.sanity import KINDS, LESS_BASE
from descscore.training.config import DEFAULTS, LOSS_WEIGHTS
from reproduce.pages import render, write_text

Record: TypeAlias = dict[str, Any]
Reading: TypeAlias = Callable[[Record], "float | None"]
Columns: TypeAlias = Mapping[str, Reading]

RELIABILITY, FOREST, PREFERENCE = "reliability.svg", "readers.svg", "preference.svg"
RATERS = "BLV"
_SETS = (("OpenStax test", "openstax"), ("Concadia", "concadia"))


def write_page(results: Record, output: Path, report: Record | None = None) -> None:
    """Write ``results.md`` and its plots. report: from ``descscore eval report``, or None."""
    write_text(page(results, report), output / "results.md")
    if report is not None:
        write_figures(report, output)
    shipped = shipped_record(results)
    curves = [{"model": name, "bins": shipped[f"{key}_probability"]["bins"]} for name, key in _SETS]
    plots.reliability(curves, output / RELIABILITY)


def shipped_record(results: Record) -> Record:
    """The run that ships: the first seed of the shipped recipe.

    Raises :class:`DataError` if it is not measured yet.
    """
    for run in results["runs"]:
        if (run["name"], run["seed"]) == ("shipped", 0):
            shipped: Record = run
            return shipped
    raise DataError("results.json: holds no run 'shipped-0', and the page needs it: --only shipped-0")


def over_seeds(runs: Sequence[Record], read: Reading) -> str:
    """``mean ± sd`` in per cent, the one value of a single run, or a dash if there is none."""
    values = [100 * value for run in runs if (value := read(run)) is not None]
    if not values:
        return "-"
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


# What is read from a record


def _preferred(key: str) -> Reading:
    return lambda run: float(run[f"{key}_preference"]["value"])


def _grounding(run: Record) -> float:
    return float(run["concadia_grounding"])


def _quality(*parts: str) -> Reading:
    """The first figure whose name holds all ``parts``."""
    return lambda run: next(
        (figure["value"] for figure in run["quality"] if all(part in figure["name"] for part in parts)), None
    )


def _figure(name: str, end: str = "value") -> Reading:
    """A figure of ``descscore eval sanity`` on Concadia, or an ``end`` of its interval."""
    return lambda run: run["sanity"]["figures"].get(name, {}).get(end)


def _beats(attack: str) -> Reading:
    """How often the description has the higher cosine; a tie is no win."""

    def read(run: Record) -> float | None:
        row = run["sanity"]["attacks"][attack]
        return 1 - row["value"] - row["ties"] / row["n"] if row["n"] else None

    return read


def _swapped(data: str, subspace: str, k: int | None = None) -> Reading:
    """Interchange accuracy of one subspace. k: its size; None for the k of the run, or its only size."""

    def read(run: Record) -> float | None:
        size = k or (run.get("config", {}).get("k") if subspace == "trained" else None)
        rows = [row for row in run["interchange"][data] if row["subspace"] == subspace]
        return next((row["value"] for row in rows if size in (None, row["k"])), None)

    return read


def _tau(name: str) -> Reading:
    return lambda run: run["taus"][name]


_COLUMNS: Columns = {
    "Concadia, description preferred": _preferred("concadia"),
    "OpenStax test, description preferred": _preferred("openstax"),
    "Concadia grounding, over other descriptions": _grounding,
    "Concadia grounding, over other photos": _quality("Concadia grounding"),
    "OpenStax test interchange at the trained k": _swapped("openstax", "trained"),
    "Concadia interchange at the trained k": _swapped("concadia", "trained"),
}
_FOUR: Columns = {
    f"{own} over {other}": _figure(f"{own} over other images' {other}") for own in KINDS for other in KINDS
}
_TRANSFER: Columns = {
    "Caltech-101": _quality("Caltech-101"),
    "Caltech-101, mean of several prompts": _quality("Caltech-101", "prompts"),
    "Tiny ImageNet": _quality("Tiny ImageNet"),
    "image to text R@10": _quality("image to text recall@10"),
    "text to image R@10": _quality("text to image recall@10"),
    "Kreiss 2022 grounding": _quality("Kreiss 2022", "all descriptions"),
    "Flickr8k-Expert tau-c": _tau("expert"),
    "Flickr8k-CF tau-b": _tau("crowdflower"),
}
_EARNS: Columns = {
    "interchange at the trained k, OpenStax test": _swapped("openstax", "trained"),
    "found direction alone, OpenStax test": _swapped("openstax", "found", 1),
    "whole state, OpenStax test": _swapped("openstax", "full swap"),
    "interchange at the trained k, Concadia": _swapped("concadia", "trained"),
    "found direction alone, Concadia": _swapped("concadia", "found", 1),
    "whole state, Concadia": _swapped("concadia", "full swap"),
    "Concadia, description preferred": _preferred("concadia"),
    "captions over other images' descriptions": _figure("captions over other images' descriptions"),
}
_SETTINGS = (
    *("learning_rate", "batch_size", "epochs", "text_window", "token_dropout", "word_swap"),
    *LOSS_WEIGHTS,
    "interpolation",
)
_SUBSPACES = ("trained", "beyond the first", "complement", "random")


# The goals


@dataclass(frozen=True)
class Goal:
    """What is aimed at. Values and limits are shares, differences of shares, taus, or cosines."""

    name: str
    limit: float
    read: Reading
    most: bool = False
    """Whether the limit is the most that is allowed; otherwise it is the least."""
    percent: bool = True

    def row(self, record: Record) -> tuple[str, str, str, str]:
        """Name, limit, value and whether it is met."""
        value, scale = self.read(record), 100 if self.percent else 1
        limit = f"{'at most' if self.most else 'at least'} {scale * self.limit:g}"
        if value is None:
            return self.name, limit, "not measured", "-"
        met = value <= self.limit if self.most else value >= self.limit
        shown = f"{100 * value:.1f}" if self.percent else f"{value:.3f}"
        return self.name, limit, shown, "yes" if met else "no"


_EMPTY = {attack.name: attack.make(Target("")) for attack in PHRASES if attack.name != "general keywords"}
BASE_GOALS = (
    Goal("Flickr8k test image to text recall@10", 0.7, _quality("image to text recall@10")),
    Goal("Flickr8k test text to image recall@10", 0.6, _quality("text to image recall@10")),
    Goal("grounding on Concadia, over other descriptions", 0.89, _grounding),
    Goal("grounding on Kreiss 2022", 0.95, _quality("Kreiss 2022", "all descriptions")),
    Goal("Caltech-101, mean of several prompts", 0.45, _quality("Caltech-101", "prompts")),
    Goal("Flickr8k-Expert tau-c", 0.45, _tau("expert")),
    Goal("Flickr8k-CF tau-b", 0.28, _tau("crowdflower")),
)
SHIPPED_GOALS = (
    Goal("description preferred, Concadia", 0.85, _preferred("concadia")),
    Goal("description preferred, OpenStax test", 0.97, _preferred("openstax")),
    *(
        Goal(
            f"{kind} over other images' descriptions, less the base's, lower bound",
            limit,
            _figure(f"{kind} over other images' descriptions{LESS_BASE}", "low"),
        )
        for kind, limit in zip(KINDS, (-0.02, -0.05), strict=True)
    ),
    *(Goal(f'beats "{text}"', 0.97, _beats(attack)) for attack, text in _EMPTY.items()),
    Goal("beats its own words shuffled", 0.8, _beats("shuffled words")),
    Goal("beats a list of its nouns", 0.75, _beats("nouns")),
    Goal("beats general keywords", 0.95, _beats("general keywords")),
    *(
        Goal(f"a final full stop moves the cosine, {what}", limit, _figure(name), most=True, percent=False)
        for what, limit, name in (
            ("mean", 0.01, "a final full stop moves the cosine: mean"),
            ("largest", 0.05, "a final full stop moves the cosine: largest"),
        )
    ),
    Goal(
        "mean probability of empty phrases",
        0.15,
        _figure("description_probability of empty phrases: mean"),
        most=True,
    ),
    Goal(
        "mean probability of descriptions, Concadia",
        0.75,
        _figure("description_probability of descriptions: mean"),
    ),
    Goal("interchange accuracy at the trained k, OpenStax test", 0.95, _swapped("openstax", "trained")),
    Goal("interchange accuracy at the trained k, Concadia", 0.9, _swapped("concadia", "trained")),
)


# The page


def page(results: Record, report: Record | None = None) -> str:
    """The whole page, from the contents of ``results.json`` and ``report.json`` alone."""
    shipped, shown = shipped_record(results), _shown_in_tables(results)
    goals = {"base": (results["base"], BASE_GOALS), "default": (shipped, SHIPPED_GOALS)}
    return render(
        "results",
        **shown,
        report=report,
        **({} if report is None else _report_tables(report)),
        goals={name: [goal.row(record) for goal in some] for name, (record, some) in goals.items()},
        columns=_COLUMNS,
        four=_FOUR,
        differences={
            name.removesuffix(LESS_BASE): figure
            for name, figure in shipped["sanity"]["figures"].items()
            if name.endswith(LESS_BASE)
        },
        transfer=_TRANSFER,
        earns=_EARNS,
        earning=[name for name in shown["models"] if name == "base" or name.startswith("shipped")],
        shipped=shipped,
        swap_cell=_swap_cell,
        kinds=_SUBSPACES,
        interchange={name: _by_size(shipped["interchange"][key]) for name, key in _SETS},
        whole=[_whole_row(name, key, shipped, results["base"]) for name, key in _SETS],
        folds=shipped["interchange"]["folds"],
        probabilities={name: shipped[f"{key}_probability"] for name, key in _SETS},
        settings=_SETTINGS,
        defaults=DEFAULTS,
    )


def readme_table(results: Record) -> str:
    """The README's short table: bundled models, presets, and rules that see texts alone."""
    reads = (_preferred("concadia"), _preferred("openstax"), _grounding)
    return render("readme_results", **_shown_in_tables(results), reads=reads)


def _shown_in_tables(results: Record) -> Record:
    """The base and the runs by name, seeds together; and per cent preferred by rules that see texts alone."""
    models: dict[str, list[Record]] = {"base": [results["base"]]}
    for run in results["runs"]:
        models.setdefault(run["name"], []).append(run)
    baselines: dict[str, dict[str, str]] = {}
    for name, row in results["baselines"].items():
        metric, _, data = name.rpartition(", ")
        baselines.setdefault(metric, {"openstax": ""})[data] = f"{100 * row['value']:.1f}"
    return {"models": models, "baselines": baselines, "over_seeds": over_seeds}


def _by_size(rows: Sequence[Record]) -> dict[int, Record]:
    """Rows by k, then by subspace."""
    by_size: dict[int, Record] = {}
    for row in sorted(rows, key=lambda row: row["k"]):
        if row["subspace"] in _SUBSPACES:
            by_size.setdefault(row["k"], {})[row["subspace"]] = row
    return by_size


def _swap_cell(row: Record) -> str:
    """Per cent, with the spread over draws or the interval over images where there is one."""
    value, spread, low, high = (row.get(key) for key in ("value", "spread", "low", "high"))
    assert value is not None
    if spread is not None:
        return f"{100 * value:.1f} ± {100 * spread:.1f}"
    between = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"
    return f"{100 * value:.1f}{between}"


def _whole_row(name: str, key: str, *records: Record) -> tuple[str, list[str]]:
    """Swaps of the whole state, and of the found direction alone, in the shipped model and in the base."""
    reads = (_swapped(key, "full swap"), _swapped(key, "found", 1))
    return name, [over_seeds([record], read) for record in records for read in reads]


def write_figures(report: Record, folder: Path) -> None:
    """Write the forest plot of BLV readers and the preference bars on the first data set."""
    plots.forest(_blv_rows(report), folder / FOREST)
    plots.preference_bars(report["preference"][0]["rows"], folder / PREFERENCE)


def _blv_rows(report: Record) -> list[Record]:
    """The report's correlations with blind and low-vision readers' ratings."""
    return [row for row in report["human"][0]["rows"] if row["raters"] == RATERS]


def _report_tables(report: Record) -> Record:
    """What the page shows of the report.

    ``agreeing``: metrics whose correlation with BLV readers' overall ratings is above 0 with its interval;
    ``closest``: the metric of the highest one.
    ``taus``: Kendall's tau times 100 with Flickr8k's caption ratings, of models, then of published metrics.
    ``attacks``: by hostile text and metric, how often it scores over the description on the first data set;
    ``hostile`` says what each of these texts is.
    """
    taus: dict[str, Record] = {}
    for row in report["captions"][0]["rows"]:
        taus.setdefault(row["model"], {})[row["set"]] = 100 * row["tau"]
    for row in report["captions"][0]["published"]:
        taus[f"{row['metric']} (published)"] = row
    attacks: dict[str, Record] = {}
    for row in report["sanity"][0]["rows"]:
        attacks.setdefault(row["attack"], {})[row["metric"]] = row["value"]
    overall = [row for row in _blv_rows(report) if row["question"] == "overall"]
    return {
        "agreeing": [row["metric"] for row in overall if row["low"] is not None and row["low"] > 0],
        "closest": max(overall, key=lambda row: row["r"] or 0)["metric"],
        "forest_alt": plots.forest_alt(_blv_rows(report), "blind and low-vision readers"),
        "preference_alt": plots.preference_alt(report["preference"][0]["rows"]),
        "readers": _blv_rows(report),
        "taus": taus,
        "attacks": attacks,
        "hostile": {attack.name: attack.what for attack in ATTACKS},
        "metrics": list(dict.fromkeys(row["metric"] for row in report["sanity"][0]["rows"])),
    }
