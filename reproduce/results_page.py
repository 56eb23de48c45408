"""``results.md`` from ``results.json``: every number in the page is one of the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeAlias

from descscore.eval.report import plots
from descscore.eval.report.page import plain, signed, signed_interval, table
from descscore.eval.report.page_human import forest_alt
from descscore.eval.report.page_pairs import preference_alt
from descscore.training.config import FinetuneConfig

# The short form of a report: two figures, and the tables that the README and the results page show.


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


Record = dict[str, Any]
Reading = Callable[[Record], "float | None"]

RELIABILITY = "reliability.svg"
_TRANSFER = (
    ("Caltech-101", "Caltech-101"),
    ("Tiny ImageNet", "Tiny ImageNet"),
    ("image to text R@10", "image to text recall@10"),
    ("text to image R@10", "text to image recall@10"),
)


def write_page(found: Record, output: Path, report: Record | None = None) -> None:
    """Write ``results.md`` with its plots beside it. report: from ``descscore eval report``, or None."""
    (output / "results.md").write_text(page(found, report), encoding="utf-8")
    if report is not None:
        write_figures(report, output)
    shipped = shipped_record(found)
    rows = [(name, shipped[f"{key}_probability"]) for name, key in _SETS]
    curves = [{"model": name, "bins": row["bins"]} for name, row in rows if row]
    if curves:
        plots.reliability(curves, output / RELIABILITY)


_SETS = (("OpenStax test", "openstax"), ("Concadia", "concadia"))


def page(found: Record, report: Record | None = None) -> str:
    """The whole page, from the contents of ``results.json`` and ``report.json`` alone."""
    parts = [
        _INTRO,
        "## Goals\n",
        _goals_table(found),
        "## Preference and grounding\n",
        _preference_table(found),
        _PREFERENCE_NOTES,
        "## What the base could do already\n",
        _transfer_table(found),
        "## Where purpose is kept\n",
        _interchange_text(shipped_record(found)),
        "## The probability of being a description\n",
        _probability_text(shipped_record(found)),
        "## Settings\n",
        _settings_table(found),
        *([] if report is None else _readers_parts(report)),
    ]
    return "\n".join(parts)


def _readers_parts(report: Record) -> list[str]:
    return [
        "## Against people\n",
        _READERS_INTRO,
        figures_markdown(report, ""),
        readers_markdown(report),
        "## Caption ratings\n",
        _CAPTIONS_INTRO,
        captions_markdown(report),
        "## Can it be gamed?\n",
        _SANITY_INTRO,
        sanity_markdown(report),
    ]


def shipped_record(found: Record) -> Record:
    """The run that ships: the first seed of the shipped recipe."""
    return next(run for run in found["runs"] if (run["name"], run["seed"]) == ("shipped", 0))


def groups(found: Record) -> dict[str, list[Record]]:
    """Runs by name, seeds together, in the file's order."""
    by_name: dict[str, list[Record]] = {}
    for run in found["runs"]:
        by_name.setdefault(run["name"], []).append(run)
    return by_name


def over_seeds(runs: Sequence[Record], read: Reading) -> str:
    """``mean ± sd`` in per cent, the one value of a single run, or a dash where there is none."""
    values = [value for run in runs if (value := read(run)) is not None]
    if not values:
        return "-"
    if len(values) == 1:
        return f"{100 * values[0]:.1f}"
    return f"{100 * mean(values):.1f} ± {100 * stdev(values):.1f}"


def _preference(key: str) -> Reading:
    return lambda run: float(run[f"{key}_preference"]["value"])


def _figure(part: str) -> Reading:
    return lambda run: next(float(f["value"]) for f in run["quality"] if part in f["name"])


def _trained(run: Record) -> float | None:
    k = run.get("config", {}).get("k")
    rows = run["interchange"] or []
    return next((r["value"] for r in rows if (r["subspace"], r["k"]) == ("trained", k)), None)


