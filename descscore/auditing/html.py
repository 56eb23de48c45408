"""Uses of images in HTML: ``img``, image buttons, areas, objects, SVG, ``role="img"``, icons in links."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from descscore.auditing.accessible_names import (
    IMAGE_ROLES,
    UNSEEN,
    Labels,
    Name,
    caption_text,
    exposing_attribute,
    is_decorative,
    is_out_of_reach,
    is_unseen,
    own_name,
    pixels,
    role,
    visible_text,
    written,
)
from descscore.auditing.html_tree import INLINE, Element, Node, is_inert_template, parse
from descscore.auditing.sources import Sources, shown_source
from descscore.auditing.uses import INLINE_SVG, ImageUse, Located, PendingUse, RunningText, one_line
from descscore.errors import is_blank
from descscore.formats import IMAGE_SUFFIXES

AT, CAPTION, BRACKET = "data-descscore-at", "data-descscore-caption", "data-descscore-bracket"
PLOTTED = "data-descscore-plotted"
"""Attributes in HTML made from Markdown: ``line:column`` there, the caption, whether the bracket gives
``alt``, and whether code draws the image. In other pages they mean nothing."""


@dataclass(frozen=True)
class Origin:
    """Where the HTML comes from, and where its images lie."""

    document: str
    sources: Sources
    place: str | None = None
    """As in :class:`descscore.auditing.uses.ImageUse`."""
    page: str = ""
    """As in :class:`descscore.auditing.uses.ImageUse`; by default document and place."""
    language: str | None = None
    """The language of a page that names none."""
    is_made: bool = False
    """Whether the HTML is made from Markdown, with the attributes :data:`AT` and so on."""


@dataclass
class _Control:
    """A link or a button."""

    kind: str
    is_named: bool
    """Whether text, or an attribute, names it whatever its images say; or whether nobody meets it."""
    named_images: int = 0
    """How many of its images have a name."""


@dataclass(frozen=True)
class _Context:
    """What the elements around an element say about it."""

    language: str | None = None
    is_unseen: bool = False
    is_hidden: bool = False
    """Whether assistive technology does not meet it."""
    is_text: bool = True
    """Whether text here is part of the page's visible text."""
    control: _Control | None = None
    caption: str | None = None
    picture: tuple[str, ...] = ()
    """Sources of the ``picture`` around it."""
    map: str = ""
    """Name of the image map around it."""
    in_noscript: bool = False
    in_svg: bool = False
    drawings: int = 0
    """How many drawings and objects are around it."""
    in_image: bool = False
    """Whether an element around it has recorded its image."""


@dataclass
class _Pending(PendingUse):
    context: _Context = _Context()
    is_ornament: bool = False
    """Whether screen readers pass it over. It then counts only if a link holds nothing else."""


@dataclass(frozen=True)
class _Frame:
    """An ``iframe`` that holds a page in its attribute ``srcdoc``."""

    position: tuple[int | None, int | None]
    base: str
    context: _Context
    depth: int
    """Frames around its page, itself included."""


_MOST_FRAMES = 3
"""Most frames inside one another whose pages are read."""


