"""Uses of images in Word (DOCX) and PowerPoint (PPTX): pictures, charts and SmartArt with their alt text."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from lxml import etree

from descscore.auditing.archives import Archive
from descscore.auditing.sources import Root, Sources
from descscore.auditing.uses import (
    INLINE_SVG,
    MISSING,
    OUTSIDE,
    DocumentProblem,
    ImageUse,
    Located,
    PendingUse,
    RunningText,
    one_line,
)
from descscore.errors import DataError

_EMU = 9525
"""Units of Office in a CSS pixel."""


@dataclass
class Part:
    """A part of a document that is read: the body, a header, a slide."""

    archive: Archive
    name: str
    """The member that holds it."""
    page: str
    language: str | None
    roots: tuple[Root, ...]
    text: RunningText = field(default_factory=RunningText)
    pending: list[PendingUse] = field(default_factory=list)
    texts: dict[Any, str] = field(default_factory=dict)
    """Texts of elements that are asked for again and again, such as those of a box around many pictures."""
    full_links: dict[Any, bool] = field(default_factory=dict)
    """Whether each link around a picture holds a text or a further picture."""

    def __post_init__(self) -> None:
        self.root = self.archive.xml(self.name)
        self._relations = self.archive.relations(self.name)
        self._linked = {one.target for one in self._relations.values() if one.is_outside}
        self._sources = Sources(self.archive, posixpath.dirname(self.name), self.roots)

    def uses(self) -> Iterator[ImageUse]:
        """The finished records. An image is read when its use is taken."""
        for one in self.pending:
            yield one.finished(one.located or self._locate(one.use.source), self.text)

    def target(self, relation: str | None) -> str:
        """Where a relation leads, as written; '' for none."""
        found = self._relations.get(relation or "")
        return found.target if found else ""

    def _locate(self, source: str) -> Located:
        if not source:
            return Located(None, MISSING, "the document names no file for it")
        if source in self._linked and not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|//", source):
            return Located(None, OUTSIDE, f"{source[:200]} is a linked file, which is not in the document")
        return self._sources.locate(source)

    def record(
        self, properties: Any, place: str, sources: list[str], drawing: str = "", **known: Any
    ) -> PendingUse:
        """Keep a use.

        Args:
            properties: The element with ``descr`` and ``title`` (``docPr``, ``cNvPr``), or None.
            place: As in :class:`descscore.auditing.uses.ImageUse`.
            sources: Where its pictures lie, as written.
            drawing: What it is, where it is no picture in a file.
            known: Further fields of the use; ``name`` is used where the properties give none.
        """
        # An empty text is none: Office writes it where a text was deleted, and marks decoration otherwise.
        values = {} if properties is None else {key: text for key, text in properties.attrib.items() if text}
        name, alt = known.pop("name", None) or None, values.get("descr")
        if name is not None and not (alt or "").strip():
            alt = name
        title = values.get("title")
        spoken = "descr" if alt is not None and (alt.strip() or not (title or "").strip()) else "title"
        name = alt if spoken == "descr" else title
        decorative = properties is not None and any(
            mark.get("val", "1") in ("1", "true") for mark in properties.iter("{*}decorative")
        )
        unseen = values.get("hidden") in ("1", "true")
        is_link = properties is not None and next(properties.iter("{*}hlinkClick"), None) is not None
        control = "link" if is_link and not unseen else None
        known = {"language": self.language, "only_content_of": control} | known
        use = ImageUse(
            document=self.archive.path,
            place=place,
            source=sources[0] if sources else "",
            candidates=tuple(dict.fromkeys(sources[1:])),
            name=None if name is None else one_line(name),
            name_from=None if name is None else spoken,
            alt=alt,
            hidden=decorative or unseen,
            decorative=decorative,
            page=self.page,
            element="picture",
            **known,
        )
        located = Located(None, INLINE_SVG, f"it is {drawing}, which is not rendered") if drawing else None
        self.pending.append(PendingUse(use, self.text.length, located))
        return self.pending[-1]

    def embedded(self, element: Any) -> list[str]:
        """The sources of the pictures in an element: the picture itself, and not its drawing in SVG."""
        blips = [*element.iter("{*}blip"), *element.iter("{*}imagedata")]
        relations = [_any(blip, "embed", "link", "id", "href") for blip in blips]
        return [target for target in map(self.target, relations) if target]


def _any(element: Any, *names: str) -> str | None:
    """The first attribute with one of the local names in the namespace of relations."""
    for name in names:
        for key, value in element.attrib.items():
            if key.endswith(f"/relationships}}{name}"):
                return str(value)
    return None


def _size(extent: Any) -> dict[str, int | None]:
    sides = {} if extent is None else {"width": extent.get("cx", ""), "height": extent.get("cy", "")}
    return {side: int(n) // _EMU if re.fullmatch(r"\d{1,12}", n) else None for side, n in sides.items()}


def _drawing(element: Any) -> str:
    """What a graphic without a picture is; '' for shapes, which are not images."""
    for data in element.iter("{*}graphicData"):
        kind = data.get("uri", "").rpartition("/")[2]
        if kind in ("chart", "chartex"):
            return "a chart"
        if kind == "diagram":
            return "SmartArt"
    return ""


_NOT_SHOWN = ("Fallback", "del", "moveFrom", "tracked-changes")
"""Copies for old programs, and what has been deleted while changes were recorded."""


def local_name(element: Any) -> str:
    """An element's name without its namespace; '' for comments and the like."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def walk(root: Any) -> Iterator[tuple[str, str, Any]]:
    """Events ``start`` and ``end``, local names and elements of what a reader sees below ``root``."""
    walker = etree.iterwalk(root, events=("start", "end"))
    for event, element in walker:
        name = local_name(element)
        if event == "start" and name in _NOT_SHOWN:
            walker.skip_subtree()
        elif name:
            yield event, name, element


