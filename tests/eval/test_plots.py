"""The report's plots: what is drawn, in SVG and PNG, the same each time, and not by colour alone."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.figure import Figure
from PIL import Image

from descscore.errors import DataError
from descscore.eval.report import plots

Row = dict[str, Any]
NAMES = ("base", "$x_1^{", "<b>&", "a/very/long/folder/name/of/a/model", "Ünï ☃ 漢")


def correlations() -> list[Row]:
    rows = [
        {"metric": name, "question": question, "r": 0.1 * i, "low": 0.1 * i - 0.2, "high": 0.1 * i + 0.2}
        for question in ("overall", "relevance")
        for i, name in enumerate(NAMES)
    ]
    rows[0] |= {"r": None, "low": None, "high": None}
    rows[1] |= {"low": None, "high": None}
    return [row | {"ceiling": None if row["question"] == "overall" else 0.7} for row in rows]


def shares() -> list[Row]:
    subsets = ("all", "3 to 37 characters", "38 to 90 characters")
    return [
        {"metric": name, "question": question, "subset": subset, "value": 0.5, "low": 0.4, "high": 0.6}
        for name in NAMES
        for question, subset in (*(("caption", subset) for subset in subsets), ("other", "all"))
    ]


def attacks() -> list[Row]:
    rows = [
        {"metric": name, "attack": attack, "value": 0.2, "low": 0.1, "high": 0.3}
        for name in NAMES[:2]
        for attack in ("image", "file name")
    ]
    rows[0] |= {"value": None, "low": None, "high": None}
    return rows


def curves() -> list[Row]:
    bins = [
        {"predicted": 0.1, "observed": 0.2, "low": 0.1, "high": 0.3},
        {"predicted": 0.9, "observed": 0.8, "low": None, "high": None},
    ]
    return [{"model": name, "bins": bins} for name in NAMES[:3]]


def points() -> Row:
    found = [{"cosine": i / 10, "overall": i % 5 + 1.0, "relevance": None} for i in range(9)]
    return {"model": NAMES[1], "points": found, "lines": {"overall": {"slope": 1, "intercept": 2}}}


PLOTS = {
    "forest": lambda target: plots.forest(correlations(), target),
    "bars": lambda target: plots.preference_bars(shares(), target),
    "attacks": lambda target: plots.attack_shares(attacks(), target),
    "reliability": lambda target: plots.reliability(curves(), target),
    "scatter": lambda target: plots.scatter(points(), "overall", target),
}


@pytest.mark.parametrize("name", PLOTS)
def test_svg_and_png_are_written_and_always_the_same(name: str, tmp_path: Path) -> None:
    for suffix in ("svg", "png"):
        PLOTS[name](tmp_path / f"a.{suffix}")
        with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.hashsalt": None}):
            PLOTS[name](str(tmp_path / f"b.{suffix}"))
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    stream = io.BytesIO()
    PLOTS[name](stream)
    assert stream.getvalue() == (tmp_path / "a.svg").read_bytes()
    svg = stream.getvalue().decode()
    assert not re.search(r'href="(?!#)|<script|url\((?!#)', svg)
    with Image.open(tmp_path / "a.png") as image:
        low, high = image.convert("L").getextrema()
        assert (low, high) < (100, 256)


def drawn(monkeypatch: pytest.MonkeyPatch, name: str) -> Figure:
    """The figure as matplotlib holds it when it is saved."""
    kept: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: kept.append(self))
    PLOTS[name](io.BytesIO())
    return kept[0]


def test_forest_draws_each_estimate_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(monkeypatch, "forest")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["overall", "relevance"]
    axes = figure.axes[1]
    markers = [line for line in axes.lines if line.get_marker() not in ("None", None, "")]
    assert [float(line.get_xdata()[0]) for line in markers] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert [float(line.get_ydata()[0]) for line in markers] == [0, 1, 2, 3, 4]
    ends = [tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]
    assert (pytest.approx(-0.1), pytest.approx(0.3)) in ends
    assert [text.get_text() for text in axes.texts] == ["ceiling 0.70"]
    first = figure.axes[0]
    assert [text.get_text() for text in first.texts] == ["not defined"]
    labels = [label.get_text() for label in first.get_yticklabels()]
    assert labels[:3] == ["base", "$x_1^{", "<b>&"]
    assert labels[3] == "\N{HORIZONTAL ELLIPSIS}" + NAMES[3][-21:]


def test_bars_are_the_shares_in_per_cent(monkeypatch: pytest.MonkeyPatch) -> None:
    axes = drawn(monkeypatch, "bars").axes[0]
    assert {bar.get_height() for bar in axes.patches} == {50}
    assert len(axes.patches) == len(NAMES) * 3  # the wins over other images stand in the table
    hatches = [container[0].get_hatch() for container in axes.containers]
    assert len(set(hatches)) == len(NAMES)


def test_no_two_styles_look_alike_without_colour() -> None:
    assert len({style.marker for style in plots.STYLES}) == len(plots.STYLES)
    assert len({style.hatch for style in plots.STYLES}) == len(plots.STYLES)


@pytest.mark.parametrize("style", plots.STYLES, ids=lambda style: style.colour)
def test_colours_stand_out_from_white(style: plots.Style) -> None:
    """WCAG 2.2, 1.4.11: at least 3 : 1 for parts of a graphic."""
    channels = [int(style.colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    assert 1.05 / (luminance + 0.05) >= 3.5


def test_nothing_to_draw_is_an_error() -> None:
    for draw in (plots.forest, plots.preference_bars, plots.attack_shares):
        with pytest.raises(DataError, match="no rows"):
            draw([], io.BytesIO())
    with pytest.raises(DataError, match="no ratings of 'relevance'"):
        plots.scatter(points(), "relevance", io.BytesIO())
