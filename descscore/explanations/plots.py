"""The figures of an explanation's page, as SVG with the same content in words."""

from __future__ import annotations

from collections.abc import Sequence

from descscore.explanations.explanation import OcclusionMap, PurposePlace

_WIDTH, _LEFT, _RIGHT = 640, 120, 24
_BAND = 22


def purpose_figure(place: PurposePlace) -> str:
    """The text's log-odds on a scale, with reference descriptions and captions where there are any."""
    rows = [(n, q) for n, q in (("Captions", place.captions), ("Descriptions", place.descriptions)) if q]
    ends = [place.log_odds, 0.0, *(q for _, row in rows for q in (row[0], row[-1]))]
    low, high = min(ends), max(ends)

    def at(value: float) -> float:
        return _LEFT + (value - low) / max(high - low, 1e-9) * (_WIDTH - _LEFT - _RIGHT)

    height = 40 * (len(rows) + 1) + 34
    shapes = []
    for i, (name, quantiles) in enumerate(rows):
        shapes += _box(name, [at(value) for value in _five(quantiles)], 40 * i + 24)
    y = 40 * len(rows) + 24
    shapes.append(f'<text x="8" y="{y + 5}">This text</text>')
    shapes.append(f'<path class="mark" d="M{at(place.log_odds):.1f} {y - 9}l9 9l-9 9l-9 -9z"/>')
    axis = y + 22
    shapes.append(f'<path class="axis" d="M{_LEFT} {axis}H{_WIDTH - _RIGHT}"/>')
    shapes.append(f'<path class="zero" d="M{at(0.0):.1f} 4V{axis}"/>')
    for value, anchor in ((low, "start"), (high, "end")):
        shapes.append(f'<text x="{at(value):.1f}" y="{axis + 14}" text-anchor="{anchor}">{value:+.1f}</text>')
    body = "\n".join(shapes)
    caption = (
        "Log-odds of being a description. The diamond is this text; the dashed line is even odds. "
        "Thin line: all reference texts; box: their middle half; bar: their median."
    )
    if not rows:
        caption = caption.partition(" Thin")[0]
    head = f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{_in_words(place)}">'
    return f"<figure>\n{head}\n{body}\n</svg>\n<figcaption>{caption}</figcaption>\n</figure>"


def _in_words(place: PurposePlace) -> str:
    parts = [f"This text at {place.log_odds:+.2f}"]
    for name, quantiles in (("captions", place.captions), ("descriptions", place.descriptions)):
        if quantiles:
            low, quarter, median, three, high = _five(quantiles)
            parts.append(
                f"reference {name} from {low:+.2f} to {high:+.2f}, "
                f"middle half {quarter:+.2f} to {three:+.2f}, median {median:+.2f}"
            )
    return "Log-odds of being a description. " + "; ".join(parts)


def _five(quantiles: Sequence[float]) -> list[float]:
    """Least, lower quartile, median, upper quartile, greatest."""
    return [quantiles[round(q * (len(quantiles) - 1))] for q in (0, 0.25, 0.5, 0.75, 1)]


def _box(name: str, five: Sequence[float], y: int) -> list[str]:
    least, quarter, median, three, greatest = five
    top, wide = y - _BAND // 2, max(three - quarter, 1)
    return [
        f'<text x="8" y="{y + 5}">{name}</text>',
        f'<path class="whisker" d="M{least:.1f} {y}H{greatest:.1f}"/>',
        f'<rect class="box" x="{quarter:.1f}" y="{top}" width="{wide:.1f}" height="{_BAND}"/>',
        f'<path class="median" d="M{median:.1f} {top}v{_BAND}"/>',
    ]


def map_figure(where: OcclusionMap, photo: str, size: tuple[int, int]) -> str:
    """The image under a grid; the losses stand in the cells as numbers in thousandths."""
    width, height = 640.0, 640.0 * size[1] / size[0]
    left, top = where.box[0] * width, where.box[1] * height
    wide = (where.box[2] - where.box[0]) * width / len(where.values[0])
    high = (where.box[3] - where.box[1]) * height / len(where.values)
    largest = max(abs(value) for row in where.values for value in row) or 1.0
    cells = [
        _cell(value, largest, (left + c * wide, top + r * high, wide, high))
        for r, row in enumerate(where.values)
        for c, value in enumerate(row)
    ]
    body = "\n".join(cells)
    # Where the model pads, the grid reaches beyond the image on both sides alike.
    x, y = min(left, 0), min(top, 0)
    frame = f"{x:.0f} {y:.0f} {width - 2 * x:.0f} {height - 2 * y:.0f}"
    return (
        f'<figure>\n<svg viewBox="{frame}" role="img" aria-label="{_strongest_cell(where)}">\n'
        f'<image href="{photo}" width="{width:.0f}" height="{height:.0f}"/>\n{body}\n</svg>\n'
        "<figcaption>Thousandths of the cosine lost when a part is covered; solid frames: lost, "
        "dashed: gained.</figcaption>\n</figure>"
    )


def _cell(value: float, largest: float, box: tuple[float, float, float, float]) -> str:
    x, y, width, height = box
    kind = "lost" if value > 0 else "gained"
    stroke = 1 + 4 * abs(value) / largest
    inset = stroke / 2
    return (
        f'<rect class="{kind}" x="{x + inset:.1f}" y="{y + inset:.1f}" width="{width - stroke:.1f}" '
        f'height="{height - stroke:.1f}" stroke-width="{stroke:.1f}"/>'
        f'<text class="cell" x="{x + width / 2:.1f}" y="{y + height / 2 + 5:.1f}" '
        f'text-anchor="middle">{1000 * value:+.0f}</text>'
    )


def _strongest_cell(where: OcclusionMap) -> str:
    value, row, column = max(
        (value, r + 1, c + 1) for r, line in enumerate(where.values) for c, value in enumerate(line)
    )
    return (
        f"The image in {len(where.values)} rows and {len(where.values[0])} columns. The cosine loses most, "
        f"{value:+.4f}, in row {row}, column {column}. All numbers stand in the table below."
    )