def read_docx(archive: Archive, roots: tuple[Root, ...]) -> Iterator[ImageUse | DocumentProblem]:
    """The uses of images in a Word document: its body, then notes, headers and footers."""
    main = _main_part(archive, "word/document.xml")
    folder = posixpath.dirname(main)
    captions, language = _word_styles(archive, posixpath.join(folder, "styles.xml"))
    kinds = ("footnotes", "endnotes", "header", "footer")
    related = archive.relations(main).values()
    others = [one.target for kind in kinds for one in related if one.kind == kind and not one.is_outside]
    for target in (f"/{main}", *others):
        name = _member(folder, target)
        try:
            part = Part(archive, name, archive.path, language, roots)
            _read_word(part, captions, "" if name == main else f"{posixpath.basename(name)}, ")
            yield from part.uses()
        except DataError as error:
            if name == main:
                raise
            yield DocumentProblem(archive.path, str(error))


def _member(folder: str, target: str) -> str:
    """The member at the target of a relation."""
    return posixpath.normpath(posixpath.join("/", folder, target)).lstrip("/")


def _main_part(archive: Archive, usual: str) -> str:
    mains = (one.target for one in archive.relations("").values() if one.kind == "officeDocument")
    return next(mains, usual).lstrip("/")


def _word_styles(archive: Archive, name: str) -> tuple[set[str], str | None]:
    """Ids of the paragraph styles of captions, and the language of the document."""
    if name not in archive:
        return {"Caption"}, None
    root = archive.xml(name)
    captions = {
        value(style, "styleId")
        for style in root.iter("{*}style")
        if any(value(one, "val").lower() == "caption" for one in style.iter("{*}name"))
    }
    defaults = next(root.iter("{*}docDefaults"), root)
    language = next((value(one, "val") for one in defaults.iter("{*}lang")), "")
    return captions | {"Caption"}, language or None


def value(element: Any, name: str) -> str:
    """An attribute by its local name; '' without it."""
    return next((str(v) for key, v in element.attrib.items() if key.rpartition("}")[2] == name), "")


def _read_word(part: Part, captions: set[str], prefix: str) -> None:
    texts: dict[int, list[str]] = {}
    pictures: list[tuple[PendingUse, int]] = []
    open_paragraphs: list[int] = []
    count = 0
    for event, name, element in walk(part.root):
        if name == "p":
            part.text.add(" ")
            if event == "start":
                count += 1
                open_paragraphs.append(count)
                style = next((value(one, "val") for one in element.iterfind("{*}pPr/{*}pStyle")), "")
                if style in captions:
                    texts[count] = []
            elif open_paragraphs:
                open_paragraphs.pop()
        elif event == "end":
            continue
        elif name == "t":
            part.text.add(element.text or "")
            if open_paragraphs and open_paragraphs[-1] in texts:
                texts[open_paragraphs[-1]].append(element.text or "")
        elif name in ("tab", "br", "cr"):
            part.text.add(" ")
        elif name in ("drawing", "pict", "object"):
            paragraph = open_paragraphs[0] if open_paragraphs else 0
            picture = _word_picture(part, element, name, f"{prefix}paragraph {paragraph}")
            if picture is not None:
                pictures.append((picture, paragraph))
    below = {number + 1 for _, number in pictures}
    for one, number in pictures:
        # A caption above that stands below another picture belongs to that one.
        near = [number + 1, number] if number - 1 in below else [number + 1, number - 1, number]
        caption = next((one_line("".join(texts[place])) for place in near if place in texts), None)
        one.use = replace(one.use, caption=caption or None)


