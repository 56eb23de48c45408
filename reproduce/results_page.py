"""``results.md`` from ``results.json``, and tables of the README: every number is one of the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from descscore.eval.formatting import markdown_table, plain, signed, signed_interval
from descscore.eval.report import plots
from descscore.training.config import FinetuneConfig

Record = dict[str, Any]
Reading = Callable[[Record], "float | None"]

RELIABILITY, FOREST, PREFERENCE = "reliability.svg", "readers.svg", "preference.svg"
RATERS = "BLV"
_SETS = (("OpenStax test", "openstax"), ("Concadia", "concadia"))


def write_page(results: Record, output: Path, report: Record | None = None) -> None:
    """Write ``results.md`` and its plots. report: from ``descscore eval report``, or None."""
    (output / "results.md").write_text(page(results, report), encoding="utf-8")
    if report is not None:
        write_figures(report, output)
    shipped = shipped_record(results)
    curves = [{"model": name, "bins": shipped[f"{key}_probability"]["bins"]} for name, key in _SETS]
    plots.reliability(curves, output / RELIABILITY)


def page(results: Record, report: Record | None = None) -> str:
    """The whole page, from the contents of ``results.json`` and ``report.json`` alone."""
    shipped = shipped_record(results)
    parts = [_INTRO, "## Goals\n", _goals_table(results)]
    parts += ["## Preference and grounding\n", _preference_table(results), _PREFERENCE_NOTES]
    parts += ["## What the base could do already\n", _transfer_table(results)]
    parts += ["## Where purpose is kept\n", _interchange_text(shipped)]
    parts += ["## The probability of being a description\n", _probability_text(shipped)]
    parts += ["## Settings\n", _settings_table(results)]
    if report is not None:
        parts += [
            "## Against people\n",
            _READERS_INTRO,
            figures_markdown(report, ""),
            readers_markdown(report),
        ]
        parts += ["## Caption ratings\n", _CAPTIONS_INTRO, _captions_table(report)]
        parts += ["## Can it be gamed?\n", _SANITY_INTRO, _sanity_table(report)]
    return "\n".join(parts)


def shipped_record(results: Record) -> Record:
    """The run that ships: the first seed of the shipped recipe."""
    return next(run for run in results["runs"] if (run["name"], run["seed"]) == ("shipped", 0))


def _models(results: Record) -> dict[str, list[Record]]:
    """Runs by name, seeds together, in the file's order."""
    by_name: dict[str, list[Record]] = {}
    for run in results["runs"]:
        by_name.setdefault(run["name"], []).append(run)
    return by_name


def over_seeds(runs: Sequence[Record], read: Reading) -> str:
    """``mean ± sd`` in per cent, the one value of a single run, or a dash where there is none."""
    values = [100 * value for run in runs if (value := read(run)) is not None]
    if not values:
        return "-"
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def _preference(key: str) -> Reading:
    return lambda run: float(run[f"{key}_preference"]["value"])


def _grounding(run: Record) -> float:
    return float(run["concadia_grounding"])


def _quality(part: str) -> Reading:
    return lambda run: next(float(figure["value"]) for figure in run["quality"] if part in figure["name"])


def _trained(run: Record) -> float | None:
    """Interchange accuracy at the k that the run was trained with."""
    k = run.get("config", {}).get("k")
    rows = run["interchange"] or []
    return next((row["value"] for row in rows if (row["subspace"], row["k"]) == ("trained", k)), None)


_COLUMNS: dict[str, Reading] = {
    "Concadia, description preferred": _preference("concadia"),
    "OpenStax test, description preferred": _preference("openstax"),
    "Concadia grounding, over other descriptions": _grounding,
    "Concadia grounding, over other photos": _quality("Concadia grounding"),
    "OpenStax test interchange at the trained k": _trained,
}
_TRANSFER: dict[str, Reading] = {
    "Caltech-101": _quality("Caltech-101"),
    "Tiny ImageNet": _quality("Tiny ImageNet"),
    "image to text R@10": _quality("image to text recall@10"),
    "text to image R@10": _quality("text to image recall@10"),
}


def readme_table(results: Record) -> str:
    """The README's short table: the shipped model, its base, the LoRA presets and text-only rules."""
    reads = (_preference("concadia"), _preference("openstax"), _grounding)
    rows = [["base", *(over_seeds([results["base"]], read) for read in reads)]]
    for name, runs in _models(results).items():
        if len(runs) > 1:
            label = "default (the shipped recipe)" if name == "shipped" else f"`{name}`"
            rows.append([label, *(over_seeds(runs, read) for read in reads)])
    for metric, values in _baselines(results).items():
        rows.append([metric, values["concadia"], values.get("openstax", ""), ""])
    return markdown_table(["model", "Concadia", "OpenStax test", "grounding, Concadia"], rows)


