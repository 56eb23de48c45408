"""The report's plots, each written to an SVG or PNG file or stream, and a text alternative for each.

Colour never carries meaning alone: every metric has a marker, a line style and a
hatch of its own. Nothing here depends on the user's matplotlib settings, and the
same rows give the same bytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from descscore.errors import DataError, shown
from descscore.eval.formatting import counted, listing, percent, plain, sentence, signed, signed_interval

Measured: TypeAlias = Mapping[str, Any]
"""A row of the report's JSON."""
Target: TypeAlias = "str | Path | IO[bytes]"
"""A file whose suffix says the format, or a stream, which gets SVG."""

WIDTH = 4.4
"""Inches: at 320 CSS pixels the text of such a figure is still some 9 pixels high."""

_LONGEST_NAME = 22


@dataclass(frozen=True)
class Style:
    """How one metric looks. Each colour has a contrast of at least 3.5 : 1 with white."""

    colour: str
    marker: str
    line: str
    hatch: str


STYLES = (
    Style("#0072B2", "o", "-", ""),
    Style("#C04F00", "s", "--", "///"),
    Style("#117733", "^", "-.", "..."),
    Style("#AA3377", "D", ":", "xxx"),
    Style("#333333", "v", "-", "\\\\\\"),
    Style("#8C6100", "P", "--", "ooo"),
    Style("#5B4FBF", "X", "-.", "+++"),
)


def styles_of(names: Sequence[str]) -> dict[str, Style]:
    """A style for each distinct name, in order of appearance; after seven they repeat."""
    return {name: STYLES[i % len(STYLES)] for i, name in enumerate(dict.fromkeys(names))}


def scatter(scatter_of: Measured, question: str, target: Target) -> None:
    """A model's cosine of each description with its mean rating, 1 to 5, and the fitted line.

    scatter_of: ``points`` with ``cosine`` and the question's rating, and ``lines``.
    """
    kept = [point for point in scatter_of["points"] if point[question] is not None]
    if not kept:
        raise DataError(f"scatter: no ratings of {question!r}")
    x = np.array([point["cosine"] for point in kept])
    y = np.array([point[question] for point in kept])
    with drawing(WIDTH, 3.0, target) as figure:
        axes = figure.add_subplot()
        style = STYLES[0]
        axes.plot(x, y, linestyle="", marker=style.marker, markerfacecolor="none", color=style.colour)
        line = scatter_of["lines"][question]
        if line is not None:
            ends = np.array([x.min(), x.max()])
            axes.plot(ends, line["intercept"] + line["slope"] * ends, color="#C04F00", linewidth=2)
        axes.set(xlabel=f"cosine of image and description ({_short(scatter_of['model'])})", ylim=(0.8, 5.2))
        axes.set_ylabel(f"mean rating: {question}")
        axes.set_yticks(range(1, 6))
        axes.grid(color="#DDDDDD", linewidth=0.6)


def scatter_alt(of: Measured, question: str, row: Measured) -> str:
    """The scatter plot in words: how many points, where the line runs, and r with its interval."""
    kept = [point for point in of["points"] if point[question] is not None]
    cosines = [point["cosine"] for point in kept]
    ratings = [point[question] for point in kept]
    text = (
        f"Scatter plot of {counted(len(kept), 'description')}: cosine under {of['model']} from "
        f"{signed(min(cosines))} to {signed(max(cosines))}, mean {question} rating from "
        f"{plain(min(ratings))} to {plain(max(ratings))}. "
    )
    line = of["lines"][question]
    if line is None:
        return text + "No line is fitted."
    start, stop = (line["intercept"] + line["slope"] * x for x in (min(cosines), max(cosines)))
    way = "rises" if stop > start else "falls"
    r = f"r = {signed(row['r'])}, 95 % interval {signed_interval(row['low'], row['high'])}"
    return text + f"The fitted line {way} from {plain(start)} to {plain(stop)}; {r}."


def forest(rows: Sequence[Measured], target: Target) -> None:
    """Correlations with their intervals, a panel for each question, and each question's ceiling.

    rows: of one group of raters, with ``metric, question, r, low, high, ceiling``. A row without an
    interval is a marker alone. A row whose r is not defined says so.
    """
    questions, names = _distinct(rows, "question"), _distinct(rows, "metric")
    looks = styles_of(names)
    height = 0.5 + sum(0.45 + 0.21 * len(names) for _ in questions)
    with drawing(WIDTH, height, target) as figure:
        panels = figure.subplots(len(questions), 1, sharex=True, squeeze=False)[:, 0]
        for axes, question in zip(panels, questions, strict=True):
            own = [row for row in rows if row["question"] == question]
            for place, row in enumerate(own):
                _estimate(axes, place, (row["r"], row["low"], row["high"]), looks[row["metric"]])
            _name_rows(axes, [_short(row["metric"]) for row in own])
            axes.axvline(0, color="#777777", linewidth=0.8)
            _ceiling(axes, own[0]["ceiling"])
            axes.set_title(question, loc="left", fontweight="bold")
        panels[-1].set_xlabel("correlation (Pearson's r) with mean ratings")
        panels[0].set_xlim(-1, 1)


