"""Two drawings with texts, to try the page without a photo at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

_SIZE = (480, 360)


@dataclass(frozen=True)
class Example:
    """A drawing with a description, a caption, and other drafts of the description."""

    title: str
    draw: Callable[[], Image.Image]
    description: str
    caption: str
    drafts: tuple[str, ...]


def house() -> Image.Image:
    """A red house on a green meadow under a yellow sun."""
    image = Image.new("RGB", _SIZE, "#8ec9f0")
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 250, 480, 360), fill="#4f9a3d")
    pen.ellipse((370, 30, 440, 100), fill="#f7d117")
    pen.rectangle((130, 170, 330, 300), fill="#c0392b")
    pen.polygon([(110, 170), (230, 80), (350, 170)], fill="#5b4636")
    pen.rectangle((210, 220, 260, 300), fill="#3b2a1e")
    for left in (150, 280):
        pen.rectangle((left, 195, left + 35, 230), fill="#fdf6e3", outline="#3b2a1e", width=3)
    return image


def boat() -> Image.Image:
    """A white sailing boat with a brown hull on a blue sea."""
    image = Image.new("RGB", _SIZE, "#cfe8f7")
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 230, 480, 360), fill="#1f6fb2")
    pen.polygon([(140, 240), (350, 240), (310, 290), (180, 290)], fill="#7a4a21")
    pen.line((240, 60, 240, 240), fill="#3b2a1e", width=6)
    pen.polygon([(250, 70), (250, 220), (350, 220)], fill="#ffffff", outline="#888888")
    pen.polygon([(230, 90), (230, 220), (160, 220)], fill="#f4f4f4", outline="#888888")
    return image


EXAMPLES = {
    "house": Example(
        "a house",
        house,
        "A red house with a brown roof on a green meadow, a yellow sun in a blue sky.",
        "Where we spent every summer of our childhood",
        ("A house.", "A red house on a meadow.", "A picture of something nice"),
    ),
    "boat": Example(
        "a boat",
        boat,
        "A sailing boat with white sails and a brown hull on a blue sea.",
        "The Albatross, back from her first race",
        ("A boat on the sea.", "Three people play football in a park."),
    ),
}