def _baselines(results: Record) -> dict[str, dict[str, str]]:
    """Per cent preferred by rules that see the texts alone, by metric and data set."""
    by_metric: dict[str, dict[str, str]] = {}
    for name, row in results["baselines"].items():
        metric, _, data = name.rpartition(", ")
        by_metric.setdefault(metric, {})[data] = f"{100 * row['value']:.1f}"
    return by_metric


def _goals_table(results: Record) -> str:
    shipped, base = shipped_record(results), results["base"]
    low = shipped["grounding_difference"]["low"]
    measured = [
        ("description preferred, Concadia", 85.0, 100 * shipped["concadia_preference"]["value"]),
        ("description preferred, OpenStax `test`", 97.0, 100 * shipped["openstax_preference"]["value"]),
        ("grounding less the base's, lower bound", -3.0, -100.0 if low is None else 100 * low),
        ("interchange accuracy at the trained k", 95.0, 100 * (_trained(shipped) or 0)),
    ]
    for name, read in _TRANSFER.items():
        measured.append((f"{name} less the base's", -2.0, 100 * ((read(shipped) or 0) - (read(base) or 0))))
    rows = [[n, f"{goal:g}", f"{value:.2f}", "yes" if value >= goal else "no"] for n, goal, value in measured]
    return markdown_table(["the shipped model", "at least", "measured", "met"], rows)


def _preference_table(results: Record) -> str:
    rows = [["base", "", *(over_seeds([results["base"]], read) for read in _COLUMNS.values()), ""]]
    for name, runs in _models(results).items():
        cells = [over_seeds(runs, read) for read in _COLUMNS.values()]
        rows.append([name, str(len(runs)), *cells, _difference(runs[0]["grounding_difference"])])
    for metric, values in _baselines(results).items():
        rows.append([metric, "", values["concadia"], values.get("openstax", ""), "", "", "", ""])
    return markdown_table(["model", "seeds", *_COLUMNS, "grounding less the base's (95 %)"], rows)


def _difference(estimate: Record) -> str:
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    between = "" if low is None else f" ({100 * low:+.1f} to {100 * high:+.1f})"
    return f"{100 * value:+.1f}{between}"


def _transfer_table(results: Record) -> str:
    models = {"base": [results["base"]], **_models(results)}
    rows = [[name, *(over_seeds(runs, read) for read in _TRANSFER.values())] for name, runs in models.items()]
    return markdown_table(["model", *_TRANSFER], rows)


def _interchange_text(run: Record) -> str:
    kinds = ("trained", "complement", "random")
    value = {(row["subspace"], row["k"]): f"{100 * row['value']:.1f}" for row in run["interchange"]}
    full = next(row for row in run["interchange"] if row["subspace"] == "full swap")
    sizes = sorted({k for kind, k in value if kind in kinds})
    return (
        f"Interchange accuracy in per cent on {full['n']} texts of OpenStax `test`, each once as base with "
        "a source of the other kind from another image: how often the base's logit moves the right way. "
        f"The shipped model was trained at block {run['config']['block']}, k = {run['config']['k']}. "
        "`complement` swaps all coordinates but the first k.\n\n"
        + markdown_table(["k", *kinds], [[str(k), *(value[kind, k] for kind in kinds)] for k in sizes])
        + f"\nSwapping the whole state: {100 * full['value']:.1f} %.\n"
    )


def _probability_text(run: Record) -> str:
    rows, alt = [], []
    for name, key in _SETS:
        row = run[f"{key}_probability"]
        between = "" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
        rows.append([name, f"{row['log_loss']:.3f}", between, f"{row['brier']:.3f}", str(row["texts"])])
        bins = (f"{100 * b['predicted']:.0f} → {100 * b['observed']:.0f}" for b in row["bins"])
        alt.append(f"{name}: {', '.join(bins)}")
    words = f"Reliability: per cent predicted → per cent that are descriptions. {'; '.join(alt)}"
    head = ["data", "log-loss (nats)", "95 % interval", "Brier score", "texts"]
    guessing = f"Always saying one half has a log-loss of {run['openstax_probability']['guessing']:.3f}.\n"
    return "\n".join([f"![{words}]({RELIABILITY})\n", markdown_table(head, rows), guessing])


_SETTINGS = (
    *("learning_rate", "batch_size", "epochs", "text_window", "token_dropout", "word_swap"),
    *("contrastive_weight", "hold_weight", "spread_weight", "interpolation"),
)


