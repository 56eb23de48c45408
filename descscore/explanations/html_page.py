"""An explanation as one self-contained web page: no script, nothing fetched, readable without colour."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from PIL import Image

from descscore.explanations.explanation import Explanation, OcclusionMap, WordParts
from descscore.explanations.plots import map_figure, purpose_figure
from descscore.explanations.terminal import convergence_sentence, place_sentence, printable, strongest

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