class Reading:
    """A page that is read: its uses of images and its visible text.

    Raises:
        DataError: The page holds too many elements.
    """

    def __init__(self, text: str, origin: Origin, frame: _Frame | None = None) -> None:
        self._origin = origin
        self.text = RunningText()
        """The visible text."""
        self._pending: list[_Pending | Reading] = []
        self._maps: dict[str, str] = {}
        root = parse(text)
        self._labels = Labels(root)
        self._frame = frame
        self._base = frame.base if frame else ""
        self._walk(root, frame.context if frame else _Context())

    def uses(self) -> Iterator[ImageUse]:
        """The uses in the order of the page. An image is looked for when its use is taken."""
        # Pages that load images late have a copy of each for readers without script.
        with_script = {
            source
            for one in self._pending
            if isinstance(one, _Pending) and not one.context.in_noscript
            for source in (one.use.source, *one.use.candidates)
            if source
        }
        for one in self._pending:
            if isinstance(one, Reading):
                yield from one.uses()
                continue
            source, context, control = one.use.source, one.context, _only_content(one)
            if (one.is_ornament and control is None) or (context.in_noscript and source in with_script):
                continue
            if one.use.element == "area":
                if context.map not in self._maps:
                    continue  # no image shows this area
                source = self._maps[context.map]
            use = one.finished(one.located or self._origin.sources.locate(source, self._base), self.text)
            only_content_of = use.only_content_of or control
            yield replace(use, source=shown_source(source), only_content_of=only_content_of)

    def _walk(self, root: Element, outermost: _Context) -> None:
        stack: list[tuple[Iterator[Node], _Context, str]] = [(iter(root.children), outermost, "span")]
        while stack:
            nodes, context, name = stack[-1]
            node = next(nodes, None)
            if node is None:
                stack.pop()
                self._add_space(name)
            elif isinstance(node, str):
                self._add_text(node, context)
            elif node.name not in ("script", "style") and not is_inert_template(node):
                self._add_space(node.name)
                stack.append((iter(node.children), self._enter(node, context), node.name))

    def _add_space(self, name: str) -> None:
        if name not in INLINE:
            self.text.add(" ")

    def _add_text(self, text: str, context: _Context) -> None:
        if context.is_text and not context.is_unseen:
            self.text.add(text)
            if context.control and not context.is_hidden and not is_blank(text):
                context.control.is_named = True

    def _enter(self, element: Element, outer: _Context) -> _Context:
        """Record an element that is an image; give the context of what it holds."""
        name, unseen = element.name, outer.is_unseen or is_unseen(element)
        language = element.get("lang") if element.get("lang") is not None else element.get("xml:lang")
        hidden = unseen or outer.is_hidden or is_out_of_reach(element)
        context = replace(
            outer,
            is_unseen=unseen,
            is_hidden=hidden,
            language=outer.language if language is None else language.strip() or None,
            is_text=outer.is_text and (name not in UNSEEN or name == "template"),
            control=self._control(element, hidden) or outer.control,
            in_noscript=outer.in_noscript or name == "noscript",
            in_svg=outer.in_svg or name == "svg",
        )
        if name == "base" and not self._base:
            self._base = element.get("href") or ""
        elif name == "figure":
            context = replace(context, caption=_figure_caption(element) or outer.caption)
        elif name == "map":
            context = replace(context, map=element.get("name") or element.get("id") or "")
        elif name == "picture":
            sources = [child.get("srcset") or "" for child in element.elements() if child.name == "source"]
            context = replace(context, picture=tuple(url for s in sources for url in srcset_urls(s)))
        elif name == "iframe" and element.get("srcdoc"):
            self._read_frame(element, context)
        kind = _kind(element, outer)
        if kind is None and outer.control and not hidden:
            outer.control.is_named |= self._labels.has_name(element) or self._has_drawn_name(element)
        if kind is not None:
            sources = _sources(element, kind, context)
            recorded = self._record(element, kind, sources, context)
            if recorded and kind in ("role", "svg") and role(element) in ("img", "image"):
                # What such an element holds is part of the one picture.
                context = replace(context, is_hidden=True, is_text=False, control=None)
            takes = kind == "object" or (bool(sources) and kind in ("role", "svg"))
            drawings = outer.drawings + (kind in ("svg", "role", "object", "embed"))
            context = replace(context, in_image=outer.in_image or takes, drawings=drawings)
        return context

    def _has_drawn_name(self, element: Element) -> bool:
        """Whether an SVG's ``use`` shows a drawing of this page that has a title."""
        href = _href(element) if element.name == "use" else ""
        drawing = self._labels.element(href[1:]) if href.startswith("#") else None
        return drawing is not None and bool(own_name(drawing).text)

    def _read_frame(self, element: Element, context: _Context) -> None:
        """Read the page that an attribute of a frame holds. Its images stand at the place of the frame."""
        depth = self._frame.depth + 1 if self._frame else 1
        if depth <= _MOST_FRAMES:
            around = _Context(context.language, context.is_unseen, context.is_hidden)
            frame = _Frame(self._position(element), self._base, around, depth)
            self._pending.append(Reading(element.get("srcdoc") or "", self._origin, frame))

    def _control(self, element: Element, is_hidden: bool) -> _Control | None:
        kind = "link" if role(element) == "link" else "button" if role(element) in _BUTTONS else None
        if kind is None and element.name == "a" and _href(element):
            kind = "link"
        if kind is None and element.name in ("button", "summary"):
            kind = "button"
        if kind is None or element.name in ("img", "input", "area"):
            return None
        return _Control(kind, is_hidden or self._labels.has_name(element))

    def _record(self, element: Element, kind: str, sources: list[str], context: _Context) -> bool:
        """Keep the use of an element that is an image, unless it is an ornament; gives whether it did."""
        name = self._name(element, kind)
        plotted = self._origin.is_made and element.get(PLOTTED) is not None
        located = PLOT if plotted else _drawn(element, kind, sources)
        control = None if context.is_unseen else context.control
        ornament = _is_ornament(element, kind, name, located)
        if ornament and (control is None or element.name == "image"):
            return False
        if ornament and not context.is_hidden and any(_named(element, "text", "title")):
            return False
        use = self._use(element, "output" if plotted else kind, name, sources, context)
        self._pending.append(_Pending(use, self.text.length, located, context, ornament))
        if control and name.text and not context.is_hidden and not context.in_noscript:
            control.named_images += 1
        if element.get("usemap"):
            self._maps.setdefault((element.get("usemap") or "").lstrip("#"), use.source)
        if self._origin.is_made and element.get(CAPTION):
            self.text.add(f" {element.get(CAPTION)} ")
        return True

    def _name(self, element: Element, kind: str) -> Name:
        """The accessible name of an image, where its own attributes give none by what it holds."""
        name = self._labels.name(element)
        if name.text is None and kind == "svg":
            return next((own_name(image) for image in _svg_images(element)), name)
        if not name.text and kind == "object" and (text := visible_text(element)):
            return Name(text, "content")
        is_bracket = self._origin.is_made and name.source == "alt" and element.get(BRACKET) is not None
        return Name(name.text, "bracket") if is_bracket else name

    def _use(
        self, element: Element, kind: str, name: Name, sources: list[str], context: _Context
    ) -> ImageUse:
        origin, decorative = self._origin, is_decorative(element)
        caption = one_line(element.get(CAPTION) or "") if origin.is_made else ""
        line, column = self._position(element)
        return ImageUse(
            document=origin.document,
            line=line,
            column=column,
            place=origin.place,
            source=sources[0] if sources else "",
            name=name.text,
            name_from=name.source,
            alt=element.get("alt") if element.name in ("img", "input", "area") else None,
            hidden=context.is_hidden,
            decorative=decorative,
            caption=caption or context.caption,
            language=context.language or origin.language,
            only_content_of=None if context.is_hidden else _own_control(element, kind),
            width=pixels(element, "width"),
            height=pixels(element, "height"),
            page=origin.page or "#".join(filter(None, (origin.document, origin.place))),
            candidates=tuple(dict.fromkeys(shown_source(other) for other in sources[1:])),
            element=kind,
            exposed_by=exposing_attribute(element) if decorative and not context.is_hidden else None,
        )

    def _position(self, element: Element) -> tuple[int | None, int | None]:
        if self._frame:
            return self._frame.position
        if not self._origin.is_made:
            return element.line, element.column
        at = re.fullmatch(r"(\d{1,9}):(\d{1,9})", element.get(AT) or "")
        return (int(at[1]), int(at[2])) if at else (None, None)


