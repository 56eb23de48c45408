"""Pages from Jinja2 templates: one environment for all of them, and pictures inside a page.

A missing value is an error, not a blank. Values from outside are escaped, and their control characters shown.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from descscore.errors import shown
from descscore.records import share

ASSETS = Path(__file__).parent / "assets"
"""The folder with the templates of the package."""


def visible(value: Any) -> Any:
    """A value of a template; a text with its control characters shown (:func:`descscore.errors.shown`)."""
    return shown(value) if type(value) is str else value


def environment(
    folder: Path, finalize: Callable[[Any], Any] | None = visible, **settings: Any
) -> Environment:
    """The environment of the templates in a folder, with the filter ``share`` for per cents.

    Args:
        folder: The folder.
        finalize: What is done to each value before it is escaped; None leaves values as they are. A form
            needs that: it shows again exactly what a visitor has typed.
        settings: Other settings of Jinja2, such as ``autoescape=False`` for Markdown.
    """
    usual: dict[str, Any] = {
        "autoescape": True,
        "undefined": StrictUndefined,
        "trim_blocks": True,
        "lstrip_blocks": True,
    }
    templates = Environment(loader=FileSystemLoader(folder), finalize=finalize, **(usual | settings))
    templates.filters["share"] = share
    return templates


def data_address(data: bytes, kind: str) -> str:
    """Bytes as an address that holds them, so that a page needs no other file. kind: their media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def jpeg_address(image: Image.Image, side: int, quality: int) -> str:
    """An RGB image, made small, as a JPEG file in a data address.

    Args:
        image: The image. It becomes small itself: a copy of a large photo would take as much memory again.
        side: Longer edge in pixels, unless the image is smaller.
        quality: JPEG's quality, 1 to 95.
    """
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    image.info = {}  # Pillow would write a JPEG's comment, which may describe the image
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return data_address(buffer.getvalue(), "image/jpeg")
