"""Training curves as a PNG, drawn from a run's history."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

PANELS = (("loss", "loss"), ("preference", "preference accuracy"), ("interchange", "interchange accuracy"))


def draw_curves(history: Sequence[dict[str, Any]], path: Path) -> None:
    """One panel for loss, preference and interchange accuracy: training solid, validation dashed.

    Raises :class:`ImportError` where matplotlib is missing.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.5), layout="constrained")
    for axis, (name, title) in zip(figure.subplots(1, 3), PANELS, strict=True):
        for part, style in (("train", "-o"), ("validation", "--s")):
            points = [(line["step"], line[f"{part}_{name}"]) for line in history if f"{part}_{name}" in line]
            if points:
                axis.plot(*zip(*points, strict=True), style, markersize=3, label=part)
        axis.set_title(title)
        axis.set_xlabel("step")
        if axis.lines:
            axis.legend()
    figure.savefig(path, dpi=120)