_MOST_DRAWINGS = 20
"""Most drawings inside one another. What lies deeper is part of those around it."""
_BUTTONS = ("button", "menuitem", "menuitemcheckbox", "menuitemradio", "option", "switch", "tab", "treeitem")
"""Roles of what a reader presses or chooses, which its content names."""


def _kind(element: Element, outer: _Context) -> str | None:
    """What kind of image an element is; None for others, and for a part of another's image."""
    name, own_role = element.name, role(element)
    if name == "img":
        return "img"
    if outer.drawings > _MOST_DRAWINGS and name not in ("input", "area"):
        return None
    if name == "image" and outer.in_svg:
        return None if outer.in_image else "svg"
    if name == "svg" or (outer.in_svg and own_role in IMAGE_ROLES):
        return "svg"
    if name == "input" and (element.get("type") or "").strip().lower() == "image":
        return "input"
    if name == "area" and element.get("href") is not None:
        return "area"
    if name in ("object", "embed") and _is_picture(element):
        return None if outer.in_image or any(_named(element, "img")) else name
    if own_role in ("img", "image"):
        return "role"
    is_icon = outer.control and name in ("i", "span") and own_name(element).text is None
    return "icon" if is_icon and not element.children and _is_icon(element) else None


def _is_icon(element: Element) -> bool:
    return any(map(_ICON.fullmatch, (element.get("class") or "").lower().split()))


_ICON = re.compile(
    r"fa[bdlrs]?|(?:fa|bi|glyphicon|mdi|ph|ri|ti|la|dashicons)-[\w-]+|(?:[\w-]+-)?icons?(?:-[\w-]+)?"
)
"""Classes by which the usual fonts of icons, such as Font Awesome, draw an empty element."""


def _is_ornament(element: Element, kind: str, name: Name, located: Located | None) -> bool:
    """Whether an element has neither role nor name, so that it is no image to assistive technology."""
    is_exposed = is_decorative(element) and exposing_attribute(element) is not None
    drawn = kind == "svg" and located is not None and role(element) not in IMAGE_ROLES and not is_exposed
    return name.text is None and (drawn or kind == "icon")