def forest_alt(rows: Sequence[Measured], name: str) -> str:
    """The forest plot in words: each question's ceiling, highest metric, and all with their r."""
    sentences = []
    for question in dict.fromkeys(row["question"] for row in rows):
        own = [row for row in rows if row["question"] == question]
        values = listing([f"{row['metric']} {signed(row['r'])}" for row in own])
        ceiling = plain(own[0]["ceiling"])
        sentences.append(f"{question}: {values}; ceiling {ceiling}.")
    return f"Forest plot of Pearson correlations with the mean ratings of {name}. " + " ".join(
        map(sentence, sentences)
    )


def preference_bars(rows: Sequence[Measured], target: Target) -> None:
    """How often the description wins over its caption, in per cent: all pairs, then by length quartile.

    rows: with ``metric, question, subset, value, low, high``; those of another question than
    ``caption`` are left out.
    """
    own = [row for row in rows if row["question"] == "caption"]
    subsets, names = _distinct(own, "subset"), _distinct(own, "metric")
    looks, wide = styles_of(names), 0.8 / len(names)
    with drawing(WIDTH, 3.6, target) as figure:
        axes = figure.add_subplot()
        for i, name in enumerate(names):
            by_subset = {row["subset"]: row for row in own if row["metric"] == name}
            places = [subsets.index(subset) + wide * (i + 0.5) - 0.4 for subset in by_subset]
            _bars(axes, places, list(by_subset.values()), wide, looks[name], _short(name))
        axes.axhline(50, color="#333333", linewidth=1, linestyle="--", label="chance")
        axes.set_xticks(range(len(subsets)), [_lengths(subset) for subset in subsets])
        axes.set(xlabel="description's length in characters", ylabel="description wins, %", ylim=(0, 100))
        _legend(figure, axes)


def preference_alt(rows: Sequence[Measured]) -> str:
    """The bars in words: each metric over all pairs, then from the shortest to the longest quartile."""
    own = [row for row in rows if row["question"] == "caption"]
    sentences = []
    for metric in dict.fromkeys(row["metric"] for row in own):
        values = [row for row in own if row["metric"] == metric]
        text = f"{metric} prefers the description in {percent(values[0]['value'])} of all pairs"
        if len(values) > 1:
            parts = listing([percent(row["value"]) for row in values[1:]])
            text += f", by length from the shortest to the longest quartile in {parts}"
        sentences.append(f"{text}.")
    return " ".join(["Bar chart with intervals.", *sentences])


def attack_shares(rows: Sequence[Measured], target: Target) -> None:
    """How often each hostile text scores over the description, in per cent, with intervals.

    rows: with ``metric, attack, value, low, high``. A value of None is shown as not defined.
    """
    attacks, names = _distinct(rows, "attack"), _distinct(rows, "metric")
    looks, step = styles_of(names), 0.7 / max(1, len(names))
    with drawing(WIDTH, 1.1 + (0.16 + 0.16 * len(names)) * len(attacks), target) as figure:
        axes = figure.add_subplot()
        for row in rows:
            shift = step * (names.index(row["metric"]) - (len(names) - 1) / 2)
            shares = tuple(None if row[key] is None else 100 * row[key] for key in ("value", "low", "high"))
            _estimate(axes, attacks.index(row["attack"]) + shift, shares, looks[row["metric"]])
        for name in names:
            axes.plot([], [], label=_short(name), color=looks[name].colour, marker=looks[name].marker)
        _name_rows(axes, attacks)
        axes.axvline(50, color="#333333", linewidth=1, linestyle="--")
        axes.set(xlabel="hostile text scores higher, %", xlim=(0, 100))
        _legend(figure, axes)


def attack_shares_alt(rows: Sequence[Measured]) -> str:
    """The shares in words: each metric's attacks from the most to the least successful."""
    sentences = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        own = [row for row in rows if row["metric"] == metric and row["value"] is not None]
        ranked = sorted(own, key=lambda row: -row["value"])
        shares = listing([f"{row['attack']} {percent(row['value'])}" for row in ranked])
        sentences.append(f"{metric}: {shares}.")
    kind = "Dot plot with intervals; hostile texts from the most to the least successful."
    return " ".join([kind, *sentences])


