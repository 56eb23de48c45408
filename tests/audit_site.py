"""A made site for audits: pages with right texts, and defects of each kind in a tenth of the images."""

from __future__ import annotations

import html
import random
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

COLOURS = {
    "red": (200, 20, 20),
    "green": (20, 150, 30),
    "blue": (20, 30, 200),
    "yellow": (230, 220, 30),
    "black": (5, 5, 5),
    "white": (250, 250, 250),
    "grey": (128, 128, 128),
    "orange": (240, 140, 20),
}

DEFECTS = {
    "T01": "",
    "T02": 'alt=""',
    "T03": 'alt="IMG_{n:04}.jpg"',
    "T04": 'alt="Image {n}"',
    "T05": 'alt="Image of {text}"',
    "T06": 'alt=" "',
    "T07": 'alt="{text}"',
    "T08": 'alt="{other}"',
    "T09": 'alt="field, {n}, colour, square, sky"',
    "T10": 'alt="{text} {long}"',
    "F01": 'alt="{text}"',
    "F02": 'alt="{text}"',
}
"""How each defect is written, by the code of its rule."""


@dataclass
class Site:
    """A folder of pages, and what is wrong in it."""

    folder: Path
    pages: int = 0
    images: int = 0
    planted: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    """The codes planted in an image, by the page's name and the image's id."""


def text_of(left: str, right: str, n: int) -> str:
    """A right text of the picture that is one colour at its left and another at its right."""
    return f"a field, {left} at its left and {right} at its right, like flag number {n}."


def make_site(folder: Path, pages: int, pictures: int = 40, a_page: int = 5) -> Site:
    """Pages with ``a_page`` images each; every tenth image has a defect, of each kind in turn."""
    site, chance = Site(folder), random.Random(0)
    (folder / "img").mkdir(parents=True)
    names = []
    for number in range(pictures):
        left, right = chance.sample(sorted(COLOURS), 2)
        picture = Image.new("RGB", (60, 40), COLOURS[left])
        picture.paste(COLOURS[right], (30, 0, 60, 40))
        picture.putpixel((0, 0), (number % 256, number // 256, 0))  # so that no two files are alike
        name = f"picture {number}.png"
        picture.save(folder / "img" / name)
        names.append((name, left, right))
    (folder / "img" / "broken.png").write_bytes((folder / "img" / names[0][0]).read_bytes()[:60])
    kinds = list(DEFECTS)
    for page in range(pages):
        body = []
        shown = chance.sample(names, a_page)
        for place, (name, left, right) in enumerate(shown):
            n = site.images
            text = text_of(left, right, n)
            text = text[0].upper() + text[1:]
            code = kinds[n // 10 % len(kinds)] if n % 10 == 4 else None
            if code:
                site.planted.setdefault((f"page{page:04}.html", f"i{n}"), set()).add(code)
            body.append(_figure(n, name, text, code, body))
            if code == "T08":  # the text of the image before stands here too
                site.planted.setdefault((f"page{page:04}.html", f"i{n - 1}"), set()).add(code)
            site.images += 1
            assert place or code != "T08"
        words = "".join(f"<p>Paragraph {page} tells about flags.</p>\n{part}\n" for part in body)
        name = f"page{page:04}.html"
        (folder / name).write_text(
            f"<!DOCTYPE html><html lang='en'><title>{page}</title><body><h1>Flags</h1>\n{words}</body></html>"
        )
        site.pages += 1
    return site


def _figure(n: int, name: str, text: str, code: str | None, before: list[str]) -> str:
    """One image with its caption; ``code`` says what is wrong with it."""
    other = html.unescape(before[-1].partition('alt="')[2].partition('"')[0]) if code == "T08" else ""
    alt = f'alt="{html.escape(text)}"'
    if code:
        long = "It goes on and on without a stop " * 20
        alt = DEFECTS[code].format(
            n=n, text=text[:-1].lower() if code == "T05" else text, other=other, long=long
        )
    source = {"F01": "img/gone.png", "F02": "img/broken.png"}.get(
        code or "", f"img/{name.replace(' ', '%20')}"
    )
    image = f'<img id="i{n}" src="{source}" {alt}>'
    if code == "T02":
        return f'<p><a href="next.html">{image}</a></p>'
    caption = text if code == "T07" else f"Drawn in {1800 + n} by our club."
    return f"<figure>\n{image}\n<figcaption>{html.escape(caption)}</figcaption></figure>"


def found(site: Site, records: list) -> dict[tuple[str, str], set[str]]:  # type: ignore[type-arg]
    """The codes that an audit found, as :attr:`Site.planted` holds them."""
    codes: dict[tuple[str, str], set[str]] = {}
    for record in records:
        page = Path(record.use.document)
        line = page.read_text().splitlines()[record.use.line - 1]
        identity = line.partition('id="')[2].partition('"')[0]
        if record.findings:
            codes.setdefault((page.name, identity), set()).update(one.code for one in record.findings)
    return codes