def _settings_table(results: Record) -> str:
    defaults = {field.name: field.default for field in fields(FinetuneConfig)}
    rows = []
    for name, runs in _models(results).items():
        # A run made before a setting existed had the value that is now its default.
        config = defaults | runs[0]["config"]
        cells = ["-" if config[key] is None else f"{config[key]:g}" for key in _SETTINGS]
        cost = [f"{runs[0]['trained_values']:,}", f"{runs[0]['seconds'] / 60:.1f}"]
        rows.append([name, config["loss"], config["tuning"], *cells, *cost])
    names = [name.replace("_", " ") for name in _SETTINGS]
    return markdown_table(["model", "loss", "tuning", *names, "trained values", "minutes"], rows)


def write_figures(report: Record, folder: Path) -> None:
    """Write the forest plot of BLV readers and the preference bars on the first data set."""
    plots.forest(_blv_rows(report), folder / FOREST)
    plots.preference_bars(report["preference"][0]["rows"], folder / PREFERENCE)


def figures_markdown(report: Record, folder: str) -> str:
    """Both figures with their text alternatives. folder: where they lie, as seen from the page."""
    forest = plots.forest_alt(_blv_rows(report), "blind and low-vision readers")
    preference = plots.preference_alt(report["preference"][0]["rows"])
    return f"![{forest}]({folder}{FOREST})\n\n![{preference}]({folder}{PREFERENCE})\n"


def readers_markdown(report: Record) -> str:
    """Correlations with the overall and imaginability ratings of BLV readers, a row a metric."""
    cells = [
        [
            row["question"],
            row["metric"],
            signed(row["r"]),
            signed_interval(row["low"], row["high"]),
            signed(row["partial_r"]),
            plain(row["ceiling"]),
        ]
        for row in _blv_rows(report)
        if row["question"] in ("overall", "imaginability")
    ]
    return markdown_table(("question", "metric", "r", "95 % interval", "r given length", "ceiling"), cells)


def _blv_rows(report: Record) -> list[Record]:
    """The report's correlations with blind and low-vision readers' ratings."""
    return [row for row in report["human"][0]["rows"] if row["raters"] == RATERS]


def _captions_table(report: Record) -> str:
    """Kendall's tau x 100 with Flickr8k's caption ratings: models, then published metrics."""
    ratings = report["captions"][0]
    models = dict.fromkeys(row["model"] for row in ratings["rows"])
    taus = {(row["model"], row["set"]): 100 * row["tau"] for row in ratings["rows"]}
    cells = [[name, *(f"{taus[name, of]:.1f}" for of in ("expert", "crowdflower"))] for name in models]
    for row in ratings["published"]:
        cells.append([f"{row['metric']} (published)", f"{row['expert']:.1f}", f"{row['crowdflower']:.1f}"])
    return markdown_table(("metric", "expert", "crowd"), cells)


def _sanity_table(report: Record) -> str:
    """How often hostile texts score over the description on the first data set, in per cent."""
    rows = report["sanity"][0]["rows"]
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    values = {
        (row["attack"], row["metric"]): "not defined" if row["value"] is None else f"{100 * row['value']:.1f}"
        for row in rows
    }
    attacks = dict.fromkeys(row["attack"] for row in rows)
    cells = [[attack, *(values[attack, metric] for metric in metrics)] for attack in attacks]
    return markdown_table(("hostile text", *metrics), cells)


_INTRO = """# Results

Written by `python -m reproduce.results --data DATA --work runs/results --output docs`
from [results.json](results.json). All models start from the bundled `base` and are trained
on OpenStax `train` only. Concadia (300 pairs) and OpenStax `test` (367 pairs) are measured
afterwards. Numbers are per cent; `±` is the standard deviation over seeds. Ties do not count as wins, and
the two Concadia pairs whose texts are equal count against every model.
"""

_READERS_INTRO = """From `descscore eval report --model default --model base`; all figures are in
[report.json](report.json). 68 descriptions of 18 images, mean ratings of
blind and low-vision (BLV) readers; Pearson's r, with intervals that resample whole images.
|r| under 0.24 is not significant with so few. Neither bundled model agrees with these readers by more than
chance would give, and the length of the text alone agrees better than any metric. A higher
irrelevance rating means less irrelevant information.
"""

_CAPTIONS_INTRO = """Kendall's tau times 100 on Flickr8k's ratings. They rate captions, not
descriptions: they show how well a metric tells right captions from wrong ones.
"""

_SANITY_INTRO = """How often a hostile text scores over the description, in per cent of the
Concadia pairs; 50 is a toss-up.
"""

_PREFERENCE_NOTES = """
Grounding: how often an image's own description scores over those of 20 random other images,
and how often a description scores higher with its own photo than with 20 random others.
The difference from the base is that of the first kind, paired, for the first seed, with an
interval over images.
"""