def _named(element: Element, *names: str) -> Iterator[Element]:
    """The elements of these names among the first nodes below an element."""
    nodes = islice(element.descendants(), _MOST_NODES)
    return (node for node in nodes if isinstance(node, Element) and node.name in names)


def _svg_images(element: Element) -> list[Element]:
    return list(islice(_named(element, "image"), 2)) if element.name == "svg" else []


_MOST_NODES = 5_000
"""Most nodes that are searched for an image inside one that is drawn."""


def _is_picture(element: Element) -> bool:
    kind = (element.get("type") or "").strip().lower()
    path = re.split("[?#]", element.get("data") or element.get("src") or "")[0].lower()
    suffix = posixpath.splitext(path)[1]
    return kind.startswith("image/") or path.startswith("data:image/") or suffix in (*IMAGE_SUFFIXES, ".svg")


_LAZY = ("data-src", "data-original", "data-lazy-src")
"""Attributes from which scripts take the source of an image when a reader comes near it."""


def _sources(element: Element, kind: str, context: _Context) -> list[str]:
    """The sources of an image as written, the first of them its own."""
    if kind == "svg":
        # An SVG around one image file shows that file, as covers of books do.
        images = [element] if element.name == "image" else _svg_images(element)
        return [_href(images[0])] if len(images) == 1 and not context.in_image else []
    if kind == "icon":
        return []
    if kind == "role":
        style = re.search(
            r"(?i)background(?:-image)?\s{0,9}:[^;]{0,500}?url\(\s*[\"']?([^\"')]*)",
            element.get("style") or "",
        )
        inner = None if context.in_image else next(_named(element, "img"), None)
        own = style[1] if style else (inner.get("src") if inner else None)
        return [own] if own else []
    own = written(element, "data" if kind == "object" else "src")
    lazy = next((element.get(name) for name in _LAZY if element.get(name)), None)
    others = [*srcset_urls(element.get("srcset") or element.get("data-srcset") or ""), *context.picture]
    if lazy:
        if own and own.lstrip()[:5].lower() != "data:":  # it may only hold the place, such as blank.gif
            others.insert(0, own)
        own = lazy
    sources = [own or "", *(other for other in others if other != own)]
    return sources[1:] if not own and others else sources


def _href(element: Element) -> str:
    return element.get("href") or element.get("xlink:href") or ""


def _drawn(element: Element, kind: str, sources: list[str]) -> Located | None:
    """What is reported of an image that is no file; None where there is a source to look for."""
    if kind not in _DRAWN or sources:
        return None
    return Located(None, INLINE_SVG, f"the element {element.name} {_DRAWN[kind]}, which is not rendered")


PLOT = Located(None, INLINE_SVG, "the cell's code draws it when the page is made, and no code is run")
_DRAWN = {
    "svg": "is drawn by SVG in the page",
    "role": 'has role="img" and names no file',
    "icon": "is drawn by a font of icons",
}


def _figure_caption(figure: Element) -> str | None:
    # Figures in a gallery have captions of their own.
    wrapped = [figure, *(child for child in figure.elements() if child.name != "figure")]
    caption = next(filter(None, (element.child("figcaption") for element in wrapped)), None)
    return (caption_text(caption) or None) if caption is not None else None


def _own_control(element: Element, kind: str) -> str | None:
    """What an image is that is itself a control."""
    if kind == "input":
        return "button"
    if kind == "area":
        return "link"
    return role(element) if kind == "img" and role(element) in ("link", "button") else None


def _only_content(one: _Pending) -> str | None:
    """The kind of control that only this image can name; None if a text or another image names it."""
    control = one.context.control
    if control is None or control.is_named or one.context.is_unseen:
        return None
    others = control.named_images - bool(one.use.name and not one.use.hidden)
    return None if others else control.kind


def srcset_urls(srcset: str) -> list[str]:
    """The addresses in a ``srcset``, without their widths and densities."""
    urls: list[str] = []
    place = 0
    while len(urls) < _MOST_CANDIDATES:
        found = _CANDIDATE.match(srcset, place)
        if found is None:
            break
        urls.append(found[1].rstrip(","))
        # An address that ends with a comma has neither.
        end = None if found[1].endswith(",") else _DESCRIPTORS.match(srcset, found.end())
        place = end.end() if end else found.end()
    return urls


_MOST_CANDIDATES = 100
_CANDIDATE = re.compile(r"[\s,]*([^\s,]\S*)")
_DESCRIPTORS = re.compile(r"(?:[^,(]+|\([^)]*\))*")
