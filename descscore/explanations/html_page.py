"""An explanation as one self-contained web page: no script, nothing fetched, readable without colour."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from PIL import Image

from descscore.explanations.explanation import Explanation, OcclusionMap, PurposePlace, WordParts
from descscore.explanations.terminal import convergence_sentence, place_sentence, printable, strongest

# The figures of an explanation's page, as SVG with the same content in words.


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


_LONGEST_SIDE = 480
_LEVELS = 4


def to_html(found: Explanation, image: Image.Image, name: str) -> str:
    """The page. image: the explained RGB image, shown small; name: what it is called."""
    photo = _data_address(image)
    parts = [
        _scores(found),
        _image(photo, name),
        _text(found),
        _table(found),
        _purpose(found),
        _counterfactual(found),
        _map(found.occlusion, photo, image.size) if found.occlusion else "",
        _reading(found),
    ]
    style = files("descscore").joinpath("assets/page/explain.css").read_text(encoding="utf-8")
    title = f"Why this text scores {found.score.score:.3f}"
    body = "\n".join(part for part in parts if part)
    return _PAGE.format(title=title, policy=_POLICY, style=style, body=body)


_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


def show(text: str) -> str:
    """``text`` escaped, without control characters."""
    return escape(printable(text))


def _scores(found: Explanation) -> str:
    score = found.score
    rows = [
        ("Score", f"{score.score:.4f}", "2.5 times the cosine of image and text, at least 0"),
        ("Cosine", f"{score.cosine:+.4f}", "what the words' parts below add up to"),
        ("Base's score", f"{score.clip_score:.4f}", "the same score under the untuned model"),
    ]
    if score.description_probability is not None:
        probability = f"{score.description_probability:.3f}"
        rows.append(("Description probability", probability, "read from the model's purpose subspace"))
    if score.percentile is not None:
        percentile = f"{score.percentile:.0f} %"
        rows.append(("Percentile", percentile, "share of reference descriptions that score lower"))
    lines = "\n".join(
        f'<tr><th scope="row">{name}</th><td class="number">{value}</td><td>{meaning}</td></tr>'
        for name, value, meaning in rows
    )
    return _section("Scores", _tabulate(["Measure", "Value", "Meaning"], lines))


def _image(photo: str, name: str) -> str:
    return _section("Image", f'<p><img src="{photo}" alt="The scored image, {show(name)}"></p>')


def _text(found: Explanation) -> str:
    """The text itself, its words underlined by sign and size."""
    largest = max((abs(word.value) for word in found.words), default=0.0) or 1.0
    pieces, end = [], 0
    for word in found.words:
        pieces.append(show_gap(found.text[end : word.start]))
        pieces.append(f'<span class="{_look(word, largest)}">{show(word.text)}</span>')
        end = word.end
    up, down = strongest(found.words)
    raised, lowered = show(", ".join(up) or "none"), show(", ".join(down) or "none")
    return _section(
        "Text",
        f'<p class="text" dir="auto">{"".join(pieces)}</p>\n'
        "<p>Solid lines: words that raise the cosine. Dashed lines: words that lower it. "
        "Thicker is more. Struck through: not seen by the model. The table gives the numbers.</p>\n"
        f"<p>Raised most by: {raised}. Lowered most by: {lowered}.</p>",
    )


def show_gap(gap: str) -> str:
    """White space between words; a page shows any of it as one blank."""
    return " " if gap else ""


def _look(word: WordParts, largest: float) -> str:
    """The class of a word: which way it moved the cosine, and how much in four levels."""
    if not word.tokens:
        return "unseen"
    level = round(abs(word.value) / largest * _LEVELS)
    return f"{'up' if word.value > 0 else 'down'} level{level}" if level else "still"


_COLUMNS = (
    ("value", "Cosine", ".4f"),
    ("leave_one_out", "Cosine, word left out", ".4f"),
    ("through", "Through purpose", ".4f"),
    ("around", "Around purpose", ".4f"),
    ("purpose", "Purpose", ".3f"),
    ("leave_one_out_purpose", "Purpose, word left out", ".3f"),
)


def _table(found: Explanation) -> str:
    columns = [c for c in _COLUMNS if any(getattr(word, c[0]) is not None for word in found.words)]
    ranks = _ranks(found.words)
    names = ["Word", "Rank", *(name for _, name, _ in columns)]
    lines = []
    for word, rank in zip(found.words, ranks, strict=True):
        cells = "".join(
            f'<td class="number">{getattr(word, key):+{form}}</td>' if word.tokens else "<td>not seen</td>"
            for key, _, form in columns
        )
        place = rank if word.tokens else "not seen"
        lines.append(f'<tr><th scope="row"><bdi>{show(word.text)}</bdi></th><td>{place}</td>{cells}</tr>')
    sentences = [convergence_sentence("Cosine", found.convergence)]
    if found.purpose_convergence:
        sentences.append(convergence_sentence("Purpose", found.purpose_convergence))
    notes = "\n".join(f"<p>{show(sentence)}</p>" for sentence in sentences)
    wide = _wide("Parts by word", _tabulate(names, "\n".join(lines)))
    return _section("Parts by word", f"{wide}\n{notes}")


def _ranks(words: tuple[WordParts, ...]) -> list[int]:
    """1 for the word that raises the cosine most, counted over the words that the model sees."""
    order = sorted((i for i, word in enumerate(words) if word.tokens), key=lambda i: -words[i].value)
    ranks = {i: rank for rank, i in enumerate(order, start=1)}
    return [ranks.get(i, 0) for i in range(len(words))]


def _purpose(found: Explanation) -> str:
    if found.purpose is None:
        return ""
    sentence = f"<p>The text has {show(place_sentence(found.purpose))}.</p>"
    where = f"<p>Read after text block {found.purpose.block}, in {found.purpose.k} dimensions.</p>"
    return _section("Purpose", "\n".join([sentence, purpose_figure(found.purpose), where]))


def _counterfactual(found: Explanation) -> str:
    other = found.counterfactual
    if other is None:
        return ""
    known = ""
    if other.source_probability is not None:
        known = f" (probability {other.source_probability:.3f} of being a description)"
    return _section(
        "With another purpose",
        f'<p>With the purpose of “<span dir="auto">{show(other.source)}</span>”{known}, the text would score '
        f"{other.score:.4f}, cosine {other.cosine:+.4f} (change {other.change:+.4f}).</p>",
    )


def _map(where: OcclusionMap, photo: str, size: tuple[int, int]) -> str:
    columns = ["Part", *(f"Column {c + 1}" for c in range(len(where.values[0])))]
    lines = "\n".join(
        f'<tr><th scope="row">Row {r + 1}</th>'
        + "".join(f'<td class="number">{value:+.4f}</td>' for value in row)
        + "</tr>"
        for r, row in enumerate(where.values)
    )
    wide = _wide("Cosine lost by part of the image", _tabulate(columns, lines))
    note = f"<p>What the cosine loses when a part of the image is covered; {show(where.note)}.</p>"
    return _section("Where on the image", "\n".join([note, map_figure(where, photo, size), wide]))


def _reading(found: Explanation) -> str:
    return _section(
        "How to read this",
        "<p>Cosine: a word's part of the difference between the text's cosine with the image and that of a "
        "text without words, by integrated gradients. Through purpose: what of it flows through the subspace "
        "where the model keeps a text's purpose; around: the rest. Purpose: a word's part of the log-odds of "
        "being a description. Left out: what is lost when the word alone is taken away; it need not agree, "
        "since words act together.</p>\n"
        f'<p class="signature">{show(found.score.signature)}</p>',
    )


def _tabulate(columns: Sequence[str], lines: str) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>"


def _wide(name: str, table: str) -> str:
    """A table that may be wider than the screen, in a frame that the keyboard can scroll."""
    return f'<div class="wide" role="region" aria-label="{name}" tabindex="0">\n{table}\n</div>'


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{body}\n</section>"


def _data_address(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    stored = io.BytesIO()
    small.save(stored, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stored.getvalue()).decode("ascii")