_COLUMNS: tuple[tuple[str, Reading], ...] = (
    ("Concadia, description preferred", _preference("concadia")),
    ("OpenStax test, description preferred", _preference("openstax")),
    ("Concadia grounding, over other descriptions", lambda run: float(run["concadia_grounding"])),
    ("Concadia grounding, over other photos", _figure("Concadia grounding")),
    ("OpenStax test interchange at the trained k", _trained),
)


def readme_table(found: Record) -> str:
    """The README's short table: the shipped model beside its base, the LoRA presets and text-only rules."""
    head = ["model", "Concadia", "OpenStax test", "grounding, Concadia"]
    reads = (_preference("concadia"), _preference("openstax"), lambda run: float(run["concadia_grounding"]))
    rows = [["base", *(over_seeds([found["base"]], read) for read in reads)]]
    for name, runs in groups(found).items():
        if len(runs) > 1:
            label = "default (the shipped recipe)" if name == "shipped" else f"`{name}`"
            rows.append([label, *(over_seeds(runs, read) for read in reads)])
    metrics = dict.fromkeys(name.rpartition(", ")[0] for name in found["baselines"])
    for metric in metrics:
        cells = [f"{100 * found['baselines'][f'{metric}, {key}']['value']:.1f}" for _, key in reversed(_SETS)]
        rows.append([metric, *cells, ""])
    return table(head, rows)


def _goals_table(found: Record) -> str:
    shipped, base = shipped_record(found), found["base"]
    low = shipped["grounding_difference"]["low"]
    measured = [
        ("description preferred, Concadia", 85.0, 100 * shipped["concadia_preference"]["value"]),
        ("description preferred, OpenStax `test`", 97.0, 100 * shipped["openstax_preference"]["value"]),
        ("grounding less the base's, lower bound", -3.0, -100.0 if low is None else 100 * low),
        ("interchange accuracy at the trained k", 95.0, 100 * (_trained(shipped) or 0)),
    ]
    for name, part in _TRANSFER:
        read = _figure(part)
        measured.append((f"{name} less the base's", -2.0, 100 * ((read(shipped) or 0) - (read(base) or 0))))
    rows = [[n, f"{goal:g}", f"{value:.2f}", "yes" if value >= goal else "no"] for n, goal, value in measured]
    return table(["the shipped model", "at least", "measured", "met"], rows)


def _preference_table(found: Record) -> str:
    head = ["model", "seeds", *(name for name, _ in _COLUMNS), "grounding less the base's (95 %)"]
    rows = [["base", "", *(over_seeds([found["base"]], read) for _, read in _COLUMNS), ""]]
    for name, runs in groups(found).items():
        cells = [over_seeds(runs, read) for _, read in _COLUMNS]
        rows.append([name, str(len(runs)), *cells, _difference(runs[0]["grounding_difference"])])
    for name, row in found["baselines"].items():
        metric, _, where = name.rpartition(", ")
        value = f"{100 * row['value']:.1f}"
        cells = [value if where == key else "" for key in ("concadia", "openstax")]
        rows.append([metric, "", *cells, "", "", "", ""])
    return table(head, rows)


def _difference(found: Record) -> str:
    if found["low"] is None:
        return f"{100 * found['value']:+.1f}"
    return f"{100 * found['value']:+.1f} ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"


def _transfer_table(found: Record) -> str:
    head = ["model", *(name for name, _ in _TRANSFER)]
    every = {"base": [found["base"]], **groups(found)}
    rows = [
        [name, *(over_seeds(runs, _figure(part)) for _, part in _TRANSFER)] for name, runs in every.items()
    ]
    return table(head, rows)