def reliability(curves: Sequence[Measured], target: Target) -> None:
    """Predicted probability against the observed share, a line for each model, with the diagonal.

    curves: with ``model`` and ``bins`` of ``predicted, observed, low, high``.
    """
    looks = styles_of([curve["model"] for curve in curves])
    with drawing(WIDTH, 4.2, target) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color="#777777", linewidth=1, linestyle=(0, (1, 1)), label="perfect")
        for curve in curves:
            style, bins = looks[curve["model"]], curve["bins"]
            x = [one["predicted"] for one in bins]
            y = [one["observed"] for one in bins]
            axes.plot(x, y, style.line, color=style.colour, marker=style.marker, label=_short(curve["model"]))
            for one in bins:
                if one["low"] is not None:
                    axes.plot([one["predicted"]] * 2, [one["low"], one["high"]], color=style.colour)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.set(xlabel="predicted probability of a description", ylabel="share that are descriptions")
        axes.grid(color="#DDDDDD", linewidth=0.6)
        _legend(figure, axes)


def reliability_alt(rows: Sequence[Measured]) -> str:
    """The curve in words: its ends, and the largest distance from the diagonal of each model."""
    sentences = []
    for row in rows:
        first, last = row["bins"][0], row["bins"][-1]
        worst = max(row["bins"], key=lambda one: abs(one["observed"] - one["predicted"]))
        sentences.append(
            f"{row['model']}: from {percent(first['observed'])} descriptions where it says "
            f"{percent(first['predicted'])} to {percent(last['observed'])} where it says "
            f"{percent(last['predicted'])}; farthest from the diagonal where it says "
            f"{percent(worst['predicted'])} and {percent(worst['observed'])} are."
        )
    return " ".join(["Reliability curve and the diagonal.", *sentences])


@contextmanager
def drawing(width: float, height: float, target: Target) -> Iterator[Any]:
    """A figure of this size in inches; it is written to ``target`` if the block ends without an error."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise DataError("plots need matplotlib: pip install 'descscore[report]'") from None
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)  # type: ignore[arg-type, unused-ignore]
        # Names in scripts that the font lacks come out as boxes; the tables have them right.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        name = target if isinstance(target, (str, Path)) else "stream.svg"
        kind = Path(name).suffix.removeprefix(".") or "svg"
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(target, format=kind, metadata=metadata, dpi=200)


_SETTINGS: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "hatch.linewidth": 0.8,
    "svg.hashsalt": "descscore",
    "svg.fonttype": "path",
    "text.parse_math": False,  # a model's name may hold dollar signs
}


def _estimate(axes: Any, place: float, numbers: tuple[float | None, ...], style: Style) -> None:
    """A marker with its interval at height ``place``."""
    value, low, high = numbers
    if value is None:
        axes.annotate("not defined", (0.5, place), xycoords=("axes fraction", "data"), va="center")
        return
    if low is not None and high is not None:
        axes.plot([low, high], [place, place], color=style.colour)
    axes.plot([value], [place], marker=style.marker, color=style.colour)


def _ceiling(axes: Any, value: float | None) -> None:
    if value is not None:
        axes.axvline(value, color="#333333", linewidth=1.2, linestyle="--")
        axes.annotate(
            f"ceiling {value:.2f}",
            (value, 1),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
        )


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    """Names at the left, the first at the top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)


def _bars(
    axes: Any, places: Sequence[float], rows: Sequence[Measured], width: float, style: Style, label: str
) -> None:
    heights = [100 * row["value"] for row in rows]
    axes.bar(
        places,
        heights,
        width,
        label=label,
        facecolor="white" if style.hatch else style.colour,
        edgecolor=style.colour,
        hatch=style.hatch,
    )
    for place, row in zip(places, rows, strict=True):
        if row["low"] is not None:
            axes.plot([place, place], [100 * row["low"], 100 * row["high"]], color="#000000", linewidth=1)


def _legend(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)


def _lengths(subset: str) -> str:
    """``3 to 37 characters`` as ``3-37`` (with a dash)."""
    return subset.removesuffix(" characters").replace(" to ", "\N{EN DASH}\n")


def _short(name: str) -> str:
    """A name that fits a plot: on one line, and of a long name only the end, where folders differ."""
    clean = shown(" ".join(name.split()))
    return clean if len(clean) <= _LONGEST_NAME else "\N{HORIZONTAL ELLIPSIS}" + clean[1 - _LONGEST_NAME :]


def _distinct(rows: Sequence[Measured], key: str) -> list[str]:
    if not rows:
        raise DataError("plot: no rows")
    return list(dict.fromkeys(row[key] for row in rows))
