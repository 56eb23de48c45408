"""Sites for audits: pages of made or real figures with right texts, and defects in a tenth of the images."""

from __future__ import annotations

import html
import io
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
from PIL import Image

from descscore.demo import PHOTOS

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
"""How each defect is written, by the code of its rule. P01 and P02 are planted by texts of other images.
T11, T12 and F03 are not planted: ``test_rules.py`` has them."""


@dataclass(frozen=True)
class Figure:
    """An image with a right text and a caption."""

    name: str
    data: bytes
    text: str
    caption: str


def made_figures(count: int = 40) -> list[Figure]:
    """Pictures of two colours with texts that say so."""
    chance, figures = random.Random(0), []
    for number in range(count):
        left, right = chance.sample(sorted(COLOURS), 2)
        picture = Image.new("RGB", (60, 40), COLOURS[left])
        picture.paste(COLOURS[right], (30, 0, 60, 40))
        picture.putpixel((0, 0), (number % 256, number // 256, 0))  # so that no two files are alike
        file = io.BytesIO()
        picture.save(file, "PNG")
        text = f"A field, {left} at its left and {right} at its right, like flag number {number}."
        caption = f"Drawn in {1800 + number} by our club."
        figures.append(Figure(f"picture {number}.png", file.getvalue(), text, caption))
    return figures


def demo_figures() -> list[Figure]:
    """The photos of the demonstration."""
    return [Figure(one.name, one.find().read_bytes(), one.description, one.caption) for one in PHOTOS]


def real_figures(data: Path) -> list[Figure]:
    """Photos of Flickr8k's ``val`` and figures of OpenStax's ``val``, which set no threshold but Flickr8k's.

    Of OpenStax's 382 texts, 190 begin with "An image of" and the like, and 21 hold over 250 words, or over 80
    in one part. T05 and T10 are about them. So these beginnings are cut, and only the first sentences kept.
    """
    figures = []
    for file in ("flickr8k/val.parquet", "openstax/val.parquet"):
        for number, row in enumerate(pq.read_table(data / file).to_pylist()):
            text = re.sub(r" ([.,])", r"\1", row.get("description") or row["captions"][0])
            text = _OPENING.sub("", " ".join(text.split()))
            caption = row.get("caption") or f"Taken in {1900 + number} by our club."
            name = f"{Path(file).parts[0]} {number}.jpg"
            text = " ".join(re.split(r"(?<=[.!?]) (?=[A-Z])", text[:1].upper() + text[1:])[:3])
            if len(text.split()) <= 80:
                figures.append(Figure(name, row["image"]["bytes"], text, " ".join(caption.split())))
    return figures


_OPENING = re.compile(
    r"(?i)^(?:an?|the|this)? ?(?:image|photo|photograph|picture|graphic)s? "
    r"(?:of|shows?|showing|displays?|depicts?) "
)


@dataclass
class Site:
    """A folder of pages, and what is wrong in it."""

    folder: Path
    images: int = 0
    planted: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    """The codes planted in an image, by the page's name and the image's id."""

    def plant(self, page: int, image: int, code: str) -> None:
        self.planted.setdefault((f"page{page:04}.html", f"i{image}"), set()).add(code)


def make_site(
    folder: Path,
    pages: int,
    figures: Sequence[Figure] = (),
    a_page: int = 5,
    kinds: Sequence[str] = tuple(DEFECTS),
) -> Site:
    """Pages with ``a_page`` figures each; every tenth image has a defect, of each of the kinds in turn."""
    site, chance, figures = Site(folder), random.Random(0), figures or made_figures()
    (folder / "img").mkdir(parents=True)
    for one in figures:
        (folder / "img" / one.name).write_bytes(one.data)
    (folder / "img" / "broken.png").write_bytes(made_figures(1)[0].data[:60])
    for page in range(pages):
        *shown, other = chance.sample(figures, a_page + 1)
        texts, body = [one.text for one in shown], []
        for place, one in enumerate(shown):
            n = site.images
            code = kinds[n // 10 % len(kinds)] if n % 10 == 4 and place else None
            if code:
                site.plant(page, n, code)
            if code in ("T08", "P02"):  # the text of the image before stands here
                site.plant(page, n - 1, code)
            if code == "P02":
                texts[place - 1 : place + 1] = texts[place], texts[place - 1]
                body[-1] = _figure(n - 1, shown[place - 1], texts[place - 1])
            before = texts[place - 1] if code == "T08" else other.text
            body.append(_figure(n, one, texts[place], code, before))
            site.images += 1
        words = "".join(f"<p>Paragraph {page} tells about our year.</p>\n{part}\n" for part in body)
        head = f"<!DOCTYPE html><html lang='en'><title>{page}</title><body><h1>Our year</h1>"
        (folder / f"page{page:04}.html").write_text(f"{head}\n{words}</body></html>")
    return site


def _figure(n: int, shown: Figure, text: str, code: str | None = None, other: str = "") -> str:
    """One image with its caption. code: what is wrong with it. other: the text of another image."""
    template = DEFECTS.get(code or "", 'alt="{other}"' if code == "P01" else 'alt="{text}"')
    alt = template.format(
        n=n,
        text=html.escape(text[:1].lower() + text[1:-1] if code == "T05" else text),
        other=html.escape(other),
        long="It goes on and on without a stop " * 20,
    )
    source = {"F01": "img/gone.png", "F02": "img/broken.png"}.get(code or "", f"img/{quote(shown.name)}")
    image = f'<img id="i{n}" src="{source}" {alt}>'
    if code == "T02":
        return f'<p><a href="next.html">{image}</a></p>'
    caption = text if code == "T07" else shown.caption
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