def _interchange_text(run: Record) -> str:
    rows = run["interchange"]
    kinds = ("trained", "complement", "random")
    value = {(r["subspace"], r["k"]): f"{100 * r['value']:.1f}" for r in rows}
    sizes = sorted({r["k"] for r in rows if r["subspace"] != "full swap"})
    body = [[f"{k}", *(value[(kind, k)] for kind in kinds)] for k in sizes]
    full = next(r for r in rows if r["subspace"] == "full swap")
    return (
        f"Interchange accuracy in per cent on {full['n']} texts of OpenStax `test`, each once as base with "
        "a source of the other kind from another image: how often the base's logit moves the right way. "
        f"The shipped model was trained at block {run['config']['block']}, k = {run['config']['k']}. "
        "`complement` swaps all coordinates but the first k.\n\n"
        + table(["k", *kinds], body)
        + f"\nSwapping the whole state: {100 * full['value']:.1f} %.\n"
    )


def _probability_text(run: Record) -> str:
    rows = []
    for name, key in _SETS:
        row = run[f"{key}_probability"]
        between = "" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
        rows.append([name, f"{row['log_loss']:.3f}", between, f"{row['brier']:.3f}", str(row["texts"])])
    head = ["data", "log-loss (nats)", "95 % interval", "Brier score", "texts"]
    guessing = run["openstax_probability"]["guessing"]
    lines = [f"![{_reliability_alt(run)}]({RELIABILITY})\n", table(head, rows)]
    return "\n".join([*lines, f"Always saying one half has a log-loss of {guessing:.3f}.\n"])


def _reliability_alt(run: Record) -> str:
    parts = []
    for name, key in _SETS:
        bins = run[f"{key}_probability"]["bins"]
        said = ", ".join(f"{100 * b['predicted']:.0f} → {100 * b['observed']:.0f}" for b in bins)
        parts.append(f"{name}: {said}")
    return "Reliability: per cent said → per cent that are descriptions. " + "; ".join(parts)


_SHOWN = (
    *("learning_rate", "batch_size", "epochs", "text_window", "token_dropout", "word_swap"),
    *("contrastive_weight", "hold_weight", "spread_weight", "interpolation"),
)
_DEFAULTS = {field.name: field.default for field in fields(FinetuneConfig)}


def _settings_table(found: Record) -> str:
    head = [
        "model",
        "loss",
        "tuning",
        *(name.replace("_", " ") for name in _SHOWN),
        "trained values",
        "minutes",
    ]
    rows = []
    for name, runs in groups(found).items():
        config = runs[0]["config"]
        # A run made before there was the setting had what is now the default.
        values = [config.get(key, _DEFAULTS[key]) for key in _SHOWN]
        shown = ["-" if value is None else f"{value:g}" for value in values]
        cells = [config["loss"], config["tuning"], *shown]
        rows.append([name, *cells, f"{runs[0]['trained_values']:,}", f"{runs[0]['seconds'] / 60:.1f}"])
    return table(head, rows)


_INTRO = """# Results

Written by `python -m reproduce.results --data DATA --work runs/results --output docs`
from [results.json](results.json). All models start from the bundled `base` and are trained
on OpenStax `train` only; Concadia (300 pairs) and OpenStax `test` (367 pairs) are measured
afterwards. Per cent; `±` is the standard deviation over seeds. Ties do not count as wins, and the two
Concadia pairs whose texts are equal count against every model.
"""

_READERS_INTRO = """From `descscore eval report --model default --model base`, whose
[report.json](report.json) holds all of it. 68 descriptions of 18 images, mean ratings of
blind and low-vision (BLV) readers; Pearson's r, with intervals that resample whole images.
|r| under 0.24 is not significant with so few. Neither bundled model agrees with these readers by more than
chance would give, and the length of the text alone agrees better than any metric. A higher
irrelevance rating means less irrelevant information.
"""

_CAPTIONS_INTRO = """Kendall's tau times 100 on Flickr8k's ratings. They are of captions, not of
descriptions, and say how well right ones are told from wrong ones.
"""

_SANITY_INTRO = """How often a hostile text scores over the description, in per cent of the
Concadia pairs; 50 is a toss-up.
"""

_PREFERENCE_NOTES = """
Grounding: how often an image's own description scores over those of 20 random other images,
and how often a description scores higher with its own photo than with 20 random others.
The difference to the base is that of the first kind, paired, for the first seed, with an
interval over images.
"""
