"""Uses of images in OpenDocument text (ODT): frames with pictures, their title and description."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from descscore.auditing.archives import Archive
from descscore.auditing.office import Part, local_name, value, walk
from descscore.auditing.sources import Root
from descscore.auditing.uses import DocumentProblem, ImageUse, one_line

_PIXELS = {"in": 96.0, "cm": 96 / 2.54, "mm": 96 / 25.4, "pt": 96 / 72, "pc": 16.0, "px": 1.0}
_HELD = {"annotation", "note-citation", "title", "desc", "tracked-changes"}
"""Elements whose text is no part of the running text."""


def read_odt(archive: Archive, roots: tuple[Root, ...]) -> Iterator[ImageUse | DocumentProblem]:
    """The uses of images in an OpenDocument text."""
    _mark_encrypted(archive)
    part = Part(archive, "content.xml", archive.path, _language(archive), roots)
    paragraphs = 0
    for event, name, element in walk(part.root):
        if name in ("p", "h"):
            is_inside = next(element.iterancestors("{*}frame"), None) is not None
            paragraphs += event == "start" and not is_inside
            part.text.add(" ")
        if name == "frame" and event == "start":
            _record(part, element, f"paragraph {max(paragraphs, 1)}")
        part.text.add(_text_at(event, element))
    yield from part.uses()


def _mark_encrypted(archive: Archive) -> None:
    manifest = "META-INF/manifest.xml"
    if manifest not in archive:
        return
    for entry in archive.xml(manifest).iter("{*}file-entry"):
        if next(entry.iter("{*}encryption-data"), None) is not None:
            archive.unreadable[value(entry, "full-path")] = "is encrypted"


def _language(archive: Archive) -> str | None:
    """The language of the document's default style."""
    if "styles.xml" not in archive:
        return None
    for style in archive.xml("styles.xml").iter("{*}default-style"):
        for properties in style.iter("{*}text-properties"):
            language, country = value(properties, "language"), value(properties, "country")
            if language and language != "none":
                return f"{language}-{country}" if country and country != "none" else language
    return None


def _text_at(event: str, element: Any) -> str:
    """The text that follows a tag, if it belongs to a paragraph and not to notes on it; else ''."""
    text = element.text if event == "start" else element.tail
    owner = element if event == "start" else element.getparent()
    if not text or owner is None:
        return ""
    names = {local_name(owner), *(local_name(one) for one in owner.iterancestors())}
    return str(text) if names & {"p", "h"} and not names & _HELD else ""


def _record(part: Part, frame: Any, place: str) -> None:
    images = list(frame.iterfind("{*}image"))
    if not images:
        return
    # An empty element is no text, since the mark of decoration is another.
    texts = {name: text for name in ("title", "desc") if (text := frame.findtext(f"{{*}}{name}"))}
    named = next((name for name, text in texts.items() if one_line(text)), next(iter(texts), None))
    alt = texts[named] if named else None
    sources = [value(image, "href") for image in images]
    # A drawing and the same as a picture: the picture can be looked at.
    sources.sort(key=lambda source: source.lower().endswith((".svg", ".svm", ".emf", ".wmf")))
    picture = part.record(
        None,
        place,
        [source.removeprefix("./") for source in sources],
        caption=_text_around(part, frame, "text-box") or None,
        only_content_of="link" if _text_around(part, frame, "a") == "" else None,
        width=_pixels(value(frame, "width")),
        height=_pixels(value(frame, "height")),
    )
    decorative = value(frame, "decorative") == "true"
    name = None if alt is None else one_line(alt)
    picture.use = replace(
        picture.use, name=name, name_from=named, alt=alt, decorative=decorative, hidden=decorative
    )


def _text_around(part: Part, frame: Any, name: str) -> str | None:
    """The text of the nearest element of that name around a frame, such as a caption's; None without one."""
    around = next(frame.iterancestors(f"{{*}}{name}"), None)
    if around is None:
        return None
    if around not in part.texts:
        texts = (_text_at(event, node) for event, _, node in walk(around) if node is not around)
        part.texts[around] = one_line(" ".join(texts))
    return part.texts[around]


def _pixels(length: str) -> int | None:
    match = re.fullmatch(r"(\d{1,6}(?:\.\d*)?)(in|cm|mm|pt|pc|px)", length)
    return round(float(match[1]) * _PIXELS[match[2]]) if match else None
