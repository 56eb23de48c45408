"""Accessible names of images in HTML, and what hides elements: the parts of HTML-AAM that an audit needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from descscore.auditing.html_tree import INLINE, Element, name_set
from descscore.auditing.uses import one_line
from descscore.errors import is_blank

_MOST_NODES = 5_000
"""Most nodes that are read of one label or caption."""
_MOST_LABELS, _MOST_CHARACTERS = 20, 2_000
"""Most elements that ``aria-labelledby`` may name, and most characters of each that are read."""

UNSEEN = name_set(
    "audio canvas datalist head iframe noembed noframes noscript object script select style svg template "
    "textarea title video"
)
"""Elements whose text is no part of the page's visible text, or only where something is missing."""

IMAGE_ROLES = ("img", "image", "graphics-document", "graphics-symbol")
"""Roles that make an element an image."""


class Name(NamedTuple):
    """An accessible name, and the attribute or element that gives it; both None without a name."""

    text: str | None = None
    source: str | None = None


def role(element: Element) -> str:
    """The first role of an element, in lower case; '' without one."""
    return next(iter((element.get("role") or "").lower().split()), "")


def written(element: Element, name: str) -> str | None:
    """An attribute as written, or as a template where Vue, Angular or Thymeleaf fills it in."""
    forms = (f":{name}", f"v-bind:{name}", f"[{name}]", f"[attr.{name}]", f"th:{name}")
    if element.get(name) is None and (bound := next(filter(None, map(element.get, forms)), None)):
        return f"{{{{ {re.sub('[{}]', '', bound)} }}}}"
    return element.get(name)


def visible_text(element: Element) -> str:
    """The text below an element, without what stands in for images."""
    return one_line("".join(_pieces(element)))


def caption_text(element: Element) -> str:
    """The text of a caption, without asides: they often describe the image for those who cannot see it."""
    return one_line("".join(_pieces(element, enters=lambda below: _is_seen(below) and below.name != "aside")))


def _is_seen(element: Element) -> bool:
    return element.name not in UNSEEN and not is_unseen(element)


def _pieces(
    element: Element, with_images: bool = False, enters: Callable[[Element], bool] = _is_seen
) -> Iterator[str]:
    for node in islice(element.descendants(enters), _MOST_NODES):
        if isinstance(node, str):
            yield node
            continue
        if node.name not in INLINE:
            yield " "
        if with_images and node.name in ("img", "input", "area", "svg"):
            yield f" {own_name(node).text or ''} "


def own_name(element: Element) -> Name:
    """The name that an element has by its own attributes, or by the title of an SVG."""
    label = one_line(element.get("aria-label") or "")
    if label:
        return Name(label, "aria-label")
    alt, title = written(element, "alt"), element.get("title")
    has_alt = element.name in ("img", "input", "area")
    if has_alt and alt is not None and (alt.strip() or (element.name == "img" and not alt) or not title):
        # An empty text marks an image as decorative. One of spaces lets the title speak.
        return Name(one_line(alt), "alt")
    heading = element.child("title")
    if heading is not None and not has_alt:
        text = visible_text(heading)
        if text or title is None:
            return Name(text, "svg title")
    if title is not None:
        return Name(one_line(title), "title")
    return Name("", "aria-label") if element.get("aria-label") is not None else Name()


class Labels:
    """Finds the elements that ``aria-labelledby`` names. The page is searched once, when it is needed."""

    def __init__(self, root: Element) -> None:
        self._root = root
        self._texts: dict[str, str] = {}

    def name(self, element: Element) -> Name:
        """The accessible name: by ``aria-labelledby``, ``aria-label``, ``alt``, then ``title``."""
        ids = (element.get("aria-labelledby") or "").split()
        parts = [self._text_of(one) for one in ids[:_MOST_LABELS]]
        text = one_line(" ".join(parts))
        return Name(text, "aria-labelledby") if text else own_name(element)

    def has_name(self, element: Element) -> bool:
        """Whether a link or button is named by its own attributes, whatever it holds."""
        named = self.name(element)
        is_named = named.text is not None and not is_blank(named.text)
        return is_named and named.source in ("aria-labelledby", "aria-label", "title")

    def element(self, name: str) -> Element | None:
        """The first element of the page with this ``id``."""
        return self._by_id.get(name)

    @cached_property
    def _by_id(self) -> dict[str, Element]:
        found: dict[str, Element] = {}
        for node in self._root.descendants():
            if isinstance(node, Element) and node.get("id"):
                found.setdefault(node.attributes["id"], node)
        return found

    def _text_of(self, name: str) -> str:
        if name not in self._texts:
            element = self.element(name)
            if element is None:
                text = ""
            elif element.name in ("img", "input", "area", "svg") or element.get("aria-label"):
                text = own_name(element).text or ""
            else:
                text = "".join(_pieces(element, with_images=True))
            self._texts[name] = text[:_MOST_CHARACTERS]
        return self._texts[name]


def is_unseen(element: Element) -> bool:
    """Whether nobody meets the element: ``hidden``, ``display: none`` or ``visibility: hidden``."""
    hidden = element.get("hidden")
    style = element.get("style") or ""
    return (hidden is not None and hidden.lower() != "until-found") or bool(_UNSEEN_STYLE.search(style))


def is_out_of_reach(element: Element) -> bool:
    """Whether assistive technology does not meet an element that can be seen: ``aria-hidden``, ``inert``."""
    return (element.get("aria-hidden") or "").strip().lower() == "true" or element.get("inert") is not None


_UNSEEN_STYLE = re.compile(r"(?i)(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse))\b")

_GLOBAL = (
    *("aria-atomic", "aria-busy", "aria-controls", "aria-current", "aria-describedby", "aria-details"),
    *("aria-dropeffect", "aria-flowto", "aria-grabbed", "aria-keyshortcuts", "aria-label", "aria-labelledby"),
    *("aria-live", "aria-owns", "aria-relevant", "aria-roledescription"),
)
"""Attributes that expose an element although its role is ``none``."""


def is_decorative(element: Element) -> bool:
    """Whether the element's author marks it as decorative."""
    return role(element) in ("none", "presentation") or (element.name == "img" and element.get("alt") == "")


def exposing_attribute(element: Element) -> str | None:
    """The attribute that exposes an element that is marked as decorative; None without one."""
    if re.fullmatch(r"\s*[+-]?\d+\s*", element.get("tabindex") or ""):
        return "tabindex"
    return next((name for name in _GLOBAL if (element.get(name) or "").strip()), None)


def pixels(element: Element, side: str) -> int | None:
    """The declared width or height of an element in CSS pixels: by ``style``, else by its attribute."""
    style = re.search(rf"(?i)(?:^|;)\s*{side}\s*:\s*(\d{{1,6}})(?:\.\d*)?px", element.get("style") or "")
    written = style or re.match(r"\s*(\d{1,6})(?:\.\d*)?\s*(?:px)?\s*$", element.get(side) or "")
    return int(written[1]) if written else None