def _word_picture(part: Part, element: Any, name: str, place: str) -> PendingUse | None:
    """Keep the use of a picture or drawing; None for shapes and text boxes."""
    known: dict[str, Any] = {}
    if name != "drawing":  # VML, as older programs wrote it
        shape = next((one.getparent() for one in element.iter("{*}imagedata")), None)
        if shape is None:
            return None
        alt = shape.get("alt")
        return part.record(None, place, part.embedded(element), name=alt, **_link(part, element))
    properties = next(element.iter("{*}docPr"), None)
    # A picture in a text box of the drawing has a drawing of its own.
    pictures = [one for one in element.iter("{*}pic") if next(one.iterancestors("{*}drawing")) is element]
    if not pictures:
        pictures = [one for shape in element.iter("{*}wsp") for one in _picture_fill(part, shape, properties)]
    drawing = "" if pictures else _drawing(element)
    if not (pictures or drawing):
        return None
    inner = [one for picture in pictures for one in picture.iterfind("{*}nvPicPr/{*}cNvPr")]
    described = [one.get("descr") for one in inner if (one.get("descr") or "").strip()]
    if described:  # a group may leave the descriptions to its pictures
        known["name"] = "; ".join(described)
    run = element.getparent()
    language = "" if run is None else next((value(one, "val") for one in run.iterfind("{*}rPr/{*}lang")), "")
    if language:
        known["language"] = language
    known |= _link(part, element) | _size(next(element.iter("{*}extent"), None))
    return part.record(
        properties, place, [s for one in pictures for s in part.embedded(one)], drawing, **known
    )


def _link(part: Part, element: Any) -> dict[str, str]:
    """What a picture alone in a hyperlink is."""
    link = next(element.iterancestors("{*}hyperlink"), None)
    if link is None:
        return {}
    if link not in part.full_links:
        pictures = list(islice(link.iter("{*}drawing", "{*}pict"), 2))
        has_text = any((text.text or "").strip() for text in link.iter("{*}t"))
        part.full_links[link] = has_text or len(pictures) > 1
    return {} if part.full_links[link] else {"only_content_of": "link"}


def read_pptx(archive: Archive, roots: tuple[Root, ...]) -> Iterator[ImageUse | DocumentProblem]:
    """The uses of images on the slides of a presentation, in the order of the slides."""
    main = _main_part(archive, "ppt/presentation.xml")
    relations, folder = archive.relations(main), posixpath.dirname(main)
    ids = [_any(slide, "id") for slide in archive.xml(main).iter("{*}sldId")]
    slides = [_member(folder, relations[one].target) for one in ids if one in relations]
    for number, name in enumerate(slides, 1):
        place = f"slide {number}"
        try:
            part = Part(archive, name, f"{archive.path}#{place}", None, roots)
            _read_slide(part, place)
            yield from part.uses()
        except DataError as error:
            yield DocumentProblem(archive.path, f"{place}: {error}")


def _read_slide(part: Part, place: str) -> None:
    part.language = next((one.get("lang") for one in part.root.iter("{*}rPr") if one.get("lang")), None)
    for event, name, element in walk(part.root):
        if name == "p" and event == "start":
            part.text.add(" ")
        elif event == "start" and name == "t":
            part.text.add(element.text or "")
        elif event == "start" and name in _ON_SLIDES:
            drawing = _drawing(element) if name == "graphicFrame" else ""
            properties = next(element.iterfind(f"{{*}}{_ON_SLIDES[name]}/{{*}}cNvPr"), None)
            pictures = _slide_pictures(part, element, name, properties)
            if not (drawing or pictures):
                continue  # a shape of one colour, a table, or the picture of an object that has its record
            extent = next((one for one in element.iter("{*}ext") if one.get("cx")), None)
            known = _group_name(element, properties) | _size(extent)
            sources = [source for picture in pictures for source in part.embedded(picture)]
            # The shape's name is what PowerPoint's list of all shapes on a slide shows.
            shape = "" if properties is None else one_line(properties.get("name", ""))[:_MOST_NAME]
            where = f"{place}, {shape}" if shape else place
            part.record(properties, where, sources, drawing, **known)


_ON_SLIDES = {"pic": "nvPicPr", "graphicFrame": "nvGraphicFramePr", "sp": "nvSpPr"}
"""Elements of a slide that may show a picture, and the elements in them that hold their texts."""
_MOST_NAME = 60
"""Most characters of a shape's name that a place shows."""


def _slide_pictures(part: Part, element: Any, name: str, properties: Any) -> list[Any]:
    """The elements that hold the pictures of an element on a slide."""
    if name == "sp":
        return _picture_fill(part, element, properties)
    if name == "graphicFrame":  # the picture of an embedded object, which may be in the copy for old programs
        return list(islice(element.iter("{*}pic"), 1))
    return [] if next(element.iterancestors("{*}graphicFrame"), None) is not None else [element]


def _picture_fill(part: Part, shape: Any, properties: Any) -> list[Any]:
    """The picture that fills a shape. Behind a text it is decoration, unless the shape has a description."""
    is_described = properties is not None and bool((properties.get("descr") or "").strip())
    has_text = any((text.text or "").strip() for text in shape.iter("{*}t"))
    if has_text and not is_described:
        return []
    return [fill for fill in shape.iterfind("{*}spPr/{*}blipFill") if part.embedded(fill)]


def _group_name(element: Any, properties: Any) -> dict[str, str]:
    """The description of the group around a picture that has none."""
    if properties is not None and (properties.get("descr") or "").strip():
        return {}
    for group in element.iterancestors("{*}grpSp"):
        for one in group.iterfind("{*}nvGrpSpPr/{*}cNvPr"):
            if (one.get("descr") or "").strip():
                return {"name": one.get("descr")}
    return {}
